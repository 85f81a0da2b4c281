"""A study: all runs of one call, from files to results. The one place that puts the rooms together."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax import gathering, pirn
from pirn_jax.data import sample
from pirn_jax.data.sample import Splits
from pirn_jax.gathering import Gathered, Stage
from pirn_jax.processes import Team
from pirn_jax.protocol import episodes, parallel, ranking, repeats, scoring, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.evaluation import Evaluation
from pirn_jax.report import archive, record
from pirn_jax.spec import Spec
from pirn_jax.stopwatch import Stopwatch

METHODS = {"pirn": pirn.pirn}
_OF_GROUPS = ("compile_s", "train_s", "score_s", "metrics_s")
_MANY_PIXELS = 20_000_000
"""Above this many pixels the metrics of one run at a time are enough for the memory."""


class Group(NamedTuple):
    """Runs that train in one call of the compiled program, and what came of them.

    Attributes:
      runs: the runs.
      distances: a run's patch distances of its category's test parts, (parts, 2, n).
      evaluations: one dictionary a run, see `evaluation.Evaluation.as_json`.
      timings: seconds by name, of the process that trained them.
    """

    runs: list[Run]
    distances: list[np.ndarray]
    evaluations: list[dict[str, Any]]
    timings: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all groups of a study share.

    Attributes:
      spec: what to do.
      settings: what `results.json` says of the study.
      gathered: the parts and their features.
      output: directory that finished groups are kept in.
      stage: how to show progress.
      watch: where the time goes.
      team: the processes that share the study.
    """

    spec: Spec
    settings: dict[str, Any]
    gathered: Gathered
    output: pathlib.Path
    stage: Stage
    watch: Stopwatch
    team: Team


def run(
    spec: Spec, splits: dict[str, Splits], output: pathlib.Path, stage: Stage, team: Team | None = None
) -> tuple[dict[str, Any], list[Group]]:
    """Runs or continues a study.

    Args:
      spec: what to do.
      splits: the parts of each category.
      output: directory that finished groups are kept in.
      stage: how to show progress.
      team: the processes that share the study; by default this one is alone.

    Returns:
      The content of `results.json`, and the groups.

    Raises:
      InputError: if a part cannot be used, there are too few, or the directory belongs to another study,
        or another process of the team has died.
      FloatingPointError: if a loss is not finite.
    """
    return next(run_all({output: spec}, splits, stage, team))


def run_all(
    specs: Mapping[pathlib.Path, Spec], splits: dict[str, Splits], stage: Stage, team: Team | None = None
) -> Iterator[tuple[dict[str, Any], list[Group]]]:
    """Runs or continues several studies of the same parts, which share features and compiled programs.

    Args:
      specs: by directory; they differ in config and recipe at most.
      splits: the parts of each category.
      stage: how to show progress.
      team: see `run`.

    Yields:
      What `run` returns, study by study.

    Raises:
      ValueError: if specs differ in more.
      InputError: see `run`; before anything is computed.
      FloatingPointError: if a loss is not finite.
    """
    first = next(iter(specs.values()))
    drawn = gathering.draw(first, splits, stage)
    settings = {output: drawn.describe(spec) for output, spec in specs.items()}
    free = dataclasses.asdict(first.config) | dataclasses.asdict(first.recipe)
    for output, described in settings.items():
        other = [name for name, value in drawn.describe(first).items() if name not in free and described[name] != value]
        if other:
            raise ValueError(f"studies that run together differ in {', '.join(other)}")
        archive.check(output, described)
    gathered = gathering.gather(list(specs.values()), drawn, stage)
    for output, spec in specs.items():
        with Stopwatch() as watch:
            mine = gathered.stored_in(spec.config.precision)
            work = _Work(spec, settings[output], mine, output, stage, watch, team or Team())
            method = METHODS[spec.method](spec.config)
            # Built once: numbers of shots whose calls have one shape share what XLA compiles.
            programs = training.compile_programs(method), scoring.compile_program(method)
            groups = _run_groups(work, programs)
        yield _results(work, groups), groups


