"""Gaps that a scanner leaves within a part: a hole in the data is no edge of the surface."""

from typing import Any

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float


def fill(field: Float[np.ndarray, "h w c"], region: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "h w c"]:
    """The field with unknown pixels of the part taken from the nearest known one.

    Args:
      field: zero where unknown.
      region: pixels that show the part; others stay as they are.
    """
    known = np.any(field != 0, axis=-1)
    if not known.any() or known[region].all():
        return field
    nearest: Any = scipy.ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    row, column = nearest
    return np.where((region & ~known)[..., None], field[row, column], field)
