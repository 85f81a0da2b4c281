"""Features of samples on the devices: packed, padded to one number of samples a category."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pirn_jax import features
from pirn_jax.methods.base import Features
from pirn_jax.study import packing
from pirn_jax.study.spec import MODALITIES, Spec
from pirn_jax.study.streaming import Reader
from pirn_jax.training import parallel


class Placed(NamedTuple):
    """Features of some samples of each category on all devices, packed, and padded with zeros to one number of samples.

    Attributes:
      features: leading axes are categories and samples; or a reader of one category's samples.
      kept: the patches' places in their grids, see `packing.order`.
      patches: of a grid.
    """

    features: Features | Reader
    kept: Int[np.ndarray, "c s p"]
    patches: int

    @property
    def whole(self) -> Features:
        """The features where all are on the devices."""
        assert isinstance(self.features, Features)
        return self.features

    def stored_in(self, precision: str) -> "Placed":
        """The same with features of this precision; nothing is copied where they have it."""
        if isinstance(self.features, Reader):
            return self._replace(features=dataclasses.replace(self.features, dtype=jnp.dtype(precision), memory={}))
        return self._replace(features=self.features._replace(values=self.features.values.astype(precision)))

    def spread(self, distances: np.ndarray, *index: Any) -> np.ndarray:
        """Distances on whole grids; `index` says of which categories and samples they are."""
        return packing.spread(distances, self.kept[index], self.patches)


def place_all(spec: Spec, found: features.Extracted) -> Placed:
    """All samples as those of a single category, on all devices."""
    values, masks = taken(spec, found)
    rows = [list(range(len(values)))]
    return place(rows, values, masks, packing.order(masks), jnp.dtype(spec.build().precision))


def place(
    rows: Sequence[Sequence[int]], values: np.ndarray, masks: np.ndarray, kept: np.ndarray, dtype: np.dtype
) -> Placed:
    """Some samples of each category, on all devices.

    Args:
      rows: of each category, the places of its samples in what follows.
      values: features of all samples, (samples, m, g, n, c).
      masks: patches that show the part, (samples, n).
      kept: patches that are kept, see `packing.order`.
      dtype: that features are stored in.
    """
    longest = max(map(len, rows))
    shown = np.take_along_axis(masks, kept, axis=1)

    def padded(of_sample: Callable[[Sequence[int]], np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.zeros((len(rows), longest, *shape), dtype)
        for i, of_category in enumerate(rows):
            if of_category:
                array[i, : len(of_category)] = of_sample(of_category)
        return array

    *front, patches, channels = values.shape[1:]
    packed = padded(lambda chosen: packing.pack(values[chosen], kept[chosen]), (*front, kept.shape[1], channels), dtype)
    features = Features(*jax.device_put((packed, padded(lambda chosen: shown[chosen], shown.shape[1:], bool))))
    places = padded(lambda chosen: kept[chosen], kept.shape[1:], int)
    return Placed(parallel.everywhere(features), places, patches)


def taken(spec: Spec, found: features.Extracted) -> tuple[np.ndarray, np.ndarray]:
    """Features of the modalities that a study takes, and the patches that count in it."""
    chosen = [MODALITIES.index(name) for name in spec.modalities]
    return found.values[:, chosen], found.mask if spec.background == "ignore" else np.ones_like(found.mask)
