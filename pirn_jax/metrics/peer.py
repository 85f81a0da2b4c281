"""AUPRO the way public evaluations of MVTec 3D-AD take it: from 100 thresholds.

They sort the scores of the good pixels, take 100 of them at equidistant ranks for thresholds, and join the points of
the PRO curve by straight lines. Between two thresholds the false positive rate moves by one percent, so at a limit of
1 % two points are all there is, and the value is not the exact one.
"""

import numpy as np
from jaxtyping import Float, Int

from pirn_jax.metrics.exact import Ranks

THRESHOLDS = 100
RESOLUTION = 224
"""Side in pixels of the maps and masks that these codes compare."""

_HALF = 1 << 16


def positions(count: int) -> Int[np.ndarray, " thresholds"]:
    """Ranks, from 0 for the lowest, of the good pixels whose scores become thresholds."""
    return np.linspace(0, count - 1, THRESHOLDS, dtype=np.int64)


def aupro(
    ranks: Ranks, overlap: Float[np.ndarray, " t"], thresholds: Float[np.ndarray, " thresholds"], limit: float
) -> float:
    """Area under the PRO curve of the thresholds from 0 to a limit, divided by the limit.

    The false positive rate of a threshold is taken from its position, also where scores tie; a region's overlap is the
    share of its pixels that score higher than the threshold.

    Args:
      ranks: of the defective pixels' scores.
      overlap: summed overlap of the pixels that score at least as high.
      thresholds: scores of the good pixels at `positions`.
      limit: in (0, 1].
    """
    rate = 1.0 - (positions(ranks.negatives) + 1) / ranks.negatives
    higher = np.searchsorted(-ranks.scores, -thresholds, "left")
    found = np.append(0.0, overlap)[higher] / overlap[-1]
    x, y = np.append(1.0, rate)[::-1], np.append(1.0, found)[::-1]
    inside = x < limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return float(np.trapezoid(y, x)) / limit


class OrderStatistics:
    """Scores at given ranks among very many float32 numbers, in fixed memory: two passes over the same numbers.

    The first counts the upper 16 bits of each number; they tell in which few of 65536 bins the ranks lie. The second
    counts the lower 16 bits within these bins.
    """

    def __init__(self) -> None:
        self._upper = np.zeros(_HALF, np.int64)
        self._slot = np.full(_HALF, -1)
        self._lower = np.zeros((0, _HALF), np.int64)
        self._ranks = np.zeros(0, np.int64)

    def count(self, scores: Float[np.ndarray, " n"]) -> None:
        """First pass."""
        self._upper += np.bincount(_keys(scores) >> 16, minlength=_HALF)

    def choose(self, ranks: Int[np.ndarray, " k"]) -> None:
        """Between the passes: the ranks, from 0 for the lowest score."""
        self._ranks = ranks
        bins = np.unique(self._bins())
        self._slot[bins] = np.arange(len(bins))
        self._lower = np.zeros((len(bins), _HALF), np.int64)

    def refine(self, scores: Float[np.ndarray, " n"]) -> None:
        """Second pass."""
        keys = _keys(scores)
        slot = self._slot[keys >> 16]
        flat = slot[slot >= 0] * _HALF + (keys[slot >= 0] & (_HALF - 1))
        self._lower += np.bincount(flat, minlength=self._lower.size).reshape(self._lower.shape)

    def values(self) -> Float[np.ndarray, " k"]:
        """The scores, in the order of the ranks."""
        bins = self._bins()
        inside = self._ranks - (np.cumsum(self._upper) - self._upper)[bins]
        lower = np.cumsum(self._lower, axis=1)[self._slot[bins]]
        keys = bins * _HALF + np.sum(lower <= inside[:, None], axis=1)
        return _scores(keys)

    def _bins(self) -> np.ndarray:
        return np.searchsorted(np.cumsum(self._upper), self._ranks, "right")


def _keys(scores: np.ndarray) -> np.ndarray:
    """Integers in [0, 2^32) in the order of the numbers: of negative ones all bits turn, of others the sign's."""
    bits = np.asarray(scores, np.float32).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + 0x80000000)


def _scores(keys: np.ndarray) -> np.ndarray:
    """Undoes `_keys`."""
    bits = np.where(keys >> 31, keys - 0x80000000, 0xFFFFFFFF - keys)
    return bits.astype(np.uint32).view(np.float32)
