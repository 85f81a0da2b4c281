"""Scenes whose part is known: a plane in front of the camera, and what lies on it."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from pirn_jax.geometry import foreground
from pirn_jax.geometry.foreground_open3d import find_open3d

SIZE = (100, 120)
PITCH = 1e-3
DISTANCE = 0.5
TOLERANCE = 0.005
REACH = 0.006


@pytest.fixture
def open3d():
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"Open3D cannot be imported ({error}); install the extra open3d and the system libraries named")
    return open3d


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y of a scan in metres, the optical axis in the middle."""
    rows, columns = ((np.arange(n) - (n - 1) / 2) * PITCH for n in SIZE)
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return x, y


def cloud(height: ArrayLike, turn: ArrayLike = (0, 0, 0), noise: float = 0.0) -> np.ndarray:
    """Points of a surface `height` metres in front of a plane that is turned by angles in degrees."""
    x, y = grid()
    z = np.broadcast_to(-np.asarray(height), SIZE) + np.random.default_rng(0).normal(0, noise, SIZE)
    points = np.stack([x, y, z], axis=-1) @ Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    return (points + [0, 0, DISTANCE]).astype(np.float32)


def disc(radius: float, at: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    x, y = grid()
    return np.hypot(x - at[0], y - at[1]) < radius


def dome(radius: float = 0.03, tall: float = 0.02) -> np.ndarray:
    x, y = grid()
    return tall * np.sqrt(np.maximum(0, 1 - (x**2 + y**2) / radius**2))


def punched(xyz: np.ndarray, unseen: ArrayLike) -> np.ndarray:
    return np.where(np.asarray(unseen)[..., None], 0, xyz).astype(np.float32)


def assert_mask(found: foreground.Foreground, points: ArrayLike, region: ArrayLike | None = None) -> None:
    """The mask is the expected one, all pixels of it, and there is nothing to complain of."""
    assert found.note == ""
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.region, points if region is None else region)


def assert_left_whole(xyz: np.ndarray, *words: str) -> None:
    found = foreground.find(xyz)
    for word in words:
        assert word in found.note
    assert "nothing was removed" in found.note
    np.testing.assert_array_equal(found.points, np.any(xyz != 0, axis=-1))
    assert np.all(found.region[found.points])


@pytest.mark.parametrize("turn", [(0, 0, 0), (30, 0, 0), (-20, 35, 10), (0, 180, 45)])
def test_what_is_farther_from_the_plane_than_the_tolerance_is_kept(turn):
    assert_mask(foreground.find(cloud(dome(), turn)), dome() > TOLERANCE)


def test_noise_of_a_millimetre_changes_the_rim_only():
    found = foreground.find(cloud(dome(), (15, -10, 0), noise=1e-3))
    sure = np.abs(dome() - TOLERANCE) > 3e-3
    assert found.note == ""
    np.testing.assert_array_equal(found.points[sure], (dome() > TOLERANCE)[sure])


def test_what_lies_behind_the_plane_is_kept():
    assert_mask(foreground.find(cloud(-dome())), dome() > TOLERANCE)


def test_the_mask_does_not_depend_on_the_unit_of_length():
    """A cloud in other units with both in these units has the same mask."""
    xyz = cloud(dome(), (10, 5, 0), noise=1e-4)
    expected = foreground.find(xyz).points
    assert 0 < expected.mean() < 1
    for unit in (1e-2, 1e3):
        np.testing.assert_array_equal(
            foreground.find(xyz * np.float32(unit), TOLERANCE * unit, REACH * unit).points, expected
        )


def test_a_smaller_tolerance_keeps_a_flatter_part():
    part = disc(0.03)
    xyz = cloud(0.004 * part)
    assert_mask(foreground.find(xyz, tolerance=0.003), part)
    assert_left_whole(xyz, "less than 1 %")


@pytest.mark.parametrize("length", [0.0, -0.005, float("nan")])
@pytest.mark.parametrize("name", ["tolerance", "reach"])
def test_a_tolerance_or_reach_that_is_no_length_is_refused(name, length):
    with pytest.raises(ValueError, match="must be positive"):
        foreground.find(cloud(dome()), **{name: length})


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_a_part_across_the_border_leaves_the_plane_to_be_found_while_that_holds_half_of_it(share):
    rows = np.arange(SIZE[0])[:, None]
    part = np.broadcast_to(rows < share * SIZE[0], SIZE)
    x, _ = grid()
    # A ripple of 20 mm, so that no plane fits the part.
    xyz = cloud(np.where(part, 0.03 + 0.01 * np.sin(x / 0.005), 0))
    if share < 0.5:
        assert_mask(foreground.find(xyz), part)
    else:
        assert_left_whole(xyz, "no plane holds half")


