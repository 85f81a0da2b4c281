"""Packing: of each sample only the patches that show the part, so that none of the others is computed with.

Methods know no places of patches, so it changes no result but by rounding; what they draw of patches, as
`--prototype_start=patches` does, depends on how many are kept.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def order(masks: Bool[np.ndarray, "s n"]) -> Int[np.ndarray, "s p"]:
    """Patches of each sample that are kept, those that show the part first.

    All samples keep as many as the one with most of them needs; where others have fewer, patches off the part follow.
    """
    return np.argsort(~masks, axis=1, kind="stable")[:, : masks.sum(1).max()]


def pack(values: Float[np.ndarray, "s m g n c"], kept: Int[np.ndarray, "s p"]) -> Float[np.ndarray, "s m g p c"]:
    """Features of the patches that are kept."""
    return np.take_along_axis(values, kept[:, None, None, :, None], axis=3)


def spread(
    distances: Float[np.ndarray, "*batch k p"], kept: Int[np.ndarray, "*batch p"], patches: int
) -> Float[np.ndarray, "*batch k n"]:
    """Distances of all patches of the grid, zero where none was kept."""
    whole = np.zeros((*distances.shape[:-1], patches), distances.dtype)
    np.put_along_axis(whole, np.broadcast_to(kept[..., None, :], distances.shape), distances, axis=-1)
    return whole
