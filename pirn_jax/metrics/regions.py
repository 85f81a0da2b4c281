"""Connected regions of ground-truth masks."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

CONNECTIVITY = 8
_NEIGHBOURS = np.ones((3, 3), int)


class Regions(NamedTuple):
    """8-connected regions of the masks of a test set, from the first sample to the last.

    Attributes:
      sample: number of the sample that a region lies in.
      share: share of its image that it covers.
      weight: share of it that one of its pixels is.
      of_pixel: number of the region that a defective pixel lies in, in raster order of the masks.
    """

    sample: Int[np.ndarray, " regions"]
    share: Float[np.ndarray, " regions"]
    weight: Float[np.ndarray, " regions"]
    of_pixel: Int[np.ndarray, " defective"]


def label(mask: Bool[np.ndarray, "_ _"]) -> tuple[Int[np.ndarray, " defective"], Int[np.ndarray, " regions"]]:
    """The region, from 0, of every defective pixel of a mask in raster order, and the number of pixels of each."""
    labels = np.zeros(mask.shape, np.int32)
    scipy.ndimage.label(mask, structure=_NEIGHBOURS, output=labels)
    region = labels[mask] - 1
    return region, np.bincount(region)


def find(masks: Iterable[Bool[np.ndarray, "_ _"]]) -> tuple[Regions, Int[np.ndarray, " defective"]]:
    """Regions of the masks of all test samples, good ones included; each mask is looked at once.

    Returns:
      The regions, and the defective pixels as indices into the pixels of all masks.
    """
    labels, sizes, areas, places, start = [], [], [], [], 0
    for mask in masks:
        region, counts = label(mask)
        labels.append(region + sum(map(len, sizes)))
        sizes.append(counts)
        areas.append(np.full(len(counts), mask.size))
        places.append(start + np.flatnonzero(mask))
        start += mask.size
    of_pixel, size, area, defective = (np.concatenate([np.zeros(0, int), *of]) for of in (labels, sizes, areas, places))
    samples = np.repeat(np.arange(len(sizes)), np.array([len(of_mask) for of_mask in sizes], int))
    return Regions(samples, size / area, 1.0 / size, of_pixel.astype(np.int32)), defective
