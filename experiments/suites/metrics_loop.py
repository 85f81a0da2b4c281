"""Metrics as public evaluations of MVTec 3D-AD take them: model by model, every pixel sorted for every metric.

Each metric is a function of all scores and labels, which sorts them anew, as those of scikit-learn do; regions are
labelled again for each model. Kinds and sizes of defects are not told apart.
"""

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

LIMITS = (0.3, 0.1, 0.05, 0.01)

_NEIGHBOURS = np.ones((3, 3), int)


def evaluate(
    maps: Sequence[Float[np.ndarray, "_ _"]],
    masks: Sequence[Bool[np.ndarray, "_ _"]],
    defective: Bool[np.ndarray, " m"],
) -> dict[str, float]:
    """Metrics of one model on one category, under the names of `pirn_jax.protocol.metrics`."""
    pixels = np.concatenate([scores.ravel() for scores in maps]), np.concatenate([mask.ravel() for mask in masks])
    parts = np.array([scores.max() for scores in maps]), defective
    found = {}
    for kind, (scores, labels) in (("image", parts), ("pixel", pixels)):
        found |= {f"{kind}_{name}": metric(scores, labels) for name, metric in _METRICS.items()}
    false, overlap = pro_curve(maps, masks)
    return found | {f"aupro_{100 * limit:02.0f}": _area(false, overlap, limit) for limit in LIMITS}


def roc_auc(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Area under the true over the false positive rate."""
    true, false = _counts(scores, labels)
    return float(np.trapezoid(np.append(0, true) / true[-1], np.append(0, false) / false[-1]))


def average_precision(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Precision at every threshold, weighted by the recall that it adds."""
    true, false = _counts(scores, labels)
    return float(np.sum(np.diff(true, prepend=0) / true[-1] * true / (true + false)))


def best_f1(scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"]) -> float:
    """Largest F1 of all thresholds."""
    true, false = _counts(scores, labels)
    return float(np.max(2 * true / (true + false + true[-1])))


def pro_curve(
    maps: Sequence[Float[np.ndarray, "_ _"]], masks: Sequence[Bool[np.ndarray, "_ _"]]
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """False positive rate and mean overlap with the regions at every threshold, the highest first."""
    regions, overlaps = 0, []
    for mask in masks:
        labels = np.zeros(mask.shape, np.int32)
        scipy.ndimage.label(mask, structure=_NEIGHBOURS, output=labels)
        overlap = np.zeros(mask.shape)
        for number in range(1, labels.max() + 1):
            region = labels == number
            overlap[region] = 1.0 / np.sum(region)
        overlaps.append(overlap.ravel())
        regions += labels.max()
    scores, good = (np.concatenate([array.ravel() for array in arrays]) for arrays in (maps, [~mask for mask in masks]))
    order = np.argsort(-scores)
    last = np.append(np.diff(scores[order]) != 0, True)
    false, overlap = np.cumsum(good[order])[last], np.cumsum(np.concatenate(overlaps)[order])[last]
    return np.append(0.0, false / false[-1]), np.append(0.0, overlap / regions)


def _counts(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives at every threshold, the highest first."""
    order = np.argsort(-scores, kind="mergesort")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    true = np.cumsum(labels[order])[last]
    return true, 1 + last - true


def _area(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Area from 0 to a limit, which may lie between two points, divided by the limit."""
    inside = x <= limit
    ends = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(np.trapezoid(ends[1], ends[0])) / limit


_METRICS = {"auroc": roc_auc, "ap": average_precision, "f1": best_f1}
