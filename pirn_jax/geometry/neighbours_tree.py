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
    # Building takes most of the time, for few points are asked about.
    tree = KDTree(points, leafsize=32, compact_nodes=False, balanced_tree=False)
    queries = xyz[wanted].astype(np.float64)
    found = np.zeros((len(queries), 3), np.float32)
    for start in range(0, len(queries), _CHUNK):
        centres = queries[start : start + _CHUNK]
        steps = np.zeros((4, 2 * neighbours, _CHUNK), np.float32)
        steps[..., : len(centres)] = _steps(tree, centres, neighbours)
        found[start : start + _CHUNK] = np.asarray(_planes(steps)).T[: len(centres)]
    return found


def _steps(tree: KDTree, centres: np.ndarray, neighbours: int) -> np.ndarray:
    """Steps to the nearest points and ones, (4, 2 neighbours, n), both zero where there is none.

    One point more than the neighbours tells where others are as far as the last of them; only there more are sought.
    """
    steps = np.zeros((4, 2 * neighbours, len(centres)), np.float32)
    distances, nearest = map(np.asarray, tree.query(centres, neighbours + 1, workers=-1))
    last = distances[:, min(neighbours, tree.n) - 1]
    limit = last * (1 + TIE / 2)
    tied = distances[:, -1] <= limit
    _place(steps, np.flatnonzero(~tied), tree.data, centres, nearest[~tied, :neighbours])
    if tied.any():
        distances, nearest = map(np.asarray, tree.query(centres[tied], 2 * neighbours, workers=-1))
        nearest[distances > limit[tied, None]] = tree.n
        _place(steps, np.flatnonzero(tied), tree.data, centres, nearest)
    return steps


def _place(steps: np.ndarray, places: np.ndarray, points: np.ndarray, centres: np.ndarray, nearest: np.ndarray) -> None:
    """Writes the steps to the nearest points, for which the tree's answer one past the last says that there is none."""
    there = nearest < len(points)
    offsets = points[np.where(there, nearest, 0)] - centres[places, None]
    steps[:3, : nearest.shape[1], places] = np.where(there[..., None], offsets, 0.0).transpose(2, 1, 0)
    steps[3, : nearest.shape[1], places] = there


@jax.jit
def _planes(steps):
    return normals_plane.normal(jnp.stack([jnp.sum(steps[i] * steps[j], axis=0) for i, j in normals_plane.PAIRS]))