def test_a_curved_background_is_no_plane():
    x, y = grid()
    assert_left_whole(cloud(12 * (x**2 + y**2)), "no plane")


def test_a_part_that_fills_the_image_is_left_whole():
    assert_left_whole(cloud(np.random.default_rng(0).uniform(0, 0.03, SIZE)), "no plane")
    assert_left_whole(cloud(np.zeros(SIZE)), "less than 1 %")


def test_an_unseen_border_is_no_plane():
    inside = np.zeros(SIZE, bool)
    inside[10:-10, 10:-10] = True
    assert_left_whole(punched(cloud(dome()), ~inside), "fewer than 50", "border")
    inside[0, :49] = True
    assert_left_whole(punched(cloud(dome()), ~inside), "fewer than 50", "border")


def test_a_border_that_is_seen_along_one_side_only_tells_no_plane():
    columns = np.arange(SIZE[1])[None]
    xyz = cloud(dome())
    rows = np.arange(SIZE[0])[:, None]
    inner = (rows >= 10) & (rows < SIZE[0] - 10) & (columns < SIZE[1] - 10)
    assert_left_whole(punched(xyz, ~inner), "nearly on a line")
    assert_left_whole(punched(xyz, (columns > 0) | (rows < 0)), "nothing was removed")
    # Two sides do.
    assert_mask(foreground.find(punched(xyz, ~(inner | (rows < 10)))), dome() > TOLERANCE)


def test_only_the_largest_cluster_is_kept():
    part, clutter = disc(0.025, (-0.02, 0)), disc(0.01, (0.04, 0.02))
    assert_mask(foreground.find(cloud(0.02 * part + 0.015 * clutter)), part)


@pytest.mark.parametrize(("reach", "kept"), [(0.006, 1), (0.0084, 2)])
def test_pieces_belong_together_within_the_reach(reach, kept):
    x, y = grid()
    pieces = [(np.abs(y) < 0.02) & (x > low) & (x < high) for low, high in ((-0.04, 0), (0.0065, 0.03))]
    assert_mask(foreground.find(cloud(0.02 * (pieces[0] | pieces[1])), reach=reach), np.any(pieces[:kept], axis=0))


def test_specks_near_the_part_belong_to_it_and_far_ones_do_not():
    height = 0.02 * disc(0.025)
    height[50, 60 + 24 + 5] = height[5, 5] = height[95, 100] = 0.02
    expected = disc(0.025)
    expected[50, 60 + 24 + 5] = True
    assert_mask(foreground.find(cloud(height)), expected)


def test_noise_is_not_taken_for_the_part_though_it_is_more():
    rows, columns = np.indices(SIZE)
    noise = (rows % 7 == 3) & (columns % 7 == 3) & ~disc(0.02)
    part = disc(0.007)
    assert noise.sum() > part.sum() > 0.01 * noise.size
    assert_mask(foreground.find(cloud(0.02 * noise + 0.02 * part)), part)


def test_without_a_cluster_all_points_off_the_plane_are_kept():
    rows, columns = np.indices(SIZE)
    noise = (rows % 7 == 3) & (columns % 7 == 3)
    found = foreground.find(cloud(0.02 * noise))
    assert "no cluster" in found.note
    np.testing.assert_array_equal(found.points, noise)
    np.testing.assert_array_equal(found.region, noise)


def test_a_part_of_less_than_one_per_cent_leaves_the_image_whole():
    height = np.zeros(SIZE)
    height[40:48, 40:48] = 0.02
    assert_left_whole(cloud(height), "less than 1 %")
    height[40:52, 40:52] = 0.02
    assert_mask(foreground.find(cloud(height)), height > 0)


def test_the_plane_seen_through_a_ring_is_removed():
    ring = disc(0.04) & ~disc(0.02)
    assert_mask(foreground.find(cloud(0.02 * ring)), ring)


def test_unseen_pixels_that_the_part_encloses_are_of_its_region():
    part, spot, shadow = disc(0.04), disc(0.01, (0.015, 0)), disc(0.045) & ~disc(0.038)
    found = foreground.find(punched(cloud(0.02 * part), spot | shadow))
    assert_mask(found, part & ~spot & ~shadow, part & ~shadow)


def test_unseen_pixels_beside_what_was_removed_are_not():
    hole, shadow = disc(0.02), disc(0.02) & ~disc(0.015)
    ring = disc(0.04) & ~hole
    xyz = cloud(0.02 * ring)
    assert_mask(foreground.find(punched(xyz, shadow)), ring)
    # With nothing seen in it, the hole may as well be a spot of the part.
    assert_mask(foreground.find(punched(xyz, hole)), ring, disc(0.04))


