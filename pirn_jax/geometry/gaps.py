"""Gaps that a scanner leaves within a part: a few lost points are no edge of the surface."""

from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

from pirn_jax.geometry import coordinates

WIDEST = 3.0
"""Half the width in pixels of gaps that are filled (our choice): wider ones are holes, or what nothing is seen of."""


def fill(field: Float[np.ndarray, "h w c"], region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w c"]:
    """The field with narrow gaps of the part taken from the nearest known pixel.

    Args:
      field: zero where unknown.
      region: pixels that show the part; others stay as they are.
    """
    known = coordinates.nonzero(field)
    if not known.any() or known[region].all():
        return field
    found: Any = scipy.ndimage.distance_transform_edt(~known, return_indices=True)
    distance, (row, column) = found
    components: Any = scipy.ndimage.label(~known & region, np.ones((3, 3)))
    labels = components[0]
    deepest = scipy.ndimage.maximum(distance, labels, np.arange(labels.max() + 1))
    narrow = (labels > 0) & (np.asarray(deepest)[labels] <= WIDEST)
    filled = field.copy()
    filled[narrow] = field[row[narrow], column[narrow]]
    return filled
