"""A study: all runs of one call, from files to results. The one place that puts the rooms together."""

import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax import cache, features, inputs, pirn
from pirn_jax.data import sample
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.protocol import episodes, metrics, parallel, scoring, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.report import archive, record
from pirn_jax.spec import Spec, describe
from pirn_jax.stopwatch import Stopwatch

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""`with stage(title, total) as advance: advance(count, text)`: how progress is shown."""

METHODS = {"pirn": pirn.pirn}
_OF_GROUPS = ("compile_s", "train_s", "score_s", "metrics_s")
_MANY_PIXELS = 20_000_000
"""Above this many pixels the metrics of one run at a time are enough for the memory."""


class Group(NamedTuple):
    """Runs that train in one call of the compiled program, and what came of them.

    Attributes:
      runs: the runs.
      distances: a run's patch distances of its category's test parts, (parts, 2, n).
      metrics: one dictionary a run.
      timings: seconds by name, of the process that trained them.
    """

    runs: list[Run]
    distances: list[np.ndarray]
    metrics: list[dict[str, float | None]]
    timings: dict[str, float]


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all groups of a study share.

    Attributes:
      spec: what to do.
      splits: the parts of each category.
      settings: what `results.json` says of the study.
      drawn: per run, its episode as indices into the train split.
      train: (categories, parts, 2, n, c) features of the good parts that any run draws, filled up with zeros.
      position: per category, from index in the train split to index in `train`.
      test: (categories, parts, 2, n, c) features of the test parts, filled up with zeros.
      notes: what the user should know of the parts.
      undefined: by category and kind of metric, why it is undefined.
      stage: how to show progress.
      watch: where the time goes.
    """

    spec: Spec
    splits: dict[str, Splits]
    settings: dict[str, Any]
    drawn: dict[Run, np.ndarray]
    train: jax.Array
    position: dict[str, dict[int, int]]
    test: jax.Array
    notes: list[str]
    undefined: dict[str, dict[str, str]]
    stage: Stage
    watch: Stopwatch


def run(
    spec: Spec, splits: dict[str, Splits], output: pathlib.Path, stage: Stage
) -> tuple[dict[str, Any], list[Group]]:
    """Runs or continues a study.

    Args:
      spec: what to do.
      splits: the parts of each category.
      output: directory that finished groups are kept in.
      stage: how to show progress.

    Returns:
      The content of `results.json`, and the groups.

    Raises:
      InputError: if a part cannot be used, there are too few, or the directory belongs to another study.
      FloatingPointError: if a loss is not finite.
    """
    with Stopwatch() as watch:
        runs = [Run(c, shots, seed) for shots in spec.shots for c in splits for seed in range(spec.seeds)]
        drawn = {run: episodes.draw(run, len(splits[run.category].train)) for run in runs}
        indices = {c: sorted({int(i) for run in runs if run.category == c for i in drawn[run]}) for c in splits}
        good = {c: [splits[c].train[i] for i in indices[c]] for c in splits}
        records = [record for c in splits for record in (*good[c], *splits[c].test)]
        with stage("reading files", len(records)) as advance:
            names, masks, unmarked = _identify(spec, records, advance)
            episode_ids = [f"{run} {[splits[run.category].train[i].id for i in drawn[run]]}" for run in runs]
            settings = describe(spec, list(splits), [*names, *masks, *episode_ids])
        archive.check(output, settings)
        with stage("normals and features", len(records)) as advance:
            values, notes = features.extract(
                records, names, spec.encoder, spec.preparation, cache.cache_directory(), watch, advance
            )
        by_record = dict(zip(records, values, strict=True))
        train, test = (
            jax.device_put(_fill_up([[by_record[record] for record in some] for some in parts]))
            for parts in (good.values(), [split.test for split in splits.values()])
        )
        position = {c: {index: i for i, index in enumerate(indices[c])} for c in splits}
        told = inputs.summarise(records, notes) + inputs.summarise(records, unmarked)
        lacking = _undefined(splits, {part.category for part, note in zip(records, unmarked, strict=True) if note})
        work = _Work(spec, splits, settings, drawn, train, position, test, told, lacking, stage, watch)
        method = METHODS[spec.method](spec.config)
        # Built once: numbers of shots whose calls have one shape share what XLA compiles.
        programs = training.compile_programs(method, spec.recipe), scoring.compile_program(method)
        groups = [group for shots in spec.shots for group in _run_groups(work, programs, shots, output)]
    return _results(work, groups), groups


