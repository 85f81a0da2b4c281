"""A study: all runs of one call, from files to results. The one place that puts the rooms together."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax import __version__, features, pirn
from pirn_jax.data import images, sample
from pirn_jax.data.sample import Record, Splits
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.geometry import normals
from pirn_jax.protocol import episodes, metrics, parallel, scoring, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.report import archive
from pirn_jax.stopwatch import Stopwatch

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""`with stage(title, total) as advance: advance(count, text)`: how progress is shown."""

_TIMINGS = ("normals_s", "features_s", "compile_s", "train_s", "score_s", "metrics_s", "total_s")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "orbax-checkpoint", "numpy", "scipy", "pillow")


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that can change a number of a study.

    Attributes:
      dataset: name of the data set.
      shots: numbers of good parts, one study each.
      seeds: repeats, numbered from 0.
      method: hyperparameters of PIRN.
      recipe: how runs are trained.
      encoder: frozen encoder.
      input_size: side of its input in pixels.
      sigma: deviation of the Gaussian on anomaly maps, in pixels of the encoder's input.
    """

    dataset: str
    shots: tuple[int, ...]
    seeds: int
    method: pirn.Config
    recipe: training.Recipe
    encoder: Encoder
    input_size: int
    sigma: float

    @property
    def maps(self) -> scoring.Maps:
        """How patch distances become anomaly maps."""
        return scoring.Maps(self.input_size // self.encoder.config.patch, self.input_size, self.sigma)


class Group(NamedTuple):
    """Runs that train in one call of the compiled program, and what came of them.

    Attributes:
      runs: the runs.
      distances: (runs, parts, 2, n) patch distances of the test parts, filled up for shorter categories.
      metrics: one dictionary a run.
    """

    runs: list[Run]
    distances: np.ndarray
    metrics: list[dict[str, float | None]]


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all groups of a study share.

    Attributes:
      spec: what to do.
      splits: the parts of each category.
      drawn: per run, its episode as indices into the train split.
      train: (categories, parts, 2, n, c) features of the good parts that any run draws, filled up with zeros.
      position: per category, from index in the train split to index in `train`.
      test: (categories, parts, 2, n, c) features of the test parts, filled up with zeros.
      stage: how to show progress.
      watch: where the time goes.
    """

    spec: Spec
    splits: dict[str, Splits]
    drawn: dict[Run, np.ndarray]
    train: jax.Array
    position: dict[str, dict[int, int]]
    test: jax.Array
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
    with Stopwatch() as watch, watch.stage("total_s"):
        runs = [Run(c, shots, seed) for shots in spec.shots for c in splits for seed in range(spec.seeds)]
        drawn = {run: episodes.draw(run, len(splits[run.category].train)) for run in runs}
        indices = {c: sorted({int(i) for run in runs if run.category == c for i in drawn[run]}) for c in splits}
        good = {c: [splits[c].train[i] for i in indices[c]] for c in splits}
        records = [record for c in splits for record in (*good[c], *splits[c].test)]
        with stage("reading files", len(records)) as advance:
            names = features.identify(records, spec.encoder, spec.input_size)
            settings = _settings(spec, list(splits), [*names, *_mask_digests(splits)])
            advance(len(records))
        archive.check(output, settings)
        with stage("normals and features", len(records)) as advance:
            values = features.extract(
                records, names, spec.encoder, spec.input_size, features.cache_directory(), watch, advance
            )
        archive.claim(output, settings)
        by_record = dict(zip(records, values, strict=True))
        train, test = (
            jax.device_put(_fill_up([[by_record[record] for record in some] for some in parts]))
            for parts in (good.values(), [split.test for split in splits.values()])
        )
        position = {c: {index: i for i, index in enumerate(indices[c])} for c in splits}
        work = _Work(spec, splits, drawn, train, position, test, stage, watch)
        groups = [group for shots in spec.shots for group in _run_groups(work, shots, output)]
    return _results(work, groups, settings), groups


def _mask_digests(splits: dict[str, Splits]) -> list[str]:
    """SHA-256 of every test part's ground truth; a mask that cannot be used is found before anything is trained."""
    return [
        hashlib.sha256(np.packbits(_mask(record)).tobytes()).hexdigest()
        for split in splits.values()
        for record in split.test
    ]


def _mask(record: Record) -> np.ndarray:
    return sample.load_gt(record, images.read_size(record.rgb))


