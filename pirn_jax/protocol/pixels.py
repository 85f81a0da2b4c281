"""Pixel metrics of the defects of a test set, of all or of some, from the ranks of their pixels among the good ones.

`Stream` ranks more maps than fit into memory. Every map is shown twice: first the defective pixels are collected; then
good pixels are counted between their scores, batch by batch. So memory grows with the number of defective pixels and
hardly with that of good ones. `repeats` ranks maps that are in memory.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax.protocol import metrics, peer_metrics
from pirn_jax.protocol.metrics import Ranks

_BATCH = 1 << 24
"""Good pixels that are sorted at a time."""


class Regions(NamedTuple):
    """8-connected regions of the masks of a test set, from the first part to the last.

    Attributes:
      part: number of the part that a region lies in.
      share: share of its image that it covers.
      weight: share of it that one of its pixels is.
      of_pixel: number of the region that a defective pixel lies in, in raster order of the masks.
    """

    part: Int[np.ndarray, " regions"]
    share: Float[np.ndarray, " regions"]
    weight: Float[np.ndarray, " regions"]
    of_pixel: Int[np.ndarray, " defective"]


def find_regions(masks: Sequence[Bool[np.ndarray, "_ _"]]) -> Regions:
    """Labels the masks of all test parts, good ones included."""
    return _join([metrics.regions(mask) for mask in masks], [mask.size for mask in masks])


def _join(found: Sequence[tuple[np.ndarray, np.ndarray]], areas: Sequence[int]) -> Regions:
    """Regions of all parts from those of each, which `metrics.regions` gives, and the areas of the images."""
    counts = np.array([len(sizes) for _, sizes in found])
    starts = (np.cumsum(counts) - counts).astype(np.int32)
    sizes = np.concatenate([sizes for _, sizes in found])
    of_pixel = np.concatenate([region + start for (region, _), start in zip(found, starts, strict=True)])
    return Regions(np.repeat(np.arange(len(counts)), counts), sizes / np.repeat(areas, counts), 1.0 / sizes, of_pixel)


class Pixels(NamedTuple):
    """Ranked pixels of a test set.

    Attributes:
      regions: of its masks.
      ranks: of the defective pixels.
      region: number of the region that each of these lies in.
      thresholds: at which AUPRO is taken, see `peer_metrics`; None for all.
    """

    regions: Regions
    ranks: Ranks
    region: Int[np.ndarray, " defective"]
    thresholds: Float[np.ndarray, " thresholds"] | None = None

    def measure(
        self, chosen: Bool[np.ndarray, " regions"], limits: Sequence[float] = metrics.LIMITS
    ) -> dict[str, float | None]:
        """Pixel metrics of some regions, at least one, against all good pixels, of which there is one or more.

        Args:
          chosen: the regions; other defective pixels are left out.
          limits: of AUPRO, each in (0, 1].

        Returns:
          Values by name, see `metrics.detection` and `metrics.aupro_name`.
        """
        kept = chosen[self.region]
        ranks = self.ranks.of(kept)
        last = ranks.thresholds()
        overlap = np.cumsum(self.regions.weight[self.region[kept]])[last]
        ranks = ranks.of(last)
        values = metrics.detection(ranks, last + 1.0, "pixel")
        for limit in limits:
            if self.thresholds is None:
                area = metrics.area(ranks, overlap, limit)
            else:
                area = peer_metrics.aupro(ranks, overlap, self.thresholds, limit)
            values[metrics.aupro_name(limit)] = area
        return values


def falling(scores: Float[np.ndarray, "*r n"]) -> Int[np.ndarray, "*r n"]:
    """Places of the scores along the last axis, the highest first."""
    return np.argsort(scores)[..., ::-1]


class Stream:
    """Ranks pixels: call `collect` for each part, `turn`, `count` for each part again, then `pixels`."""

    def __init__(self, peer: bool = False) -> None:
        """`peer` takes AUPRO from 100 thresholds."""
        self.good = 0
        """Number of good pixels."""
        self._statistics = peer_metrics.OrderStatistics() if peer else None
        self._collected: list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray], int]] = []
        self._batch: list[np.ndarray] = []

    def collect(self, scores: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        """First pass: a part's float32 map without NaN, and its mask."""
        region, sizes = metrics.regions(mask)
        self._collected.append((scores[mask], (region, sizes), mask.size))
        self.good += mask.size - len(region)
        if self._statistics:
            self._statistics.count(scores[~mask])

    def turn(self) -> Regions:
        """Ends the first pass."""
        scores, found, areas = zip(*self._collected, strict=True)
        self._collected = []
        self._regions = _join(found, areas)
        positives = np.concatenate(scores)
        order = falling(positives)
        self._scores, self._region = positives[order], self._regions.of_pixel[order]
        # Counts take most of the memory.
        self._above, self._reached = np.zeros((2, len(positives)), np.int32 if self.good < 2**31 else np.int64)
        if self._statistics and self.good:
            self._statistics.choose(peer_metrics.positions(self.good))
        return self._regions

    def count(self, scores: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"]) -> None:
        """Second pass: the same parts."""
        self._batch.append(scores[~mask])
        if sum(map(len, self._batch)) >= _BATCH:
            self._sort()

    def pixels(self) -> Pixels:
        """Ends the second pass."""
        self._sort()
        ranks = Ranks(self._scores, self._above, self._reached, self.good)
        return Pixels(self._regions, ranks, self._region, self._statistics.values() if self._statistics else None)

    def _sort(self) -> None:
        """Counts the good pixels that wait."""
        if not self._batch:
            return
        good = np.sort(np.concatenate(self._batch))
        self._batch = []
        ranks = metrics.rank(self._scores, good)
        self._above += ranks.above
        self._reached += ranks.reached
        if self._statistics:
            self._statistics.refine(good)
