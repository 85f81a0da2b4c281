"""Normals beside Open3D's, the library that the paper used; skipped where it cannot be imported."""

import sys

import numpy as np
import pytest

from pirn_jax.geometry import normals, normals_open3d


def scan(size: int, noise: float = 0.0, tilt: float = 0.0, step: float = 0.0, holes: float = 0.0) -> np.ndarray:
    # Without symmetry: of points equally far away Open3D takes any, we take all.
    rng = np.random.default_rng(0)
    v, u = (np.mgrid[:size, :size] - size / 2) / (1.75 * size)
    z = 0.6 + 0.01 * np.sin(35 * u + 0.3) * np.cos(45 * v + 0.2) + step * ((u > 0.05) ^ (v > -0.1))
    z = z / (1 - tilt * u) + noise * rng.normal(size=u.shape)
    xyz = np.stack([u * z, v * z, z], axis=-1)
    return np.where((rng.random(u.shape) < holes)[..., None], 0, xyz).astype(np.float32)


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))


@pytest.fixture
def open3d():
    return pytest.importorskip("open3d", exc_type=ImportError)


@pytest.mark.parametrize(
    "settings",
    [{}, {"tilt": 1.0}, {"noise": 1e-4}, {"step": 0.03}, {"holes": 0.2}],
    ids=["bumpy", "tilted", "noisy", "stepped", "holed"],
)
def test_planes_are_those_of_open3d(open3d, settings):
    xyz = scan(150, **settings)
    valid = xyz.any(axis=-1)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz[valid].astype(float)))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(30))
    theirs, ours = np.asarray(cloud.normals), normals.estimate(xyz)[valid]
    apart = np.minimum(angles(ours, theirs), angles(ours, -theirs))
    assert np.mean(apart < 0.1) >= 0.999


@pytest.mark.parametrize("settings", [{}, {"tilt": 1.0}, {"noise": 1e-4}], ids=["bumpy", "tilted", "noisy"])
def test_a_smooth_surface_has_the_signs_of_the_tangent_planes(open3d, settings):
    xyz = scan(70, **settings)
    theirs = normals_open3d.estimate(xyz)
    assert theirs.dtype == np.float32
    assert np.mean(angles(normals.estimate(xyz), theirs) < 0.1) >= 0.999


def test_most_normals_face_the_camera_on_whichever_side_it_is(open3d):
    for side in (1, -1):
        xyz = scan(40) * np.array([1, 1, side], np.float32)
        assert (np.sum(normals_open3d.estimate(xyz) * xyz, axis=-1) < 0).all()


@pytest.mark.parametrize("invalid", [0.0, np.nan])
def test_invalid_points_never_reach_open3d(open3d, invalid):
    xyz = scan(40)
    xyz[5:12, 8:30] = invalid
    found = normals_open3d.estimate(xyz)
    assert not found[5:12, 8:30].any()
    known = xyz[..., 2] > 0
    assert angles(found, normals.estimate(xyz))[known].max() < 1


def test_too_few_points_have_no_normals(open3d):
    xyz = np.zeros((6, 7, 3), np.float32)
    assert not normals_open3d.estimate(xyz).any()
    xyz[0, :3] = np.eye(3)
    assert not normals_open3d.estimate(xyz).any()


def test_a_cloud_that_open3d_cannot_orient_is_told(open3d):
    xyz = np.stack([*np.mgrid[:10.0, :10.0], np.full((10, 10), 50.0)], axis=-1).astype(np.float32)
    with pytest.raises(ValueError, match="in one plane.*use pirn_jax.geometry.normals"):
        normals_open3d.estimate(xyz)


def test_without_open3d_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(ImportError, match=r'pip install "pirn_jax\[open3d\]".*libgomp1 libgl1 libegl1 libx11-6 libusb'):
        normals_open3d.estimate(scan(10))
