"""All metrics of ten seeds of one category, against an evaluation that goes model by model as public ones do.

Ours finds metrics of every kind and size of defect besides, and works out the truth in every call. "ranking" is the
sort alone: NumPy's, which is used on CPUs, against the default device's.
"""

import numpy as np

from experiments.suites import metrics_loop, timing
from pirn_jax.metrics import batched, ground_truth, peer, ranking
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.scoring import Maps

_RUNS, _GOOD, _KINDS, _OF_KIND = 10, 20, 5, 8
"""Seeds, and the test parts of a built-in category."""

_SIDES = (192, 256)
"""Of images: those of a built-in category, and what many public codes resize to."""

_MAPS = Maps(grid=16, input_size=224, sigma=4.0)


def measure(repeats_of_each: int) -> dict[str, timing.Case]:
    """Times both evaluations at each size of the images, and the sort at the first."""
    cases = {f"{side}x{side}": _evaluation(side, repeats_of_each) for side in _SIDES}
    return {**cases, "ranking": _ranking(_SIDES[0], repeats_of_each)}


def _category(side: int) -> tuple[list[str], list[np.ndarray], list[list[np.ndarray]]]:
    """Defects, masks, and the maps of every seed, somewhat higher on defects."""
    rng = np.random.default_rng(0)
    defects = ["good"] * _GOOD + [f"kind {i % _KINDS}" for i in range(_KINDS * _OF_KIND)]
    masks = [np.zeros((side, side), bool) for _ in defects]
    for mask in masks[_GOOD:]:
        length = int(side * rng.uniform(0.02, 0.15))
        row, column = rng.integers(0, side - length, 2)
        mask[row : row + length, column : column + length] = True

    def scores(mask: np.ndarray) -> np.ndarray:
        smooth = _MAPS.upsample(rng.random((2, _MAPS.grid**2), np.float32).sum(0), mask.shape)
        return (smooth + 0.2 * mask).astype(np.float32)

    return defects, masks, [[scores(mask) for mask in masks] for _ in range(_RUNS)]


def _evaluation(side: int, repeats_of_each: int) -> timing.Case:
    defects, masks, runs = _category(side)
    defective = np.array(defects) != "good"

    def ours() -> None:
        truth = ground_truth.prepare(defects, masks, [mask.shape for mask in masks], MetricSettings())
        size = ranking.runs_at_once(truth.pixels)
        for start in range(0, _RUNS, size):
            batched.evaluate(np.stack([batched.flatten(maps, truth) for maps in runs[start : start + size]]), truth)

    def reference() -> None:
        for maps in runs:
            metrics_loop.evaluate(maps, masks, defective)

    return timing.alternate(ours, reference, repeats_of_each)


def _ranking(side: int, repeats_of_each: int) -> timing.Case:
    """Ours on the default device, the reference in NumPy."""
    _, masks, runs = _category(side)
    scores = np.stack([np.concatenate([m.ravel() for m in maps]) for maps in runs])
    levels = -np.sort(-scores[:, np.concatenate([mask.ravel() for mask in masks])])
    places = peer.positions(scores.shape[1])
    return timing.alternate(
        lambda: ranking.count_in_jax(levels, scores, places),
        lambda: ranking.count_in_numpy(levels, scores, places),
        repeats_of_each,
    )
