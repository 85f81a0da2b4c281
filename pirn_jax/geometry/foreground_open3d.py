"""The foreground as the public pipelines compute it, by Open3D (extra `open3d`): the reference for `foreground`."""

import numpy as np
from jaxtyping import Float

from pirn_jax.geometry import foreground
from pirn_jax.geometry.normals_open3d import require

DRAWN = 50
"""Points that each plane of RANSAC is fitted to (BTF, M3DM, CFM)."""


def find_open3d(
    xyz: Float[np.ndarray, "h w 3"], tolerance: float = foreground.TOLERANCE, reach: float = foreground.REACH
) -> foreground.Foreground:
    """Finds the part as `foreground.find` does, with Open3D's RANSAC and DBSCAN; large clouds take minutes.

    Args:
      xyz: points in metres; zero or not finite where nothing was seen.
      tolerance: points nearer to the plane are removed, in metres.
      reach: radius of a neighbourhood of DBSCAN, in metres.

    Raises:
      ValueError: if tolerance or reach is not positive.
      ImportError: saying what to install, if Open3D cannot be imported.
    """
    return foreground.separate(xyz, tolerance, reach, _fit_plane, _cluster)


def _fit_plane(points: np.ndarray, threshold: float) -> foreground.Plane | None:
    open3d = require()
    open3d.utility.random.seed(0)
    model, _ = _cloud(points).segment_plane(threshold, DRAWN, foreground.DRAWS)
    length = np.linalg.norm(model[:3])
    return (model[:3] / length, float(-model[3] / length)) if length else None


def _cluster(points: np.ndarray, reach: float) -> np.ndarray:
    return np.asarray(_cloud(points).cluster_dbscan(reach, foreground.NEIGHBOURS))


def _cloud(points: np.ndarray):
    open3d = require()
    return open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
