"""Normals beside those of all distances sorted in float64: every neighbour is the right one, however it was found."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from pirn_jax.geometry import (
    camera,
    kth_smallest,
    neighbours_tree,
    neighbours_wide,
    neighbours_window,
    normals,
    normals_plane,
)

SIZE = (24, 37)
"""One size for the property tests: not a multiple of anything."""

FOCAL = 60.0

kth_smallest_of = jax.jit(kth_smallest.find)
least_direction = jax.jit(normals_plane.normal)


def sorted_normals(xyz: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Normals on either side, and whether they are well defined: no near tie, variances apart, not near a line."""
    points = xyz.reshape(-1, 3).astype(np.float64)
    valid = np.flatnonzero(points.any(axis=-1))
    points = points[valid]
    found, defined = np.zeros((xyz.shape[0] * xyz.shape[1], 3)), np.zeros(xyz.shape[0] * xyz.shape[1], bool)
    for place, point in zip(valid, points, strict=True):
        squared = np.sum((points - point) ** 2, axis=-1)
        last = np.sort(squared)[min(neighbours, len(points)) - 1]
        near = points[squared <= last * (1 + 2e-6)]
        variances, directions = np.linalg.eigh(np.cov(near.T, bias=True))
        found[place] = directions[:, 0]
        tied = np.abs(squared / last - 1) < 1e-5
        apart = variances[1] - variances[0] > 2e-3 * variances.sum() if variances.sum() > 0 else False
        defined[place] = apart and np.ptp(squared[tied]) <= 1e-9 * last
    return found.reshape(xyz.shape), defined.reshape(xyz.shape[:2])


def angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees between lines; 90 where one of the vectors is zero."""
    apart = np.linalg.norm(np.cross(a.astype(np.float64), b), axis=-1)
    along = np.abs(np.sum(a.astype(np.float64) * b, axis=-1))
    return np.where(apart + along > 0, np.degrees(np.arctan2(apart, along)), 90.0)


def pinhole(z: np.ndarray, stretch: float = 1.0) -> np.ndarray:
    rows, columns = np.mgrid[: z.shape[0], : z.shape[1]]
    x, y = (columns - z.shape[1] / 2) / FOCAL * z, (rows - z.shape[0] / 2) * stretch / FOCAL * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def parallel(z: np.ndarray, stretch: float = 1.0) -> np.ndarray:
    rows, columns = np.mgrid[: z.shape[0], : z.shape[1]]
    return np.stack([columns / FOCAL, rows * stretch / FOCAL, z], axis=-1).astype(np.float32)


def depth(seed: int, noise: float = 0.0, size: tuple[int, int] = SIZE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [rng.uniform(0.01, 0.04) * np.sin(columns * a + rows * b + c) for a, b, c in rng.uniform(-0.4, 0.4, (4, 3))]
    return 1.0 + np.sum(waves, axis=0) + noise * rng.normal(size=size)


def spoilt(xyz: np.ndarray, seed: int, holes: float, flying: float) -> np.ndarray:
    """With holes, and with pixels that fly anywhere along their ray."""
    rng = np.random.default_rng(seed)
    shape = (*xyz.shape[:2], 1)
    flown = np.where(rng.random(shape) < flying, xyz * rng.uniform(0.5, 2, shape), xyz)
    return np.where(rng.random(shape) < holes, 0, flown).astype(np.float32)


def assert_exact(xyz: np.ndarray, neighbours: int = 30, compared: float = 0.5) -> normals.Counts:
    """Compares with the sorted ones wherever these are well defined, in at least a share of the points."""
    found, counts = normals.count(xyz, neighbours)
    exact, defined = sorted_normals(xyz, neighbours)
    assert counts.window + counts.tree == np.count_nonzero(xyz.any(axis=-1))
    assert np.count_nonzero(defined) >= compared * sum(counts)
    assert angles(found, exact)[defined].max(initial=0.0) < 0.05
    return counts


SCANS = {
    "smooth": pinhole(depth(0)),
    "parallel rays": parallel(depth(0)),
    "parallel rays, depth near zero": parallel(depth(0) - 1.0),
    "noisy": pinhole(depth(1, 3e-3)),
    "very noisy": pinhole(depth(1, 3e-2)),
    "stepped": pinhole(depth(2) + 0.2 * (np.mgrid[:24, :37][1] // 9 % 2)),
    "holed": spoilt(pinhole(depth(3)), 3, 0.4, 0.0),
    "flying pixels": spoilt(pinhole(depth(4)), 4, 0.1, 0.05),
    "sparse": spoilt(pinhole(depth(5)), 5, 0.9, 0.0),
    "mirrored": pinhole(depth(6)) * np.array([-1, 1, 1], np.float32),
    "upside down": pinhole(depth(6)) * np.array([1, -1, 1], np.float32),
    "pixels of 1 : 3": pinhole(depth(7), 3.0),
    "steep": pinhole(depth(8) + 0.06 * np.mgrid[:24, :37][1]),
    "behind the camera": -pinhole(depth(9)),
    "smaller than the window": pinhole(depth(10, size=(4, 5))),
    "one row": parallel(depth(11, 1e-2, size=(1, 70))),
    "one column": pinhole(depth(11, 1e-2, size=(70, 1))),
    "transposed": np.ascontiguousarray(pinhole(depth(12)).transpose(1, 0, 2)),
    "shuffled": np.random.default_rng(0).permutation(pinhole(depth(13)).reshape(-1, 3)).reshape(24, 37, 3),
}


@pytest.mark.parametrize("name", SCANS)
def test_normals_are_those_of_the_nearest_points_of_all(name):
    assert_exact(SCANS[name])


@pytest.mark.parametrize("neighbours", [4, 10, 29, 31, 80, 200])
def test_any_number_of_neighbours_is_exact(neighbours):
    assert_exact(SCANS["flying pixels"], neighbours)


def test_equally_near_points_all_count():
    # On a lattice of powers of two, distances are exact: 29 points lie within 3 spacings, 8 more at sqrt(10).
    rows, columns = np.mgrid[:24, :37] / 64
    z = 1 + np.round(3 * np.sin(columns * 9) * np.cos(rows * 7)) / 64
    xyz = np.stack([columns + 1, rows + 1, z], axis=-1).astype(np.float32)
    assert (assert_exact(xyz, compared=0.9).window) > 0
    # The same points in another order go through the KD-tree, with the same neighbours.
    order = np.random.default_rng(1).permutation(24 * 37)
    shuffled, counts = normals.count(xyz.reshape(-1, 3)[order].reshape(24, 37, 3), 30)
    assert counts.window == 0
    _, defined = sorted_normals(xyz, 30)
    back = np.empty((24 * 37, 3), np.float32)
    back[order] = shuffled.reshape(-1, 3)
    assert angles(back.reshape(24, 37, 3), normals.count(xyz, 30)[0])[defined].max() < 0.02


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    noise=st.sampled_from([0.0, 1e-3, 1e-2]),
    holes=st.floats(0, 0.7),
    flying=st.floats(0, 0.2),
    neighbours=st.integers(3, 60),
    scanner=st.sampled_from([pinhole, parallel]),
    stretch=st.floats(0.3, 3.0),
)
def test_every_scan_has_exact_normals(seed, noise, holes, flying, neighbours, scanner, stretch):
    xyz = spoilt(scanner(depth(seed, noise), stretch), seed, holes, flying)
    assert_exact(xyz, neighbours, compared=0.0)


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3), shift=st.tuples(*[st.floats(-2, 2)] * 3), seed=st.integers(0, 10**6)
)
def test_normals_turn_with_the_scan(turn, shift, seed):
    xyz = spoilt(pinhole(depth(seed, 1e-3)), seed, 0.1, 0.0)
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    holes = ~xyz.any(axis=-1)
    turned = (xyz @ rotation.T + np.array(shift) + 1e-3).astype(np.float32)
    turned[holes] = 0
    one, two = normals.estimate(xyz) @ rotation.T, normals.estimate(turned)
    # Which side faces the camera may change, and so may rounded near ties; the plane may not.
    apart = angles(one, two)[~holes]
    assert np.quantile(apart, 0.98) < 0.05
    assert not two[holes].any()


def test_the_window_serves_ordered_scans_and_the_tree_what_is_left():
    size = (100, 120)
    smooth = normals.count(pinhole(1 + (depth(0, size=size) - 1) / 4), 30)[1]
    assert smooth.tree < 0.05 * smooth.window
    stepped = normals.count(pinhole(depth(0, size=size) + 0.3 * (np.mgrid[:100, :120][0] > 50)), 30)[1]
    assert stepped.window > stepped.tree > 0
    assert normals.count(SCANS["shuffled"], 30)[1].window == 0


@pytest.mark.parametrize("name", ["smooth", "holed"])
def test_windows_and_tree_agree(name):
    xyz = SCANS[name]
    valid = xyz.any(axis=-1)
    window, squared = neighbours_window.normals(xyz, 30)
    looking = camera.rays(xyz, valid)
    sure = valid & (squared < 0.99 * camera.reach(looking, xyz, neighbours_window.RADIUS) ** 2)
    assert np.count_nonzero(sure) > 100
    tree = neighbours_tree.normals(xyz, valid, sure, 30)
    assert angles(window[sure], tree).max() < 0.02
    wide, wide_squared = neighbours_wide.normals(xyz, sure, 30)
    assert angles(wide, tree).max() < 0.02
    np.testing.assert_allclose(wide_squared, squared[sure], rtol=1e-6)


def test_the_wide_window_serves_scans_whose_depth_scatters():
    # Noise of three pixels' width: the nearest points are spread over more than the narrow window.
    size = (60, 70)
    xyz = pinhole(1 + (depth(0, size=size) - 1) / 4 + 3 * np.random.default_rng(0).normal(size=size) / FOCAL)
    looking = camera.rays(xyz, np.ones(size, bool))
    narrow = neighbours_window.normals(xyz, 30)[1] < camera.reach(looking, xyz, neighbours_window.RADIUS) ** 2
    counts = assert_exact(xyz)
    assert np.mean(narrow) < 0.7
    assert counts.tree < 0.5 * np.count_nonzero(~narrow)


def test_a_depth_in_steps_has_exact_normals():
    # A Kinect's: equal steps of disparity, each far wider than a pixel.
    z = 1 / (np.round(1 / depth(3) / 0.03) * 0.03)
    assert len(np.unique(z)) < 20
    assert_exact(pinhole(z))
    # A lattice has many ties, whose planes are not well defined where float32 tells some of them apart.
    assert_exact(parallel(z), compared=0.3)


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(seed=st.integers(0, 10**6), distinct=st.sampled_from([2, 20, 10**6]), k=st.integers(1, 85))
def test_the_kth_smallest_is_that_of_a_sort(seed, distinct, k):
    rng = np.random.default_rng(seed)
    values = rng.choice(rng.uniform(0, 1, distinct) ** 8, (81, 7)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.inf
    expected = np.sort(values, axis=0)[k - 1] if k <= 81 else np.full(7, np.inf)
    np.testing.assert_array_equal(kth_smallest_of(kth_smallest.bits(jnp.asarray(values)), jnp.int32(k)), expected)


@pytest.mark.parametrize("name", ["smooth", "parallel rays", "holed", "mirrored", "steep", "flying pixels", "shuffled"])
def test_nothing_outside_of_the_window_is_within_reach(name):
    xyz = SCANS[name]
    valid = xyz.any(axis=-1)
    looking = camera.rays(xyz, valid)
    reach = camera.reach(looking, xyz, 2)
    rows, columns = np.nonzero(valid)
    points = xyz[valid].astype(np.float64)
    tightness = []
    for row, column in np.argwhere(valid):
        outside = (np.abs(rows - row) > 2) | (np.abs(columns - column) > 2)
        nearest = np.linalg.norm(points[outside] - xyz[row, column], axis=-1).min()
        assert reach[row, column] <= nearest * (1 + 1e-12)
        tightness.append(reach[row, column] / nearest)
    if name in ("smooth", "parallel rays", "mirrored"):
        assert np.median(tightness) > 0.8
    assert np.isnan(reach[~valid]).all()


@pytest.mark.parametrize(("name", "expected"), [("smooth", False), ("parallel rays", True), ("noisy", False)])
def test_the_kind_of_rays_is_recognised(name, expected):
    xyz = SCANS[name]
    assert camera.rays(xyz, xyz.any(axis=-1)).parallel == expected


@hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
@hypothesis.given(
    seed=st.integers(0, 10**6),
    spread=st.tuples(*[st.sampled_from([1.0, 0.9, 0.3, 1e-2])] * 3),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)
def test_the_least_direction_is_that_of_the_float64_eigenvectors(seed, spread, scale):
    rng = np.random.default_rng(seed)
    points = (
        rng.normal(size=(20, 50, 3)) * np.array(spread) @ Rotation.from_rotvec(rng.normal(size=3)).as_matrix() * scale
    )
    points = points.astype(np.float32).astype(np.float64)
    homogeneous = np.concatenate([points, np.ones((20, 50, 1))], axis=-1)
    sums = np.einsum("nki,nkj->ijn", homogeneous, homogeneous)
    moments = np.stack([sums[pair] for pair in normals_plane.PAIRS]).astype(np.float32)
    variances, directions = np.linalg.eigh([np.cov(p.T, bias=True) for p in points])
    apart = angles(np.asarray(least_direction(moments)).T, directions[:, :, 0])
    # Rounding of 1e-7 turns the normal by that much over the gap between the two least variances.
    gap = (variances[:, 1] - variances[:, 0]) / variances.sum(axis=1)
    assert (apart < 0.002 + np.degrees(3e-6) / gap).all()