def test_unseen_pixels_at_the_images_border_are_not():
    x, _ = grid()
    part = (np.abs(x) < 0.02) & np.ones(SIZE, bool)
    corner = np.zeros(SIZE, bool)
    corner[:5, 50:70] = True
    assert_mask(foreground.find(punched(cloud(0.02 * part), corner)), part & ~corner)


def test_pixels_that_touch_at_a_corner_enclose():
    rows, columns = np.indices(SIZE)
    part = (rows > 20) & (columns > 20) & (rows + columns < 100)
    spot = (rows == 48) & (columns == 50)
    assert not part[49, 51], "the spot and the plane meet at a corner only"
    assert_mask(foreground.find(punched(cloud(0.02 * part), spot)), part & ~spot, part)


@pytest.mark.parametrize("turn", [0, 30, 90])
def test_a_thin_part_is_kept_in_one_piece(turn):
    x, y = grid()
    angle = np.radians(turn)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    wire = (np.abs(along) < 0.035) & (np.abs(across) < 1.6e-3)
    assert wire.mean() < 0.03
    assert_mask(foreground.find(cloud(0.01 * wire)), wire)


def test_points_that_are_not_finite_count_as_unseen():
    spot = disc(0.005)
    expected = foreground.find(punched(cloud(dome()), spot))
    for value, axis in ((np.nan, 2), (np.inf, 0), (-np.inf, 1)):
        xyz = cloud(dome())
        xyz[spot, axis] = value
        assert_mask(foreground.find(xyz), expected.points, expected.region)


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (100, 120)])
def test_an_empty_cloud_has_no_foreground(size):
    found = foreground.find(np.zeros((*size, 3), np.float32))
    assert found.note == "no point was seen"
    assert found.points.shape == found.region.shape == size
    assert not found.points.any()
    assert not found.region.any()


def test_an_image_that_is_all_border_is_understood():
    xyz = cloud(0.02 * disc(0.004))[40:60, 45:75]
    assert_mask(foreground.find(xyz), disc(0.004)[40:60, 45:75])
    assert "fewer than 50" in foreground.find(xyz[:7, :7]).note


def test_a_point_far_out_is_clutter():
    xyz = cloud(dome())
    xyz[0, 0], xyz[50, 110] = (1e4, -1e4, 1e12), (0, 0, 1e30)
    expected = dome() > TOLERANCE
    assert_mask(foreground.find(xyz), expected)


