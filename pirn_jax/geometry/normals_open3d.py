"""Surface normals as the paper computes them, with Open3D: many times slower than `normals`, which agrees with it."""

from types import ModuleType

import numpy as np
from jaxtyping import Float

from pirn_jax.geometry import camera, coordinates
from pirn_jax.geometry.normals import NEIGHBOURS

TANGENT_PLANE = 50
"""Neighbours along which signs are made consistent, from the paper."""


def estimate(
    xyz: Float[np.ndarray, "h w 3"], neighbours: int = NEIGHBOURS, tangent_plane: int = TANGENT_PLANE
) -> Float[np.ndarray, "h w 3"]:
    """Normals of one cloud: planes fitted to nearest neighbours, signs made consistent from point to point.

    The sign of the whole is Open3D's free choice; here most normals face the camera.

    Args:
      xyz: points in the camera frame; exactly zero or not finite where invalid. Open3D never sees these: NaN makes it
        silently wrong.
      neighbours: points to fit a plane to, itself included.
      tangent_plane: neighbours of the graph along which signs spread.

    Returns:
      Unit normals, float32; zero where invalid, and everywhere if fewer than four points are valid.

    Raises:
      ValueError: if Open3D cannot orient the cloud: one whose points lie exactly in one plane, say.
      ImportError: saying what to install, if Open3D cannot be imported.
    """
    open3d = require()
    valid = coordinates.seen(xyz)
    found = np.zeros(xyz.shape, np.float32)
    if np.count_nonzero(valid) < 4:
        return found
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz[valid].astype(np.float64)))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(neighbours))
    try:
        cloud.orient_normals_consistent_tangent_plane(tangent_plane)
    except RuntimeError as error:
        raise ValueError(
            "Open3D cannot make the signs of normals consistent on this cloud, as when all points lie in one plane or "
            f"coincide ({str(error).splitlines()[0].strip()}); use pirn_jax.geometry.normals"
        ) from error
    found[valid] = np.asarray(cloud.normals)
    clean = np.where(valid[..., None], xyz, np.float32(0))
    facing = camera.facing(found, clean, camera.rays(clean, valid).parallel)
    agree = np.einsum("hwc,hwc->hw", found, facing)[valid]
    return found if np.sum(np.sign(agree)) >= 0 else -found


def require() -> ModuleType:
    """Open3D.

    Raises:
      ImportError: saying what to install, if it cannot be imported.
    """
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise ImportError(
            f'Open3D cannot be imported ({error}); pip install "pirn_jax[open3d]", and where a system library is '
            "missing, on Debian: apt-get install libgomp1 libgl1 libegl1 libx11-6 libusb-1.0-0",
            name="open3d",
        ) from error
    return open3d
