"""Exact detection and localisation metrics, in float64.

Nothing is binned and no threshold is skipped; tied scores count as one threshold. The share of defects found changes
only at scores that defective pixels have. So all curves follow from how many good pixels lie above each of these: one
sort of the good pixels serves every metric, and sums over batches of good pixels are as exact (see `evaluation`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

NAMES = ("image_auroc", "pixel_auroc", "aupro_30")
"""Headline metrics, which every table shows."""

EXTRA_NAMES = ("image_ap", "image_f1", "image_f1_threshold", "pixel_ap", "pixel_f1", "pixel_f1_threshold")
EXTRA_NAMES += ("aupro_10", "aupro_05", "aupro_01")
"""What `evaluate` measures besides: all but the thresholds, which have the unit of the scores, are in [0, 1]."""

IMAGE_NAMES = ("image_auroc", "image_ap", "image_f1", "image_f1_threshold")
PIXEL_NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1", "pixel_f1_threshold")

AUPRO_LIMIT = 0.3
"""False positive rate up to which the PRO curve is integrated, as in MVTec 3D-AD."""

LIMITS = (AUPRO_LIMIT, 0.1, 0.05, 0.01)
"""Limits of AUPRO that papers report."""

CONNECTIVITY = 8
_NEIGHBOURS = np.ones((3, 3), int)


class PixelTruth(NamedTuple):
    """Ground truth of all pixels of a test set, prepared once and used for every run.

    Attributes:
      defective: (pixels,) true on defects.
      overlap: (defective pixels,) share of its region that a found pixel adds, 1 / (pixels of the region).
    """

    defective: Bool[np.ndarray, " pixels"]
    overlap: Float[np.ndarray, " defective"]


class Ranks(NamedTuple):
    """Where positives lie among negatives: all that a curve is made of.

    Attributes:
      scores: distinct scores of positives, from the highest down.
      above: how many negatives score higher than each.
      reached: how many negatives score higher or the same.
      negatives: how many negatives there are.
    """

    scores: Float[np.ndarray, " t"]
    above: Int[np.ndarray, " t"]
    reached: Int[np.ndarray, " t"]
    negatives: int


def prepare_truth(masks: Sequence[Bool[np.ndarray, "_ _"] | None]) -> PixelTruth | None:
    """Labels the 8-connected regions of the masks of all test parts, good ones included.

    Returns:
      None if a mask is missing: which pixels of that part are defective nobody knows.
    """
    known = [mask for mask in masks if mask is not None]
    if len(known) < len(masks):
        return None
    overlaps = [(1.0 / sizes)[region] for region, sizes in map(regions, known)]
    return PixelTruth(np.concatenate([mask.ravel() for mask in known]), np.concatenate(overlaps))


def regions(mask: Bool[np.ndarray, "_ _"]) -> tuple[Int[np.ndarray, " defective"], Int[np.ndarray, " regions"]]:
    """The 8-connected region, from 0, of every defective pixel in raster order, and the pixels of every region."""
    labels = np.zeros(mask.shape, np.int32)
    scipy.ndimage.label(mask, structure=_NEIGHBOURS, output=labels)
    region = labels[mask] - 1
    return region, np.bincount(region)


def evaluate(
    maps: Sequence[Float[np.ndarray, "_ _"]], defective: Bool[np.ndarray, " m"], truth: PixelTruth | None
) -> dict[str, float | None]:
    """All metrics of one run on its test parts; the score of a part is its map's maximum.

    Args:
      maps: fused anomaly maps, each of the size of its part's image.
      defective: which parts have a defect.
      truth: pixels of the same parts in the same order; without it pixel metrics are None.

    Returns:
      Values under `NAMES` and `EXTRA_NAMES`, None where undefined; `undefined` says why.

    Raises:
      ValueError: if a score is NaN or infinite.
    """
    for i, fused in enumerate(maps):
        bad = fused.size - np.count_nonzero(np.isfinite(fused))
        if bad:
            raise ValueError(f"map of test part {i}: {bad} of {fused.size} scores are NaN or infinite")
    values = of_parts(np.array([fused.max() for fused in maps]), defective)
    if truth is not None:
        values |= pixel_metrics(np.concatenate([fused.ravel() for fused in maps]), truth)
    return {name: values.get(name) for name in (*NAMES, *EXTRA_NAMES)}


def undefined(defective: Bool[np.ndarray, " m"], truth: PixelTruth | None) -> dict[str, str]:
    """Why metrics that `evaluate` gives as None are undefined: reasons by the kind of metric, "image" and "pixel"."""
    reasons = {"image": lacking(int(defective.sum()), int((~defective).sum()), "part")}
    if truth is None:
        reasons["pixel"] = "a defective part has no mask"
    else:
        found = len(truth.overlap)
        reasons["pixel"] = lacking(found, len(truth.defective) - found, "pixel")
    return {kind: reason for kind, reason in reasons.items() if reason}


def lacking(positives: int, negatives: int, noun: str) -> str | None:
    """Which of the two classes that every metric needs is empty, in words; None if neither is."""
    if positives and negatives:
        return None
    return f"no {'good' if positives else 'defective'} {noun} in the test set"


def auroc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float | None:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting one half.

    Returns:
      A value in [0, 1], None if one of the classes is missing.
    """
    return of_parts(scores, positive)["image_auroc"]


