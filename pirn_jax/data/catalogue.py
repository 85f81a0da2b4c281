"""Catalogue of data sets in their published layouts."""

import types
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pirn_jax.data import eyecandies, folder, mvtec3d, realiad_d3
from pirn_jax.data.sample import Splits


class DataSet(NamedTuple):
    """Reader and published facts of a data set.

    Attributes:
      read: `(directory, categories, options, problems) -> splits by category`; of a part at most its mask is decoded.
      published: number of parts of each category and split, as its authors state; empty where they do not.
      plane_tolerance: distance in metres up to which points belong to the supporting plane, see
        `geometry.foreground`.
      cluster_reach: distance in metres across which points off the plane belong together.
      totals: numbers of "good" and "defective" parts in all, where authors state nothing finer.
    """

    read: Callable[..., dict[str, Splits]]
    published: Mapping[str, Mapping[str, int]]
    plane_tolerance: float
    cluster_reach: float
    totals: Mapping[str, int] = types.MappingProxyType({})


BUILT_IN = "procedural"

DATASETS = {
    # The built-in parts are low, a coaster less than 3 mm, and their scanner is precise (our choice).
    BUILT_IN: DataSet(mvtec3d.read, {}, 0.002, 0.006),
    "mvtec3d": DataSet(mvtec3d.read, mvtec3d.PUBLISHED, 0.005, 0.006),
    # Rendered sweets are about ten times as large as MVTec's parts (our choice).
    "eyecandies": DataSet(eyecandies.read, eyecandies.PUBLISHED, 0.05, 0.06),
    "realiad_d3": DataSet(realiad_d3.read, realiad_d3.PUBLISHED, 0.005, 0.006, realiad_d3.PUBLISHED_TOTALS),
    "folder": DataSet(folder.read, {}, 0.005, 0.006),
}
