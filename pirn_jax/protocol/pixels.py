"""Pixel metrics of more maps than fit into memory, as exact as those of `metrics.pixel_metrics`.

Every map is shown twice. First the defective pixels are collected; then good pixels are counted between their scores,
batch by batch. So memory grows with the number of defective pixels and hardly with that of good ones.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax.protocol import metrics, peer_metrics

_BATCH = 1 << 24
"""Good pixels that are sorted at a time."""


class Pixels:
    """Pixels of a test set: call `collect` for each part, `turn`, `count` for each part again, then `measure`.

    Attributes:
      good: number of good pixels.
      part: (regions,) number of the part that a region lies in, in the order of the calls.
      share: (regions,) share of its image that a region covers.
    """

    def __init__(self, peer: bool = False) -> None:
        """`peer` takes AUPRO from 100 thresholds."""
        self.good = 0
        self.part: Int[np.ndarray, " regions"] = np.zeros(0, int)
        self.share: Float[np.ndarray, " regions"] = np.zeros(0)
        self._statistics = peer_metrics.OrderStatistics() if peer else None
        self._collected: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._batch: list[np.ndarray] = []

    def collect(self, scores: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        """First pass: a part's float32 map without NaN, and its mask."""
        region, sizes = metrics.regions(mask)
        self._collected.append((scores[mask], region, sizes, sizes / mask.size))
        self.good += mask.size - len(region)
        if self._statistics:
            self._statistics.count(scores[~mask])

    def turn(self) -> None:
        """Ends the first pass."""
        scores, regions, sizes, shares = (list(column) for column in zip(*self._collected, strict=True))
        self._collected = []
        counts = np.array([len(size) for size in sizes])
        starts = (np.cumsum(counts) - counts).astype(np.int32)
        self.part = np.repeat(np.arange(len(counts)), counts)
        self.share = np.concatenate(shares)
        self._weight = 1.0 / np.concatenate(sizes)
        self._region = np.concatenate([region + start for region, start in zip(regions, starts, strict=True)])
        self._levels, index = metrics.distinct(np.concatenate(scores))
        self._index = index.astype(np.int32)
        self._above, self._reached = np.zeros((2, len(self._levels)), np.int64)
        if self._statistics and self.good:
            self._statistics.choose(peer_metrics.positions(self.good))

    def count(self, scores: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        """Second pass: the same parts."""
        self._batch.append(scores[~mask])
        if sum(map(len, self._batch)) >= _BATCH:
            self._sort()

    def measure(
        self, chosen: Bool[np.ndarray, " regions"], limits: Sequence[float] = metrics.LIMITS
    ) -> dict[str, float | None]:
        """Pixel metrics of some regions, at least one, against all good pixels, of which there is one or more.

        Args:
          chosen: the regions; other defective pixels are left out.
          limits: of AUPRO, each in (0, 1].

        Returns:
          Values by name, as `metrics.pixel_metrics`.
        """
        self._sort()
        ranks = metrics.Ranks(self._levels, self._above, self._reached, self.good)
        kept = chosen[self._region]
        index, weights = self._index[kept], self._weight[self._region[kept]]
        found, overlap = (metrics.cumulate(index, len(self._levels), of_pixel) for of_pixel in (None, weights))
        values = metrics.detection(ranks, found, "pixel")
        thresholds = self._statistics.values() if self._statistics else None
        for limit in limits:
            if thresholds is None:
                area = metrics.area(ranks, overlap, limit)
            else:
                area = peer_metrics.aupro(ranks, overlap, thresholds, limit)
            values[metrics.aupro_name(limit)] = area
        return values

    def _sort(self) -> None:
        """Counts the good pixels that wait."""
        if not self._batch:
            return
        good = np.sort(np.concatenate(self._batch))
        self._batch = []
        ranks = metrics.rank(self._levels, good)
        self._above += ranks.above
        self._reached += ranks.reached
        if self._statistics:
            self._statistics.refine(good)