def of_parts(scores: Float[np.ndarray, " n"], defective: Bool[np.ndarray, " n"]) -> dict[str, float | None]:
    """Image metrics from one score a part; None if there are no defective or no good parts."""
    if defective.all() or not defective.any():
        return dict.fromkeys(IMAGE_NAMES)
    levels, index = distinct(scores[defective])
    found = cumulate(index, len(levels))
    return detection(rank(levels, np.sort(scores[~defective])), found, "image")


def pixel_metrics(
    scores: Float[np.ndarray, " pixels"], truth: PixelTruth, limits: Sequence[float] = LIMITS
) -> dict[str, float | None]:
    """Pixel AUROC, AP, F1-max and AUPRO at every limit, from one sort.

    Args:
      scores: fused maps of all test parts, flattened in the order of the masks.
      truth: see `prepare_truth`.
      limits: each in (0, 1].

    Returns:
      Values by name, see `detection` and `aupro_name`; None if there are no defective or no good pixels.
    """
    names = [aupro_name(limit) for limit in limits]
    if truth.defective.all() or not truth.defective.any():
        return dict.fromkeys((*PIXEL_NAMES, *names))
    levels, index = distinct(scores[truth.defective])
    ranks = rank(levels, np.sort(scores[~truth.defective]))
    overlap = cumulate(index, len(levels), truth.overlap)
    areas = {name: area(ranks, overlap, limit) for name, limit in zip(names, limits, strict=True)}
    return {**detection(ranks, cumulate(index, len(levels)), "pixel"), **areas}


def aupro_name(limit: float) -> str:
    """Name of AUPRO at a limit: its percents in two digits, such as aupro_05."""
    return f"aupro_{100 * limit:02g}"


def distinct(scores: Float[np.ndarray, " p"]) -> tuple[Float[np.ndarray, " t"], Int[np.ndarray, " p"]]:
    """Distinct scores from the highest down, and the place of every score among them."""
    values, index = np.unique(scores, return_inverse=True)
    return values[::-1], len(values) - 1 - index


def cumulate(
    index: Int[np.ndarray, " p"], count: int, weights: Float[np.ndarray, " p"] | None = None
) -> Float[np.ndarray, " t"]:
    """Weight of the positives that score at least each of the `count` distinct scores; by default how many they are."""
    return np.cumsum(np.bincount(index, weights, minlength=count), dtype=float)


def rank(levels: Float[np.ndarray, " t"], negatives: Float[np.ndarray, " n"]) -> Ranks:
    """Ranks of distinct falling scores among negatives, which are sorted from the lowest up."""
    above, reached = (len(negatives) - np.searchsorted(negatives, levels, side) for side in ("right", "left"))
    return Ranks(levels, above, reached, len(negatives))


def detection(ranks: Ranks, found: Float[np.ndarray, " t"], prefix: str) -> dict[str, float | None]:
    """AUROC, AP, F1-max and the threshold of F1-max, under names that begin with "image" or "pixel".

    AP is the sum of precision times gain in recall over the thresholds. F1-max is the largest F1 of calling defective
    what scores at least a threshold, here the highest threshold that reaches it.

    Args:
      ranks: of the positives' scores.
      found: how many positives score at least as high.
      prefix: the names' beginning.
    """
    # Above all positives of a group nothing may be marked yet.
    precision = found / np.maximum(found + ranks.reached, 1.0)
    f1 = 2.0 * found / (found + ranks.reached + found[-1])
    best = int(np.argmax(f1))
    return {
        f"{prefix}_auroc": area(ranks, found, 1.0),
        f"{prefix}_ap": min(float(np.sum(np.diff(found, prepend=0.0) * precision) / found[-1]), 1.0),
        f"{prefix}_f1": float(f1[best]),
        f"{prefix}_f1_threshold": float(ranks.scores[best]),
    }


def area(ranks: Ranks, found: Float[np.ndarray, " t"], limit: float) -> float:
    """Area under the share found over the false positive rate from 0 to a limit, divided by the limit.

    Of counts it is the ROC curve's. Of overlaps it is AUPRO (Bergmann et al., 2022), the area under the mean
    per-region overlap: every region counts the same, and the good pixels of all parts supply the false positives. Ties
    of positives and negatives make a slope, and the curve is interpolated linearly where the limit cuts one.

    Args:
      ranks: of the positives' scores.
      found: weight of the positives that score at least as high.
      limit: in (0, 1].

    Raises:
      ValueError: if the limit is out of range.
    """
    if not 0 < limit <= 1:
        raise ValueError(f"limit {limit} of the false positive rate: expected above 0 and at most 1")
    share = found / found[-1]
    before = np.append(0.0, share[:-1])
    end = limit * ranks.negatives
    above, reached = np.minimum(ranks.above, end), np.minimum(ranks.reached, end)
    width = reached - above
    cut = width / np.maximum(ranks.reached - ranks.above, 1)
    flat = np.sum(before * (above - np.append(0.0, reached[:-1])))
    slopes = np.sum(width * (before + 0.5 * cut * (share - before)))
    # Past the lowest positive all is found; rounding is kept out of the result.
    return float(np.clip((flat + slopes + end - reached[-1]) / end, 0.0, 1.0))