def _fill_up(lists: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """(lists, longest, ...) of arrays of one shape, zeros where a list is shorter."""
    filled = np.zeros((len(lists), max(map(len, lists)), *lists[0][0].shape), np.float32)
    for row, arrays in zip(filled, lists, strict=True):
        row[: len(arrays)] = arrays
    return filled


def _run_groups(work: _Work, shots: int, output: pathlib.Path) -> Iterator[Group]:
    """Trains, scores and measures the runs of one number of shots group by group; finished groups are loaded."""
    method = pirn.pirn(work.spec.method)
    programs = training.compile_programs(method, work.spec.recipe), scoring.compile_program(method)
    runs = [run for run in work.drawn if run.shots == shots]
    size = parallel.runs_at_once(len(runs))
    for start in range(0, len(runs), size):
        some, name = runs[start : start + size], f"{shots}-{start // size:03d}"
        stored = archive.load_group(output, name)
        if stored is not None:
            arrays, facts = stored
            yield Group(some, arrays["distances"], facts["metrics"])
            continue
        title = f"{shots} shots, runs {start + 1}-{start + len(some)} of {len(runs)}"
        params, losses, distances = _train_and_score(work, programs, some, size, title)
        with work.stage(f"metrics {title}", len(some)) as advance, work.watch.stage("metrics_s"):
            measured = _measure(work, some, distances, advance)
        arrays = {"distances": distances, "losses": losses}
        archive.save_group(output, name, params, arrays, {"runs": some, "metrics": measured})
        yield Group(some, distances, measured)


def _train_and_score(
    work: _Work, programs: tuple[training.Programs, Callable], runs: list[Run], size: int, title: str
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Parameters, losses and patch distances of a group of runs."""
    # A short group repeats its last run, so that all groups have one shape and share one program.
    padded = (runs + [runs[-1]] * size)[:size]
    category = np.array([list(work.splits).index(run.category) for run in padded])
    chosen = np.array([[work.position[run.category][int(i)] for i in work.drawn[run]] for run in padded])
    recipe = work.spec.recipe
    steps = len(episodes.batches(runs[0], recipe.epochs, recipe.batch_size))
    with work.stage(f"training {title}", steps) as advance, work.watch.stage("train_s"):
        params, losses = training.train(programs[0], padded, work.train, category, chosen, recipe, advance)
    with work.stage(f"scoring {title}", work.test.shape[1]) as advance, work.watch.stage("score_s"):
        distances = scoring.score(programs[1], params, work.test, category, advance)
    kept = slice(len(runs))
    return jax.tree.map(lambda x: np.asarray(x[kept]), params), losses[kept], distances[kept]


def _measure(
    work: _Work, runs: list[Run], distances: np.ndarray, advance: Callable[..., None]
) -> list[dict[str, float | None]]:
    """Metrics of runs, one category at a time: the ground truth of all pixels of a data set is large."""
    measured = {}
    for category in dict.fromkeys(run.category for run in runs):
        records = work.splits[category].test
        masks = [_mask(record) for record in records]
        defective, truth = np.array([record.defective for record in records]), metrics.prepare_truth(masks)

        def measure(i: int, masks=masks, defective=defective, truth=truth) -> dict[str, float | None]:
            parts = distances[i][: len(masks)]
            fused = [work.spec.maps.fused(part, mask.shape) for part, mask in zip(parts, masks, strict=True)]
            values = metrics.evaluate(fused, defective, truth)
            advance(1)
            return values

        mine = [i for i, run in enumerate(runs) if run.category == category]
        with ThreadPoolExecutor(2) as pool:
            measured |= dict(zip(mine, pool.map(measure, mine), strict=True))
    return [measured[i] for i in range(len(runs))]


def _settings(spec: Spec, categories: list[str], names: list[str]) -> dict[str, Any]:
    """Every flag and constant that can change a number; `data` stands for the bytes of all files read."""
    return {
        "platform": jax.default_backend(),
        "dataset": spec.dataset,
        "categories": categories,
        "data": hashlib.sha256("".join(names).encode()).hexdigest(),
        "shots": list(spec.shots),
        "seeds": spec.seeds,
        "encoder": spec.encoder.name,
        "encoder_digest": spec.encoder.digest,
        "encoder_blocks": list(spec.encoder.blocks),
        "input_size": spec.input_size,
        "normals_radius": normals.RADIUS,
        "sigma": spec.sigma,
        "image_score": "maximum of the fused map",
        "map_size": "original image",
        "aupro_limit": metrics.AUPRO_LIMIT,
        "aupro_connectivity": 8,
        **dataclasses.asdict(spec.method),
        **dataclasses.asdict(spec.recipe),
    }


def _results(work: _Work, groups: list[Group], settings: dict[str, Any]) -> dict[str, Any]:
    """The content of `results.json`."""
    spec = work.spec
    measured = {run: values for group in groups for run, values in zip(group.runs, group.metrics, strict=True)}

    def per_category(value: Callable[[list[Run]], Any]) -> dict[str, dict[str, Any]]:
        return {
            str(shots): {c: value([r for r in measured if (r.category, r.shots) == (c, shots)]) for c in work.splits}
            for shots in spec.shots
        }

    table = per_category(lambda runs: {name: [measured[run][name] for run in runs] for name in metrics.NAMES})
    ids = {category: [record.id for record in split.train] for category, split in work.splits.items()}
    return {
        "schema": 1,
        "dataset": spec.dataset,
        "method": "pirn",
        "encoder": spec.encoder.name,
        "settings": settings,
        "results": table,
        "mean": {shots: {name: _mean(values, name) for name in metrics.NAMES} for shots, values in table.items()},
        "episodes": per_category(lambda runs: [[ids[run.category][i] for i in work.drawn[run]] for run in runs]),
        "timings": {name: round(work.watch.seconds[name], 3) for name in _TIMINGS},
        "versions": _versions(),
        "notes": [spec.encoder.note] if spec.encoder.note else [],
    }


def _mean(categories: dict[str, dict[str, list[float | None]]], name: str) -> dict[str, float | None]:
    """Mean, and deviation over seeds, of the mean over categories; categories without the metric are left out."""
    defined = [values[name] for values in categories.values() if None not in values[name]]
    if not defined:
        return {"mean": None, "std": None}
    per_seed = np.mean(np.array(defined, float), axis=0)
    return {"mean": float(per_seed.mean()), "std": float(per_seed.std())}


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    return {"pirn_jax": __version__, "python": platform.python_version(), "device": device.device_kind, **packages}
