"""Normals beside Open3D's, the library that the paper used; skipped where it cannot be imported."""

import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.geometry import normals

try:
    import open3d
except (ImportError, OSError) as error:
    pytest.skip(
        f"Open3D cannot be imported ({error}); install the extra open3d and the system's libusb-1.0, libEGL, libGL and "
        "libX11",
        allow_module_level=True,
    )


def test_smooth_surface_has_open3ds_normals():
    height, width = 80, 100
    rows, columns = np.mgrid[:height, :width]
    x, y = (columns - width / 2) * 5e-4, (rows - height / 2) * 5e-4
    z = 0.4 + 0.004 * np.sin(x / 0.006) * np.cos(y / 0.008) + 0.1 * x
    xyz = np.stack([x, y, z], axis=-1).astype(np.float32)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz.reshape(-1, 3).astype(float)))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(30))
    cloud.orient_normals_towards_camera_location(np.zeros(3))
    expected = np.asarray(cloud.normals).reshape(height, width, 3)
    cosine = np.sum(np.asarray(normals.estimate(jnp.array(xyz))) * expected, axis=-1)
    # Away from the border, where a window is cut off and the nearest neighbours are not.
    angle = np.degrees(np.arccos(np.clip(cosine[6:-6, 6:-6], -1, 1)))
    assert np.median(angle) < 0.5
    assert angle.max() < 2.0
