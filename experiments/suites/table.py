"""The few-shot half of a table: categories x shots x seeds, from cached features to metrics.

On a CPU 2 categories, 5 and 10 shots, 10 seeds, so 40 models, and 20 test parts with masks of 192x192 pixels a
category. On an accelerator the size of MVTec 3D-AD: 10 categories, 5, 10 and 50 shots, so 300 models, and 120 test
parts with 670x670 pixels, about the mean area of its images. Features are random, of the size of the built-in
encoder's, 256 patches of 256 channels; the recipe and the config are those of the suite `train`.

Ours is measured whole: groups of runs as a study cuts them, tracing included, XLA's compilation apart (`compile_s`,
that of the first round). The reference trains, scores and measures one model after another; one model is measured
beside each group of ours, and their median is scaled up to the number of models with as many shots. It has the
features ready, its compilation is left out, and its maps are made by our matrices too. Its metrics are those of
`metrics_loop`, which tells no kinds and sizes of defects apart.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.suites import metrics_loop, timing
from experiments.suites.train import CONFIG, RECIPE, as_features, method_of
from pirn_jax import scoring
from pirn_jax.data.sample import GOOD
from pirn_jax.metrics import batched, ground_truth, ranking
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.training import episodes, sizes
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

STAGES = ("train_s", "score_s", "metrics_s")
_GRID, _CHANNELS = 16, 256
_MAPS = scoring.Maps(grid=_GRID, input_size=224, sigma=4.0)


class Scale(NamedTuple):
    """Sizes of a table; `parts` are the test parts of a category, half of them defective, `side` that of an image."""

    categories: int
    shots: tuple[int, ...]
    seeds: int
    parts: int
    side: int


ON_CPU = Scale(categories=2, shots=(5, 10), seeds=10, parts=20, side=192)
ON_ACCELERATORS = Scale(categories=10, shots=(5, 10, 50), seeds=10, parts=120, side=670)


class _Data(NamedTuple):
    """Features (categories, parts, 2, patches, channels), and masks and defects of the test parts of any category."""

    train: np.ndarray
    test: np.ndarray
    masks: list[np.ndarray]
    defects: list[str]


def measure(repeats_of_each: int) -> dict[str, timing.Case]:
    """Makes the whole table so many times, and models of the reference in between."""
    scale = ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATORS
    data = _data(scale)
    references = _references(data)
    ours: list[dict[str, float]] = []
    theirs = {name: {shots: [] for shots in scale.shots} for name in references}
    for _ in range(repeats_of_each):
        with Stopwatch() as watch:
            for shots in _ours(scale, data, watch):
                for name, model in references.items():
                    theirs[name][shots].append(model(shots))
        ours.append(dict(watch.seconds))
    return cases(ours, theirs, scale.categories * scale.seeds)


def cases(
    ours: Sequence[Mapping[str, float]],
    theirs: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]],
    models: int,
) -> dict[str, timing.Case]:
    """A case for each stage and for all of them, beside each reference.

    Args:
      ours: seconds by stage of the whole table, a round each.
      theirs: seconds by stage of single models, by reference and shots.
      models: of each number of shots.
    """
    found = {}
    own = {stage: statistics.median(seconds[stage] for seconds in ours) for stage in STAGES}
    rows = {stage.removesuffix("_s"): (stage,) for stage in STAGES} | {"altogether": STAGES}
    for name, by_shots in theirs.items():
        scaled = {
            stage: models * sum(statistics.median(model[stage] for model in some) for some in by_shots.values())
            for stage in STAGES
        }
        for title, stages in rows.items():
            mine, reference = (sum(seconds[stage] for stage in stages) for seconds in (own, scaled))
            found[f"{title}, {name}"] = {"ours": mine, "reference": reference, "ratio": reference / mine}
        counted = {"models": models * len(by_shots), "compile_s": ours[0]["compile_s"]}
        found[f"altogether, {name}"] |= counted
    return found


def _data(scale: Scale) -> _Data:
    rng = np.random.default_rng(0)
    train, test = (
        rng.normal(size=(scale.categories, parts, 2, _GRID**2, _CHANNELS)).astype(np.float32)
        for parts in (max(scale.shots), scale.parts)
    )
    masks = [np.zeros((scale.side, scale.side), bool) for _ in range(scale.parts)]
    for mask in masks[::2]:
        length = int(scale.side * rng.uniform(0.04, 0.15))
        row, column = rng.integers(0, scale.side - length, 2)
        mask[row : row + length, column : column + length] = True
    return _Data(train, test, masks, ["defective" if mask.any() else GOOD for mask in masks])


def _ours(scale: Scale, data: _Data, watch: Stopwatch) -> Iterator[int]:
    """Group after group; yields the shots of each."""
    method = method_of(CONFIG)
    programs, program = compile_programs(method), scoring.compile_program(method)
    train, test = as_features(data.train), as_features(data.test)
    for shots in scale.shots:
        runs = [Run(str(category), shots, seed) for category in range(scale.categories) for seed in range(scale.seeds)]

        def needs(some: int, shots: int = shots) -> int:
            return sizes.bytes_needed(programs, some, train, shots, RECIPE)

        size = sizes.runs_at_once(len(runs), needs, taken=test.values.nbytes)
        for start in range(0, len(runs), size):
            # As in a study, a short group repeats its last run: all groups share one program.
            some = (runs[start:] + runs[-1:] * size)[:size]
            category = np.array([int(run.category) for run in some])
            chosen = np.array([episodes.draw(run, data.train.shape[1]) for run in some])
            with watch.stage("train_s"):
                trained, _ = training.train(programs, some, train, category, chosen, RECIPE)
            with watch.stage("score_s"):
                distances = scoring.score(program, trained.params, test, category)
            with watch.stage("metrics_s"):
                _measure(category[: len(runs) - start], distances, data)
            yield shots


def _measure(category: np.ndarray, distances: np.ndarray, data: _Data) -> None:
    """Metrics of a group, one category at a time."""
    sizes = [mask.shape for mask in data.masks]
    for one in np.unique(category):
        truth = ground_truth.prepare(data.defects, data.masks, sizes, MetricSettings())
        mine, together = np.flatnonzero(category == one), ranking.runs_at_once(truth.pixels)
        for start in range(0, len(mine), together):
            maps = [map(_fused, distances[i], sizes) for i in mine[start : start + together]]
            batched.evaluate(np.stack([batched.flatten(of_run, truth) for of_run in maps]), truth)


def _fused(distances: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sum of both maps."""
    return _MAPS.fused(distances, np.ones(2, np.float32), size)


