"""Groups of runs: each is trained, scored and measured in one go, and is saved when it is finished."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax import threads
from pirn_jax.data import sample
from pirn_jax.gathering import Gathered, Stage
from pirn_jax.method import Method
from pirn_jax.processes import Team
from pirn_jax.protocol import episodes, parallel, ranking, repeats, scoring, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.evaluation import Evaluation
from pirn_jax.report import archive
from pirn_jax.spec import Spec
from pirn_jax.stopwatch import Stopwatch

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
class Work:
    """What all groups of a study share.

    Attributes:
      spec: what to do.
      method: the method of its name, with its config.
      settings: what `results.json` says of the study.
      gathered: the parts and their features.
      output: directory that finished groups are kept in.
      stage: how to show progress.
      watch: where the time goes.
      team: the processes that share the study.
    """

    spec: Spec
    method: Method
    settings: dict[str, Any]
    gathered: Gathered
    output: pathlib.Path
    stage: Stage
    watch: Stopwatch
    team: Team


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


def run_all(work: Work) -> list[Group]:
    """All groups of a study: finished ones are loaded, each process trains its turns and waits for the others'.

    Raises:
      InputError: if another process has died, or a group cannot be saved.
      FloatingPointError: if a loss is not finite.
    """
    # Built once: numbers of shots whose calls have one shape share what XLA compiles.
    programs = training.compile_programs(work.method), scoring.compile_program(work.method)
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


def _cut(work: Work, programs: training.Programs, shots: int) -> list[_Part]:
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


def _load_group(work: Work, part: _Part) -> Group | None:
    """The group if it is finished."""
    stored = archive.load_group(work.output, part.name, work.settings)
    if stored is None or stored[1]["runs"] != [list(run) for run in part.runs]:
        return None
    distances = _without_filling(work, part.runs, stored[0]["distances"])
    return Group(part.runs, distances, stored[1]["evaluations"], stored[1]["timings"])


def _run_group(work: Work, programs: tuple[training.Programs, Callable], part: _Part) -> Group:
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


def _without_filling(work: Work, runs: list[Run], distances: np.ndarray) -> list[np.ndarray]:
    """Patch distances of the parts that the categories of the runs have."""
    lengths = [len(work.gathered.drawn.splits[run.category].test) for run in runs]
    return [part[:length] for part, length in zip(distances, lengths, strict=True)]


def _train_and_score(
    work: Work, programs: tuple[training.Programs, Callable], runs: list[Run], size: int, title: str
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
    work: Work, runs: list[Run], distances: list[np.ndarray], advance: Callable[..., None]
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
        found = threads.each(measure, together, at_once=2 if truth.pixels < _MANY_PIXELS else 1)
        found = [of_run for some in found for of_run in some]
        measured |= dict(zip(mine, found, strict=True))
    return [measured[i].as_json() for i in range(len(runs))]
