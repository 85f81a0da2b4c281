"""Exact detection and localisation metrics, in float64.

Nothing is binned and no threshold is skipped; tied scores count as one threshold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

NAMES = ("image_auroc", "pixel_auroc", "aupro_30")
AUPRO_LIMIT = 0.3
"""False positive rate up to which the PRO curve is integrated, as in MVTec 3D-AD."""

_EIGHT_NEIGHBOURS = np.ones((3, 3), int)


class PixelTruth(NamedTuple):
    """Ground truth of all pixels of a test set, prepared once and used for every run.

    Attributes:
      defective: (pixels,) true on defects.
      overlap: (pixels,) share of its region that a found pixel adds, 1 / (pixels of the region); 0 on good pixels.
    """

    defective: Bool[np.ndarray, " pixels"]
    overlap: Float[np.ndarray, " pixels"]


def prepare_truth(masks: Sequence[Bool[np.ndarray, "_ _"]]) -> PixelTruth:
    """Labels the 8-connected regions of the masks of all test parts, good ones included."""
    overlaps = []
    for mask in masks:
        labels = np.zeros(mask.shape, np.int32)
        scipy.ndimage.label(mask, structure=_EIGHT_NEIGHBOURS, output=labels)
        share = 1.0 / np.maximum(np.bincount(labels.ravel()), 1)
        share[0] = 0.0
        overlaps.append(share[labels].ravel())
    return PixelTruth(np.concatenate([mask.ravel() for mask in masks]), np.concatenate(overlaps))


def evaluate(
    maps: Sequence[Float[np.ndarray, "_ _"]], defective: Bool[np.ndarray, " m"], truth: PixelTruth
) -> dict[str, float | None]:
    """All metrics of one run on its test parts, under the names in `NAMES`; the score of a part is its map's maximum.

    Args:
      maps: fused anomaly maps, each of the size of its part's image.
      defective: which parts have a defect.
      truth: pixels of the same parts in the same order.
    """
    scores = np.array([fused.max() for fused in maps])
    pixels = np.concatenate([fused.ravel() for fused in maps])
    return dict(zip(NAMES, (auroc(scores, defective), *pixel_metrics(pixels, truth)), strict=True))


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    Returns:
      A value in [0, 1], None if one of the classes is missing.
    """
    curve = _curve(scores, positive.astype(float)[None], ~positive)
    return None if curve is None else _area_up_to(curve.false_rate, curve.rates[0], 1.0)


def pixel_metrics(
    scores: Float[np.ndarray, " pixels"], truth: PixelTruth, limit: float = AUPRO_LIMIT
) -> tuple[float | None, float | None]:
    """Pixel AUROC and AUPRO from one sort.

    AUPRO (Bergmann et al., 2022) is the area under the mean per-region overlap over the false positive rate from 0 to
    `limit`, divided by `limit`; the curve is interpolated linearly at the limit. Every 8-connected region counts the
    same, and the good pixels of all parts supply the false positives.

    Args:
      scores: fused maps of all test parts, flattened in the order of the masks.
      truth: see `prepare_truth`.
      limit: in (0, 1].

    Returns:
      Both in [0, 1], None where there are no defective or no good pixels.
    """
    curve = _curve(scores, np.stack([truth.defective.astype(float), truth.overlap]), ~truth.defective)
    if curve is None:
        return None, None
    pixel_auroc, aupro = (_area_up_to(curve.false_rate, y, x) for y, x in zip(curve.rates, (1.0, limit), strict=True))
    return pixel_auroc, aupro


class _Curve(NamedTuple):
    """Rates at every distinct threshold from the highest score down, starting at 0."""

    false_rate: Float[np.ndarray, " t"]
    rates: Float[np.ndarray, "kinds t"]


def _curve(
    scores: Float[np.ndarray, " n"], weights: Float[np.ndarray, "kinds n"], negative: Bool[np.ndarray, " n"]
) -> _Curve | None:
    """False positive rate, and share of each kind of weight found; None if one of them is undefined."""
    if not negative.any() or not weights.any(axis=-1).all():
        return None
    order = np.argsort(-scores)
    last_of_ties = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    false_rate = np.cumsum(negative[order])[last_of_ties] / negative.sum()
    found = np.cumsum(weights[:, order], axis=-1)[:, last_of_ties]
    return _Curve(np.append(0.0, false_rate), np.pad(found / found[:, -1:], ((0, 0), (1, 0))))


def _area_up_to(x: np.ndarray, y: np.ndarray, limit: float) -> float:
    """Mean height of the curve between 0 and the limit, where it is interpolated; rounding is kept out of it."""
    inside = np.searchsorted(x, limit, side="right")
    x, y = np.append(x[:inside], limit), np.append(y[:inside], np.interp(limit, x, y))
    return min(float(np.trapezoid(y, x)) / limit, 1.0)