def _references(data: _Data) -> dict[str, Callable[[int], dict[str, float]]]:
    """Functions that train, score and measure one model in PyTorch and return the seconds of each stage."""
    import torch

    from experiments.baselines_torch import layers
    from experiments.baselines_torch import pirn as torch_pirn

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    features, parts = (torch.from_numpy(x[0]).transpose(0, 1).contiguous().to(device) for x in (data.train, data.test))
    params = method_of(CONFIG).start(jax.random.key(0), as_features(data.train[0]))

    def prepare(wrap: Callable[[Callable], Callable]) -> Callable[[int], dict[str, float]]:
        model = torch_pirn.load(CONFIG, params).to(device)
        loss, distances = wrap(model.loss), wrap(model.distances)

        def make(order: np.ndarray) -> dict[str, float]:
            times = [time.perf_counter()]
            batches = (features[:, chosen] for chosen in torch.from_numpy(order))
            layers.train(model, batches, RECIPE.learning_rate, loss=loss)
            times.append(time.perf_counter())
            with torch.inference_mode():
                scored = torch.cat([distances(some) for some in parts.split(scoring.BATCH, dim=1)], dim=1)
            scored = scored.transpose(0, 1).cpu().numpy()
            times.append(time.perf_counter())
            maps = [_fused(part, mask.shape) for part, mask in zip(scored, data.masks, strict=True)]
            metrics_loop.evaluate(maps, data.masks, np.array(data.defects) != GOOD)
            times.append(time.perf_counter())
            return dict(zip(STAGES, np.diff(times).tolist(), strict=True))

        make(_order(1)[:2])
        return lambda shots: make(_order(shots))

    wraps = {"eager": lambda function: function} | ({"compiled": torch.compile} if timing.compiles() else {})
    return {name: prepare(wrap) for name, wrap in wraps.items()}


def _order(shots: int) -> np.ndarray:
    return episodes.batches(Run("0", shots, 0), RECIPE.epochs, RECIPE.batch_size)
