"""Nearest neighbours from a KD-tree: slower than a window of pixels, and right for every point."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from pirn_jax.geometry import normals_plane
from pirn_jax.geometry.neighbours_window import TIE

_CHUNK = 8192
"""Points of a call, so that one program serves all."""


def normals(
    xyz: Float[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"], wanted: Bool[np.ndarray, "h w"], neighbours: int
) -> Float[np.ndarray, "n 3"]:
    """Unit normals at the wanted points, on either side of the surface, from the nearest valid points.

    Points as far as the last neighbour count too, as many again as there are neighbours.
    """
    points = xyz[valid].astype(np.float64)
    tree = KDTree(points, balanced_tree=False)
    # Where there are too few points, the tree answers with the index one past the last.
    points = np.concatenate([points, np.zeros((1, 3))])
    queries = xyz[wanted].astype(np.float64)
    found = np.zeros((len(queries), 3), np.float32)
    for start in range(0, len(queries), _CHUNK):
        centres = queries[start : start + _CHUNK]
        distances, nearest = tree.query(centres, 2 * neighbours, workers=-1)
        last = distances[:, min(neighbours, len(points) - 1) - 1, None]
        near = (distances <= last * (1 + TIE / 2)) & (nearest < len(points) - 1)
        steps = np.zeros((4, 2 * neighbours, _CHUNK), np.float32)
        offsets = points[nearest] - centres[:, None]
        steps[:3, :, : len(centres)] = np.where(near[..., None], offsets, 0.0).transpose(2, 1, 0)
        steps[3, :, : len(centres)] = near.T
        found[start : start + _CHUNK] = np.asarray(_planes(steps)).T[: len(centres)]
    return found


@jax.jit
def _planes(steps):
    return normals_plane.normal(jnp.stack([jnp.sum(steps[i] * steps[j], axis=0) for i, j in normals_plane.PAIRS]))
