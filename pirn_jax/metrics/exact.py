"""Exact detection and localisation metrics, in float64.

Nothing is binned and no threshold is skipped; tied scores count as one threshold. The share of defects found changes
only at scores that defective pixels have. So all curves follow from how many good pixels lie above each of these: one
sort of the good pixels serves every metric, and sums over batches of good pixels are as exact (see `streamed`).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NAMES = ("image_auroc", "pixel_auroc", "aupro_30")
"""Headline metrics, which every table shows."""

IMAGE_NAMES = ("image_auroc", "image_ap", "image_f1", "image_f1_threshold")
PIXEL_NAMES = ("pixel_auroc", "pixel_ap", "pixel_f1", "pixel_f1_threshold")

AUPRO_LIMIT = 0.3
"""False positive rate up to which the PRO curve is integrated, as in MVTec 3D-AD."""

LIMITS = (AUPRO_LIMIT, 0.1, 0.05, 0.01)
"""Limits of AUPRO that papers report."""


class Ranks(NamedTuple):
    """Ranks of positives among negatives, of which every curve is made.

    Attributes:
      scores: of the positives, from the highest down.
      above: how many negatives score higher than each.
      reached: how many negatives score higher or the same.
      negatives: how many negatives there are.
    """

    scores: Float[np.ndarray, " p"]
    above: Int[np.ndarray, " p"]
    reached: Int[np.ndarray, " p"]
    negatives: int

    def of(self, kept: Bool[np.ndarray, " p"] | Int[np.ndarray, " k"]) -> "Ranks":
        """Those of some positives, which are marked, or given by their places in rising order."""
        return Ranks(self.scores[kept], self.above[kept], self.reached[kept], self.negatives)

    def thresholds(self) -> Int[np.ndarray, " t"]:
        """The place of the last positive of each distinct score."""
        return np.flatnonzero(np.append(self.scores[1:] != self.scores[:-1], True))


def lacking(positives: int, negatives: int, noun: str) -> str | None:
    """The class without which metrics are undefined, in words; None if neither is empty."""
    if positives and negatives:
        return None
    return f"no {'good' if positives else 'defective'} {noun} in the test set"


def of_parts(scores: Float[np.ndarray, " n"], defective: Bool[np.ndarray, " n"]) -> dict[str, float | None]:
    """Image metrics from one score a part; None if there are no defective or no good parts.

    AUROC is the chance that a defective part scores above a good one, ties counting one half.
    """
    if defective.all() or not defective.any():
        return dict.fromkeys(IMAGE_NAMES)
    ranks = rank(np.sort(scores[defective])[::-1], np.sort(scores[~defective]))
    last = ranks.thresholds()
    return detection(ranks.of(last), last + 1.0, "image")


def aupro_name(limit: float) -> str:
    """Name of AUPRO at a limit: its percents in two digits, such as aupro_05."""
    return f"aupro_{100 * limit:02g}"


def rank(positives: Float[np.ndarray, " p"], negatives: Float[np.ndarray, " n"]) -> Ranks:
    """Ranks of falling scores among negatives, which are sorted from the lowest up."""
    above, reached = (len(negatives) - np.searchsorted(negatives, positives, side) for side in ("right", "left"))
    return Ranks(positives, above, reached, len(negatives))


def detection(ranks: Ranks, found: Float[np.ndarray, " t"], prefix: str) -> dict[str, float | None]:
    """AUROC, AP, F1-max and the threshold of F1-max, under names that begin with "image" or "pixel".

    AP is the sum of precision times gain in recall over the thresholds. F1-max is the largest F1 of calling defective
    what scores at least a threshold, here the highest threshold that reaches it.

    Args:
      ranks: of the distinct scores of positives.
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
      ranks: of the distinct scores of positives.
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
