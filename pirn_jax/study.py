"""A study: all runs of one call, from files to results. The one place that puts the rooms together."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import operator
import pathlib
import platform
from collections.abc import Callable, Sequence
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


class Data(NamedTuple):
    """Features of a study's parts.

    Attributes:
      train: (categories, parts, 2, n, c) of the good parts that any run draws, filled up with zeros.
      test: (categories, parts, 2, n, c) of the test parts, filled up with zeros.
      position: per category, from index in the train split to index in `train`.
    """

    train: jax.Array
    test: jax.Array
    position: dict[str, dict[int, int]]


class Group(NamedTuple):
    """Runs that train in one call of the compiled program, and what came of them.

    Attributes:
      name: of the group in the archive.
      runs: the runs.
      distances: (runs, parts, 2, n) patch distances of the test parts.
      metrics: one dictionary a run.
    """

    name: str
    runs: list[Run]
    distances: np.ndarray
    metrics: list[dict[str, float | None]]


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
        runs = {shots: [Run(c, shots, s) for c in splits for s in range(spec.seeds)] for shots in spec.shots}
        drawn = {run: episodes.draw(run, len(splits[run.category].train)) for some in runs.values() for run in some}
        records = _records_needed(splits, drawn)
        with stage("reading files", 1) as advance:
            names = features.identify(records, spec.encoder, spec.input_size)
            advance(1)
        archive.claim(output, _settings(spec, list(splits), names))
        with stage("normals and features", len(records)) as advance:
            arguments = (records, names, spec.encoder, spec.input_size, features.cache_directory(), watch, advance)
            values = dict(zip(records, features.extract(*arguments), strict=True))
        data = _stack(splits, drawn, values)
        groups = []
        for shots in spec.shots:
            groups += _run_groups(spec, runs[shots], splits, drawn, data, output, stage, watch)
    return _results(spec, splits, drawn, groups, archive.read_settings(output), watch), groups


def _records_needed(splits: dict[str, Splits], drawn: dict[Run, np.ndarray]) -> list[Record]:
    return [
        record
        for category, split in splits.items()
        for record in [*(split.train[i] for i in _indices(category, drawn)), *split.test]
    ]


def _indices(category: str, drawn: dict[Run, np.ndarray]) -> list[int]:
    """Good parts of a category that any run draws, as indices into its train split."""
    return sorted({int(i) for run, indices in drawn.items() if run.category == category for i in indices})


def _stack(splits: dict[str, Splits], drawn: dict[Run, np.ndarray], values: dict[Record, np.ndarray]) -> Data:
    indices = {category: _indices(category, drawn) for category in splits}
    train = [[values[split.train[i]] for i in indices[category]] for category, split in splits.items()]
    test = [[values[record] for record in split.test] for split in splits.values()]
    position = {category: {index: i for i, index in enumerate(chosen)} for category, chosen in indices.items()}
    return Data(jax.device_put(_fill_up(train)), jax.device_put(_fill_up(test)), position)


def _fill_up(lists: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    filled = np.zeros((len(lists), max(map(len, lists)), *lists[0][0].shape), np.float32)
    for row, arrays in zip(filled, lists, strict=True):
        row[: len(arrays)] = arrays
    return filled


def _run_groups(
    spec: Spec,
    runs: list[Run],
    splits: dict[str, Splits],
    drawn: dict[Run, np.ndarray],
    data: Data,
    output: pathlib.Path,
    stage: Stage,
    watch: Stopwatch,
) -> list[Group]:
    """Trains, scores and measures the runs of one number of shots, group by group; finished groups are loaded."""
    method = pirn.pirn(spec.method)
    train_programs = training.compile_programs(method, spec.recipe)
    score_program = scoring.compile_program(method)
    size = parallel.runs_at_once(len(runs))
    groups = []
    for start in range(0, len(runs), size):
        name = f"{runs[0].shots}-{start // size:03d}"
        stored = archive.load_group(output, name)
        some = runs[start : start + size]
        if stored is None:
            # The last group repeats a run where it is short, so that all have one shape and share one program.
            padded = (some + [some[-1]] * size)[:size]
            category = np.array([list(splits).index(run.category) for run in padded])
            chosen = np.array([[data.position[run.category][int(i)] for i in drawn[run]] for run in padded])
            steps = len(episodes.batches(some[0], spec.recipe.epochs, spec.recipe.batch_size))
            title = f"{runs[0].shots} shots, runs {start + 1}-{start + len(some)} of {len(runs)}"
            with stage(f"training {title}", steps) as advance, watch.stage("train_s"):
                params, losses = training.train(
                    train_programs, padded, data.train, category, chosen, spec.recipe, advance
                )
            with stage(f"scoring {title}", data.test.shape[1]) as advance, watch.stage("score_s"):
                distances = scoring.score(score_program, params, data.test, category, advance)[: len(some)]
            with stage(f"metrics {title}", len(some)) as advance, watch.stage("metrics_s"):
                measured = _measure(spec, some, distances, splits, advance)
            params = jax.tree.map(operator.itemgetter(slice(len(some))), params)
            arrays = {"distances": distances, "losses": losses[: len(some)]}
            archive.save_group(output, name, params, arrays, {"runs": some, "metrics": measured})
        else:
            distances, measured = stored[0]["distances"], stored[1]["metrics"]
        groups.append(Group(name, some, distances, measured))
    return groups


def _measure(
    spec: Spec, runs: list[Run], distances: np.ndarray, splits: dict[str, Splits], advance: Callable[..., None]
) -> list[dict[str, float | None]]:
    truths = {run.category: _truth(splits[run.category].test) for run in runs}

    def measure(run: Run, patches: np.ndarray) -> dict[str, float | None]:
        masks, defective, truth = truths[run.category]
        fused = [spec.maps.fused(part, mask.shape) for part, mask in zip(patches, masks, strict=False)]
        values = metrics.evaluate(fused, defective, truth)
        advance(1)
        return values

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(measure, runs, distances))


def _truth(records: list[Record]) -> tuple[list[np.ndarray], np.ndarray, metrics.PixelTruth]:
    masks = [sample.load_gt(record, images.read_size(record.rgb)) for record in records]
    return masks, np.array([record.defective for record in records]), metrics.prepare_truth(masks)


def _settings(spec: Spec, categories: list[str], names: list[str]) -> dict[str, Any]:
    """Every flag and constant that can change a number; `data` stands for the bytes of all files read."""
    return {
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


def _results(
    spec: Spec,
    splits: dict[str, Splits],
    drawn: dict[Run, np.ndarray],
    groups: list[Group],
    settings: dict[str, Any],
    watch: Stopwatch,
) -> dict[str, Any]:
    measured = {run: values for group in groups for run, values in zip(group.runs, group.metrics, strict=True)}
    shots = {str(count): [run for run in measured if run.shots == count] for count in spec.shots}
    table = {
        count: {
            category: {
                name: [measured[run][name] for run in runs if run.category == category] for name in metrics.NAMES
            }
            for category in splits
        }
        for count, runs in shots.items()
    }
    timings = ("normals_s", "features_s", "compile_s", "train_s", "score_s", "metrics_s", "total_s")
    return {
        "schema": 1,
        "dataset": spec.dataset,
        "method": "pirn",
        "encoder": spec.encoder.name,
        "settings": settings,
        "results": table,
        "mean": {count: {name: _mean(values, name) for name in metrics.NAMES} for count, values in table.items()},
        "episodes": {
            count: {
                category: [
                    [splits[category].train[i].id for i in drawn[run]] for run in runs if run.category == category
                ]
                for category in splits
            }
            for count, runs in shots.items()
        },
        "timings": {name: round(watch.seconds[name], 3) for name in timings},
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
