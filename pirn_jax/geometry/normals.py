"""Surface normals of organised point clouds: the plane through each point's nearest neighbours, exactly and fast."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from pirn_jax.geometry import camera, coordinates, neighbours_tree, neighbours_wide, neighbours_window

NEIGHBOURS = 30
"""Points to fit a plane to, from the paper."""

_ROUNDING = 1e-5
"""Share by which float32 may be wrong about a distance, with room to spare."""

_HOPE = 1.5
"""Share of what the wider window is certain of that the narrow one's distance may be, for the wider to be tried: the
distance of the last neighbour of more points is shorter (our choice)."""


class Counts(NamedTuple):
    """Numbers of points with neighbours from windows of pixels, and from a KD-tree."""

    window: int
    tree: int


def estimate(
    xyz: Float[np.ndarray, "*batch h w 3"] | Float[Array, "*batch h w 3"], neighbours: int = NEIGHBOURS
) -> Float[np.ndarray, "*batch h w 3"]:
    """Normals of organised clouds: the plane fitted to each point's nearest valid points, turned towards the camera.

    Nearest means in 3D, among all points of the cloud. Points as far as the last neighbour count too (up to as many
    again), so the result depends neither on their order nor on rounding. The normal is the direction of least variance.

    Args:
      xyz: points in the camera frame (x right, y down, z away from the camera), in any unit of length; exactly zero or
        not finite where invalid.
      neighbours: points to fit to, itself included; all there are in a cloud of fewer.

    Returns:
      Unit normals, float32, zero where the point is invalid, the cloud has fewer than three, or the neighbours lie on
      one line. They face the origin, `n . p <= 0`, or in a scan with parallel rays the scanner, `n_z <= 0`.

    Raises:
      ValueError: for fewer than three neighbours.
    """
    if neighbours < 3:
        raise ValueError(f"a plane needs at least 3 neighbours, not {neighbours}")
    clouds = np.asarray(xyz, np.float32)
    found = np.zeros_like(clouds)
    for index in np.ndindex(clouds.shape[:-3]):
        found[index] = count(clouds[index], neighbours)[0]
    return found


def count(xyz: Float[np.ndarray, "h w 3"], neighbours: int) -> tuple[Float[np.ndarray, "h w 3"], Counts]:
    """Normals of one cloud as in `estimate`, and how they were found.

    A window's nearest points are the nearest ones of the cloud if the last of them is nearer than anything outside of
    the window can be. Where that is not certain, a wider window is tried, and where it still is not, a KD-tree tells.
    """
    valid = coordinates.seen(xyz)
    if not valid.any():
        return np.zeros_like(xyz), Counts(0, 0)
    xyz = np.where(valid[..., None], xyz, np.float32(0))
    looking = camera.rays(xyz, valid)
    normals, squared = neighbours_window.normals(xyz, neighbours)
    normals = np.where(valid[..., None], normals, np.float32(0))
    doubtful = valid & ~_certain(squared, camera.reach(looking, xyz, neighbours_window.RADIUS))
    reach = camera.reach(looking, xyz, neighbours_wide.RADIUS)
    hopeful = doubtful & ((squared < (_HOPE * reach) ** 2) | np.isinf(squared))
    if hopeful.any():
        normals[hopeful], squared = neighbours_wide.normals(xyz, hopeful, neighbours)
        doubtful[hopeful] = ~_certain(squared, reach[hopeful])
    if doubtful.any():
        normals[doubtful] = neighbours_tree.normals(xyz, valid, doubtful, neighbours)
    tree = int(np.count_nonzero(doubtful))
    return camera.facing(normals, xyz, looking.parallel), Counts(int(np.count_nonzero(valid)) - tree, tree)


def _certain(squared: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """True where neighbours within a squared distance are certain to be the nearest."""
    return (squared * (1 + _ROUNDING) < reach**2) | np.isposinf(reach)