def _identify(
    spec: Spec, records: Sequence[Record], advance: Callable[[int], None]
) -> tuple[list[str], list[str], list[str]]:
    """Names of the parts' inputs, digests of their ground truth, and what the user should know of that.

    What cannot be used is found before anything is computed, and all of it is told at once.
    """
    problems, names, masks, notes = Problems(), [], [], []
    for part in records:
        names += inputs.identify([part], spec.preparation, problems)
        mask = None
        with problems.collecting():
            mask = sample.load_gt(part)
        masks.append("none" if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest())
        notes.append(sample.UNMARKED if mask is None else "")
        advance(1)
    if problems.found:
        sample.tell_all((part for part, name in zip(records, names, strict=True) if name), problems)
    return names, masks, notes


def _undefined(splits: dict[str, Splits], unmarked: set[str]) -> dict[str, dict[str, str]]:
    """Which kinds of metrics categories lack, and why; categories that lack none are left out."""
    found = {}
    for category, split in splits.items():
        defective = sum(part.defective for part in split.test)
        reason = metrics.lacking(defective, len(split.test) - defective, "part")
        reasons = {"image": reason} if reason else {}
        if category in unmarked:
            reasons["pixel"] = "a defective part has no mask"
        elif not defective:
            reasons["pixel"] = metrics.lacking(0, 1, "pixel") or ""
        if reasons:
            found[category] = reasons
    return found