class _Part(NamedTuple):
    """Runs of one number of shots that make a group.

    Attributes:
      name: of the group.
      runs: the runs.
      size: of all groups with this number of shots; a short one is filled up to it.
      title: what progress calls the group.
    """

    name: str
    runs: list[Run]
    size: int
    title: str


def _run_groups(work: _Work, programs: tuple[training.Programs, Callable]) -> list[Group]:
    """All groups of a study: finished ones are loaded, each process trains its turns and waits for the others'."""
    parts = [part for shots in work.spec.shots for part in _cut(work, programs[0], shots)]
    work.team.plan = ", ".join(dict.fromkeys(f"{part.size} of {part.runs[0].shots} shots" for part in parts))
    groups = {
        i: _load_group(work, part) or _run_group(work, programs, part)
        for i, part in enumerate(parts)
        if work.team.takes(i)
    }
    others = [i for i in range(len(parts)) if i not in groups]
    if others:
        with work.stage("groups of other processes", len(others)) as advance:
            for i in others:
                part = parts[i]
                groups[i] = work.team.wait(i, f"group {part.name}", lambda part=part: _load_group(work, part))
                advance(1)
    return [groups[i] for i in range(len(parts))]


def _cut(work: _Work, programs: training.Programs, shots: int) -> list[_Part]:
    runs = [run for run in work.gathered.drawn.episodes if run.shots == shots]
    train, test, recipe = work.gathered.train, work.gathered.test, work.spec.recipe
    size = parallel.runs_at_once(
        len(runs),
        lambda some: training.bytes_needed(programs, some, train, shots, recipe),
        taken=test.nbytes,
        processes=-(-work.team.count // len(work.spec.shots)),
    )
    return [
        _Part(
            f"{shots}-{start // size:03d}",
            some,
            size,
            f"{shots} shots, runs {start + 1}-{start + len(some)} of {len(runs)}",
        )
        for start in range(0, len(runs), size)
        for some in [runs[start : start + size]]
    ]


def _load_group(work: _Work, part: _Part) -> Group | None:
    """The group if it is finished."""
    stored = archive.load_group(work.output, part.name, work.settings)
    if stored is None or stored[1]["runs"] != [list(run) for run in part.runs]:
        return None
    distances = _without_filling(work, part.runs, stored[0]["distances"])
    return Group(part.runs, distances, stored[1]["evaluations"], stored[1]["timings"])


def _run_group(work: _Work, programs: tuple[training.Programs, Callable], part: _Part) -> Group:
    """Trains, scores, measures and saves the runs of a group."""
    before = dict(work.watch.seconds)
    params, history, scored = _train_and_score(work, programs, part.runs, part.size, part.title)
    distances = _without_filling(work, part.runs, scored)
    with work.stage(f"metrics {part.title}", len(part.runs)) as advance, work.watch.stage("metrics_s"):
        measured = _measure(work, part.runs, distances, advance)
    timings = {key: value - before.get(key, 0.0) for key, value in work.watch.seconds.items()}
    values = [found["all"]["values"] for found in measured]
    facts = {"runs": part.runs, "metrics": values, "evaluations": measured, "timings": timings}
    archive.save_group(work.output, part.name, work.settings, params, {"distances": scored, **history}, facts)
    return Group(part.runs, distances, measured, timings)


def _without_filling(work: _Work, runs: list[Run], distances: np.ndarray) -> list[np.ndarray]:
    """Patch distances of the parts that the categories of the runs have."""
    lengths = [len(work.gathered.drawn.splits[run.category].test) for run in runs]
    return [part[:length] for part, length in zip(distances, lengths, strict=True)]


def _train_and_score(
    work: _Work, programs: tuple[training.Programs, Callable], runs: list[Run], size: int, title: str
) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Parameters, metrics of the training and patch distances of a group of runs."""
    # A short group repeats its last run, so that all groups have one shape and share one program.
    padded = (runs + [runs[-1]] * size)[:size]
    gathered, recipe = work.gathered, work.spec.recipe
    drawn = gathered.drawn
    category = np.array([list(drawn.splits).index(run.category) for run in padded])
    chosen = np.array([[gathered.position[run.category][int(i)] for i in drawn.episodes[run]] for run in padded])
    steps = len(episodes.batches(runs[0], recipe.epochs, recipe.batch_size))
    with work.stage(f"training {title}", steps) as advance, work.watch.stage("train_s"):
        params, history = training.train(programs[0], padded, gathered.train, category, chosen, recipe, advance)
    with work.stage(f"scoring {title}", gathered.test.shape[1]) as advance, work.watch.stage("score_s"):
        distances = scoring.score(programs[1], params, gathered.test, category, advance)
    kept = slice(len(runs))
    history = {f"train_{name}": values[kept] for name, values in history.items()}
    return jax.tree.map(lambda x: np.asarray(x[kept]), params), history, distances[kept]


def _measure(
    work: _Work, runs: list[Run], distances: list[np.ndarray], advance: Callable[..., None]
) -> list[dict[str, Any]]:
    """Evaluations of runs, one category at a time: the pixels of a data set are many."""
    measured = {}
    for category in dict.fromkeys(run.category for run in runs):
        records = work.gathered.drawn.splits[category].test
        sizes = [record.source.size() for record in records]
        masks = [sample.load_gt(record) for record in records]
        truth = repeats.prepare([record.defect for record in records], masks, sizes, work.spec.metrics)

        def measure(some: list[int], sizes=sizes, truth=truth) -> list[Evaluation]:
            maps = [map(work.spec.maps.fused, distances[i], sizes) for i in some]
            found = repeats.evaluate(np.stack([truth.flatten(of_run) for of_run in maps]), truth)
            advance(len(some))
            return found

        mine = [i for i, run in enumerate(runs) if run.category == category]
        size = ranking.runs_at_once(truth.pixels)
        together = [mine[start : start + size] for start in range(0, len(mine), size)]
        with ThreadPoolExecutor(2 if truth.pixels < _MANY_PIXELS else 1) as pool:
            found = [of_run for some in pool.map(measure, together) for of_run in some]
        measured |= dict(zip(mine, found, strict=True))
    return [measured[i].as_json() for i in range(len(runs))]


def _results(work: _Work, groups: list[Group]) -> dict[str, Any]:
    """The content of `results.json`."""
    spec, drawn = work.spec, work.gathered.drawn
    measured = {run: found for group in groups for run, found in zip(group.runs, group.evaluations, strict=True)}

    def per_category(value: Callable[[list[Run]], Any]) -> dict[str, dict[str, Any]]:
        return {
            str(shots): {c: value([r for r in measured if (r.category, r.shots) == (c, shots)]) for c in drawn.splits}
            for shots in spec.shots
        }

    def table(select: Callable[[list[record.Measured]], Any]) -> dict[str, dict[str, Any]]:
        return per_category(lambda runs: select([measured[run] for run in runs]))

    headline = table(record.headline)
    ids = {category: [record.id for record in split.train] for category, split in drawn.splits.items()}
    return {
        "schema": 1,
        "dataset": spec.dataset,
        "method": spec.method,
        "encoder": spec.encoder.name,
        "settings": work.settings,
        "results": headline,
        "more_results": table(record.more),
        "by_defect": table(record.by_defect),
        "by_size": table(record.by_size),
        "undefined": record.undefined({run.category: found for run, found in measured.items()}),
        "mean": {shots: record.means(values) for shots, values in headline.items()},
        "episodes": per_category(lambda runs: [[ids[run.category][i] for i in drawn.episodes[run]] for run in runs]),
        "timings": _timings(work.gathered.seconds, groups),
        "versions": record.versions(),
        "notes": [note for note in (spec.encoder.note, *work.gathered.notes) if note],
    }


def _timings(gathering: dict[str, float], groups: list[Group]) -> dict[str, float]:
    """Seconds by name; what groups took counts wherever they were trained, the rest is this process's."""
    seconds = {name: gathering.get(name, 0.0) for name in ("normals_s", "features_s")}
    seconds |= {name: sum(group.timings.get(name, 0.0) for group in groups) for name in _OF_GROUPS}
    return {name: round(value, 3) for name, value in {**seconds, "total_s": sum(seconds.values())}.items()}