def digest(threads: str, seed: str) -> bytes:
    program = (
        "import hashlib, numpy as np; from tests import test_foreground as t\n"
        "xyz = t.cloud(t.dome(), (15, -10, 0), 1e-3); normal, _ = t.foreground.fit_plane(xyz.reshape(-1, 3), 4e-3)\n"
        "print(hashlib.sha256(t.foreground.find(xyz).points.tobytes() + normal.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
    root = pathlib.Path(__file__).parents[1]
    return subprocess.check_output([sys.executable, "-c", program], cwd=root, env=environment)


def test_the_same_cloud_gives_the_same_bits_in_every_process():
    xyz = cloud(dome(), (15, -10, 0), noise=1e-3)
    first, second = foreground.find(xyz), foreground.find(xyz)
    np.testing.assert_array_equal(first.points, second.points)
    assert digest("1", "0") == digest("2", "1")


def test_the_plane_is_that_of_least_squares():
    points = np.random.default_rng(0).normal(0, (0.1, 0.1, 5e-4), (3000, 3))
    points = points @ Rotation.from_euler("xy", (40, 25), degrees=True).as_matrix().T + [0.1, -0.2, 0.5]
    mean = points.mean(axis=0)
    expected = np.linalg.svd(points - mean)[2][2]
    normal, offset = foreground.fit_plane(points, 4e-3)
    sign = np.sign(normal @ expected)
    np.testing.assert_allclose(sign * normal, expected, atol=1e-9)
    np.testing.assert_allclose(sign * offset, expected @ mean, atol=1e-9)


def test_points_off_the_plane_do_not_turn_it():
    rng = np.random.default_rng(0)
    on = np.concatenate([rng.uniform(-0.1, 0.1, (600, 2)), rng.normal(0, 2e-4, (600, 1))], axis=1)
    off = rng.uniform(-0.1, 0.1, (500, 3)) + [0.05, 0.05, 0.13]
    normal, offset = foreground.fit_plane(np.concatenate([on, off]), 4e-3)
    assert np.degrees(np.arccos(min(abs(normal[2]), 1))) < 0.05
    assert abs(offset) < 5e-5


def test_points_on_a_line_have_no_plane():
    assert foreground.fit_plane(np.arange(100.0)[:, None] * [1, 0, 0], 4e-3) is None


def blobs(seed: int) -> np.ndarray:
    """Up to six flat blobs, some touching, with stray points about them."""
    rng = np.random.default_rng(seed)
    centres, spread = rng.uniform(-0.03, 0.03, (rng.integers(1, 7), 3)), rng.uniform(1e-3, 6e-3)
    points = centres[rng.integers(len(centres), size=1500)] + rng.normal(0, spread, (1500, 3)) * [1, 1, 0.2]
    return np.concatenate([points, rng.uniform(-0.04, 0.04, (150, 3))])


@pytest.mark.parametrize("seed", range(8))
def test_clusters_are_those_of_dbscan(seed):
    points = blobs(seed)
    expected = DBSCAN(eps=0.006, min_samples=30).fit(points).labels_
    numbers = foreground.cluster(points, 0.006)
    assert np.mean((numbers < 0) == (expected < 0)) > 0.995
    assert adjusted_rand_score(expected, numbers) > 0.99
    assert len(np.unique(numbers[numbers >= 0])) == expected.max() + 1


@pytest.mark.parametrize("shift", [0.0, 0.0004, 0.0009, 0.0013])
@pytest.mark.parametrize("gap", [0.0059, 0.0061])
def test_clusters_part_at_a_gap_of_the_radius_wherever_the_cells_lie(gap, shift):
    x, y = np.meshgrid(np.arange(60) * 2.5e-4, np.arange(40) * 2.5e-4)
    left = np.stack([x.ravel(), y.ravel(), np.full(x.size, 0.5)], axis=-1)
    points = np.concatenate([left, left + [59 * 2.5e-4 + gap, 0, 0]]) + shift
    numbers = foreground.cluster(points, 0.006)
    assert np.all(numbers >= 0)
    assert (len(np.unique(numbers)) == 1) == (gap < 0.006)


def test_many_pieces_are_compared_with_their_neighbours_alone(monkeypatch):
    x, y = np.meshgrid(np.linspace(0, 0.005, 21), np.linspace(0, 0.005, 21))
    pin = np.stack([x.ravel(), y.ravel(), np.full(x.size, 0.5)], axis=-1)
    points = np.concatenate([pin + [0.012 * row, 0.012 * column, 0] for row in range(12) for column in range(12)])
    asked = []

    class Counted(foreground.spatial.KDTree):
        def query(self, x, *rest, **more):
            asked.append(len(x))
            return super().query(x, *rest, **more)

    monkeypatch.setattr(foreground.spatial, "KDTree", Counted)
    assert len(np.unique(foreground.cluster(points, 0.006))) == 144
    assert sum(asked) < 5 * len(points)


def test_a_point_without_enough_neighbours_is_noise():
    points = np.random.default_rng(0).uniform(0, 1e-3, (29, 3))
    np.testing.assert_array_equal(foreground.cluster(points, 0.006), -1)
    assert np.all(foreground.cluster(np.concatenate([points, points[:1]]), 0.006) >= 0)


SCENES = {
    "dome": (dome(), 1e-4),
    "noisy": (dome(), 8e-4),
    "ring": (0.02 * (disc(0.04) & ~disc(0.02)), 1e-4),
    "clutter": (0.02 * disc(0.025, (-0.02, 0)) + 0.015 * disc(0.01, (0.04, 0.02)), 1e-4),
    "gap": (0.02 * (disc(0.02, (-0.025, 0)) | disc(0.015, (0.0175, 0))), 1e-4),
    "pit": (0.012 * disc(0.04) - 0.004 * disc(0.015), 1e-4),
    "flat": (0.003 * disc(0.04), 1e-4),
}


@pytest.mark.parametrize("turn", [(0, 0, 0), (20, -15, 0)])
@pytest.mark.parametrize("name", SCENES)
def test_the_mask_is_that_of_open3d(open3d, name, turn):
    height, noise = SCENES[name]
    shadow = disc(0.01, (0.02, 0.01)) | disc(0.005, (-0.045, -0.035))
    xyz = punched(cloud(height, turn, noise), shadow)
    own, expected = foreground.find(xyz), find_open3d(xyz)
    assert own.note == expected.note
    assert np.mean(own.points == expected.points) >= 0.995
    assert np.mean(own.region == expected.region) >= 0.995


def test_open3d_gives_the_same_bits_twice(open3d):
    """Even where the plane depends on the draws, as it does for noise of half of the tolerance."""
    xyz = cloud(dome(), (15, -10, 0), noise=2.5e-3)
    expected = find_open3d(xyz).points
    for _ in range(3):
        np.testing.assert_array_equal(find_open3d(xyz).points, expected)


def test_open3d_is_not_asked_about_an_empty_cloud(open3d):
    assert find_open3d(np.zeros((30, 40, 3), np.float32)).note == "no point was seen"