def _fill_up(lists: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """(lists, longest, ...) of arrays of one shape, zeros where a list is shorter."""
    filled = np.zeros((len(lists), max(map(len, lists)), *lists[0][0].shape), np.float32)
    for row, arrays in zip(filled, lists, strict=True):
        row[: len(arrays)] = arrays
    return filled


def _run_groups(
    work: _Work, programs: tuple[training.Programs, Callable], shots: int, output: pathlib.Path
) -> Iterator[Group]:
    """Trains, scores and measures the runs of one number of shots group by group; finished groups are loaded."""
    runs = [run for run in work.drawn if run.shots == shots]
    size = parallel.runs_at_once(len(runs))
    for start in range(0, len(runs), size):
        some, name = runs[start : start + size], f"{shots}-{start // size:03d}"
        lengths = [len(work.splits[run.category].test) for run in some]
        stored = archive.load_group(output, name, work.settings)
        if stored is not None and stored[1]["runs"] == [list(run) for run in some]:
            distances = [part[:length] for part, length in zip(stored[0]["distances"], lengths, strict=True)]
            yield Group(some, distances, stored[1]["metrics"], stored[1]["timings"])
            continue
        before = dict(work.watch.seconds)
        title = f"{shots} shots, runs {start + 1}-{start + len(some)} of {len(runs)}"
        params, history, scored = _train_and_score(work, programs, some, size, title)
        distances = [part[:length] for part, length in zip(scored, lengths, strict=True)]
        with work.stage(f"metrics {title}", len(some)) as advance, work.watch.stage("metrics_s"):
            measured = _measure(work, some, distances, advance)
        timings = {key: value - before.get(key, 0.0) for key, value in work.watch.seconds.items()}
        facts = {"runs": some, "metrics": measured, "timings": timings}
        archive.save_group(output, name, work.settings, params, {"distances": scored, **history}, facts)
        yield Group(some, distances, measured, timings)


def _train_and_score(
    work: _Work, programs: tuple[training.Programs, Callable], runs: list[Run], size: int, title: str
) -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """Parameters, metrics of the training and patch distances of a group of runs."""
    # A short group repeats its last run, so that all groups have one shape and share one program.
    padded = (runs + [runs[-1]] * size)[:size]
    category = np.array([list(work.splits).index(run.category) for run in padded])
    chosen = np.array([[work.position[run.category][int(i)] for i in work.drawn[run]] for run in padded])
    recipe = work.spec.recipe
    steps = len(episodes.batches(runs[0], recipe.epochs, recipe.batch_size))
    with work.stage(f"training {title}", steps) as advance, work.watch.stage("train_s"):
        params, history = training.train(programs[0], padded, work.train, category, chosen, recipe, advance)
    with work.stage(f"scoring {title}", work.test.shape[1]) as advance, work.watch.stage("score_s"):
        distances = scoring.score(programs[1], params, work.test, category, advance)
    kept = slice(len(runs))
    history = {f"train_{name}": values[kept] for name, values in history.items()}
    return jax.tree.map(lambda x: np.asarray(x[kept]), params), history, distances[kept]


def _measure(
    work: _Work, runs: list[Run], distances: list[np.ndarray], advance: Callable[..., None]
) -> list[dict[str, float | None]]:
    """Metrics of runs, one category at a time: the ground truth of all pixels of a data set is large."""
    measured = {}
    for category in dict.fromkeys(run.category for run in runs):
        records = work.splits[category].test
        sizes = [record.source.size() for record in records]
        truth = metrics.prepare_truth([sample.load_gt(record) for record in records])
        defective = np.array([record.defective for record in records])

        def measure(i: int, sizes=sizes, defective=defective, truth=truth) -> dict[str, float | None]:
            fused = [work.spec.maps.fused(part, size) for part, size in zip(distances[i], sizes, strict=True)]
            values = metrics.evaluate(fused, defective, truth)
            advance(1)
            return values

        mine = [i for i, run in enumerate(runs) if run.category == category]
        with ThreadPoolExecutor(2 if sum(h * w for h, w in sizes) < _MANY_PIXELS else 1) as pool:
            measured |= dict(zip(mine, pool.map(measure, mine), strict=True))
    return [measured[i] for i in range(len(runs))]


def _results(work: _Work, groups: list[Group]) -> dict[str, Any]:
    """The content of `results.json`."""
    spec = work.spec
    measured = {run: values for group in groups for run, values in zip(group.runs, group.metrics, strict=True)}

    def per_category(value: Callable[[list[Run]], Any]) -> dict[str, dict[str, Any]]:
        return {
            str(shots): {c: value([r for r in measured if (r.category, r.shots) == (c, shots)]) for c in work.splits}
            for shots in spec.shots
        }

    table, more = (
        per_category(lambda runs, names=names: {name: [measured[run][name] for run in runs] for name in names})
        for names in (metrics.NAMES, metrics.EXTRA_NAMES)
    )
    ids = {category: [record.id for record in split.train] for category, split in work.splits.items()}
    return {
        "schema": 1,
        "dataset": spec.dataset,
        "method": spec.method,
        "encoder": spec.encoder.name,
        "settings": work.settings,
        "results": table,
        "more_results": more,
        "undefined": work.undefined,
        "mean": {shots: record.means(values) for shots, values in table.items()},
        "episodes": per_category(lambda runs: [[ids[run.category][i] for i in work.drawn[run]] for run in runs]),
        "timings": _timings(work.watch, groups),
        "versions": record.versions(),
        "notes": [note for note in (spec.encoder.note, *work.notes) if note],
    }


def _timings(watch: Stopwatch, groups: list[Group]) -> dict[str, float]:
    """Seconds by name; what groups took counts wherever they were trained, the rest is this process's."""
    seconds = {name: watch.seconds[name] for name in ("normals_s", "features_s")}
    seconds |= {name: sum(group.timings.get(name, 0.0) for group in groups) for name in _OF_GROUPS}
    return {name: round(value, 3) for name, value in {**seconds, "total_s": sum(seconds.values())}.items()}
