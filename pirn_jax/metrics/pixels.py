"""Pixel metrics of all regions of a test set, or of some, from the ranks of defective pixels among the good ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax.metrics import exact, peer
from pirn_jax.metrics.exact import Ranks
from pirn_jax.metrics.regions import Regions


class Pixels(NamedTuple):
    """Ranked pixels of a test set.

    Attributes:
      regions: of its masks.
      ranks: of the defective pixels.
      region: number of the region that each of these lies in.
      thresholds: at which AUPRO is taken, see `peer.positions`; None for all.
    """

    regions: Regions
    ranks: Ranks
    region: Int[np.ndarray, " defective"]
    thresholds: Float[np.ndarray, " thresholds"] | None = None

    def measure(
        self, chosen: Bool[np.ndarray, " regions"], limits: Sequence[float] = exact.LIMITS
    ) -> dict[str, float | None]:
        """Pixel metrics of some regions, at least one, against all good pixels, of which there is one or more.

        Args:
          chosen: the regions; other defective pixels are left out.
          limits: of AUPRO, each in (0, 1].

        Returns:
          Values by name, see `exact.detection` and `exact.aupro_name`.
        """
        kept = chosen[self.region]
        ranks = self.ranks.of(kept)
        last = ranks.thresholds()
        overlap = np.cumsum(self.regions.weight[self.region[kept]])[last]
        ranks = ranks.of(last)
        values = exact.detection(ranks, last + 1.0, "pixel")
        for limit in limits:
            if self.thresholds is None:
                area = exact.area(ranks, overlap, limit)
            else:
                area = peer.aupro(ranks, overlap, self.thresholds, limit)
            values[exact.aupro_name(limit)] = area
        return values


def falling(scores: Float[np.ndarray, "*r n"]) -> Int[np.ndarray, "*r n"]:
    """Places of the scores along the last axis, the highest first."""
    return np.argsort(scores)[..., ::-1]
