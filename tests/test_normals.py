"""Normals of surfaces known in closed form, and what holds of them for every scan."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

from pirn_jax.geometry import normals

SIZE = (20, 26)
SPACING = 1e-3
DISTANCE = 0.5


def grid(spacing=(SPACING, SPACING), size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y of a scan with parallel rays."""
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in size)
    y, x = np.meshgrid(rows * spacing[0], columns * spacing[1], indexing="ij")
    return x, y


def cloud(x, y, z) -> np.ndarray:
    return np.stack([x, y, np.broadcast_to(z, x.shape)], axis=-1).astype(np.float32)


def bumpy(distance: float = DISTANCE) -> np.ndarray:
    """A surface without symmetry, with slopes up to about 45 degrees."""
    x, y = grid()
    z = 1.2e-3 * np.sin(x / 2.3e-3 + 0.4) * np.cos(y / 3.1e-3) + 0.3 * x - 0.2 * y
    return cloud(x, y, distance + z)


def unit(*components: ArrayLike) -> np.ndarray:
    vectors = np.stack(np.broadcast_arrays(*components), axis=-1)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def angles(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Degrees between unit vectors; exact near zero, where the arccosine is not."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.3, -0.2), (-1.5, 0.8), (0.0, 2.0)])
def test_a_plane_has_its_normal_everywhere(slope):
    x, y = grid()
    found = normals.estimate(cloud(x, y, DISTANCE + slope[0] * x + slope[1] * y))
    assert found.dtype == np.float32
    assert angles(found, unit(*slope, -1.0)).max() < 0.02


def test_a_sphere_has_radial_normals():
    x, y = grid()
    radius = 0.05
    found = normals.estimate(cloud(x, y, DISTANCE - np.sqrt(radius**2 - x**2 - y**2)))
    exact = unit(x, y, -np.sqrt(radius**2 - x**2 - y**2))
    assert angles(found, exact)[4:-4, 4:-4].max() < 0.25
    # On the border the neighbours lie on one side: a chord's normal, off by the curvature times half their extent.
    assert angles(found, exact).max() < np.degrees(4 * SPACING / radius)


def test_a_paraboloid_has_the_normals_of_its_gradient():
    x, y = grid()
    found = normals.estimate(cloud(x, y, DISTANCE + 8.0 * x**2 - 5.0 * y**2))
    assert angles(found, unit(16.0 * x, -10.0 * y, -1.0))[4:-4, 4:-4].max() < 0.25


@pytest.mark.parametrize("side", [1, -1], ids=["in front of the camera", "behind it"])
def test_normals_are_unit_and_face_the_origin_of_the_rays(side):
    v, u = np.meshgrid(np.linspace(-0.3, 0.3, 40), np.linspace(0.4, 1.2, 50), indexing="ij")
    # A wall at the right: its face seen by the camera looks away from the xy plane.
    z = 0.5 / (u - 0.2 + 0.1 * v)
    xyz = (np.stack([u * z, v * z, z], axis=-1) * [1, 1, side]).astype(np.float32)
    found = normals.estimate(xyz)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-6)
    assert angles(found, unit(-1.0, -0.1, 0.2 * side)).max() < 0.02


@pytest.mark.parametrize("distance", [0.0, -0.01, 0.02])
def test_parallel_rays_are_faced_even_at_a_depth_of_zero(distance):
    x, y = grid()
    found = normals.estimate(cloud(x, y, distance + 1.5 * x - 0.4 * y + 20 * x * y))
    assert angles(found, unit(1.5 + 20 * y, -0.4 + 20 * x, -1.0))[4:-4, 4:-4].max() < 0.2
    assert (found[..., 2] < 0).all()


@pytest.mark.parametrize("distance", [DISTANCE, 2 * SPACING], ids=["far from the origin", "beside it"])
@pytest.mark.parametrize("invalid", [0.0, np.nan, np.inf])
def test_holes_stay_zero_and_influence_no_neighbour(distance, invalid):
    x, y = grid()
    xyz = cloud(x, y, distance + 0.3 * x - 0.2 * y)
    rng = np.random.default_rng(3)
    holes = rng.random(SIZE) < 0.3
    holes[5:10, 5:12] = True
    xyz[holes] = [invalid, invalid, invalid]
    if invalid:
        xyz[holes, 0] = 0.1  # One coordinate that is not finite spoils a point.
    found = normals.estimate(xyz)
    assert not found[holes].any()
    assert angles(found, unit(0.3, -0.2, -1.0))[~holes].max() < 0.02


def test_a_point_with_a_coordinate_of_zero_is_valid():
    x, y = grid()
    xyz = cloud(x - x[0, 12], y, DISTANCE)
    assert (xyz[:, 12, 0] == 0).all()
    assert angles(normals.estimate(xyz), [0, 0, -1]).max() < 0.02


@pytest.mark.parametrize("places", [[], [(4, 4)], [(4, 4), (4, 5)], [(4, 4), (17, 20)]])
def test_fewer_than_three_points_have_no_normal(places):
    full = cloud(*grid(), DISTANCE)
    xyz = np.zeros_like(full)
    for place in places:
        xyz[place] = full[place]
    assert not normals.estimate(xyz).any()


@pytest.mark.parametrize("places", [[(4, 4), (4, 5), (5, 4)], [(0, 0), (3, 21), (19, 2)]])
def test_three_points_make_a_plane_however_far_apart(places):
    full = cloud(*grid(), DISTANCE)
    xyz = np.zeros_like(full)
    for place in places:
        xyz[place] = full[place]
    found = normals.estimate(xyz)
    assert np.count_nonzero(found.any(axis=-1)) == 3
    assert angles(found[xyz.any(axis=-1)], [0, 0, -1]).max() < 0.02


@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (1, 1), (1, -2)])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.37, 0.11), (-1.3, 2.1)])
def test_points_on_one_line_have_no_normal(direction, slope):
    x, y = grid()
    full = cloud(x, y, DISTANCE + slope[0] * x + slope[1] * y)
    xyz = np.zeros_like(full)
    for step in range(-4, 5):
        place = 10 + step * direction[0], 13 + step * direction[1]
        xyz[place] = full[place]
    assert not normals.estimate(xyz).any()
    # One point beside the line makes a plane of it.
    beside = 10 + direction[1], 13 - direction[0]
    xyz[beside] = full[beside]
    assert angles(normals.estimate(xyz)[10, 13], unit(*slope, -1.0)) < 0.2


def test_a_single_straight_row_has_no_normals_and_a_bent_one_lies_in_a_plane():
    x, y = grid(size=(1, 60))
    assert not normals.estimate(cloud(x, y, DISTANCE + 0.2 * x)).any()
    bent = normals.estimate(cloud(x, y, DISTANCE + 1e-3 * np.sin(x / 2e-3)))
    assert np.abs(bent[..., 1]).min() > 0.9999


def test_a_depth_step_is_not_smeared_over():
    x, y = grid()
    left = np.broadcast_to(np.arange(SIZE[1]) < 13, SIZE)
    found = normals.estimate(cloud(x, y, DISTANCE + np.where(left, 0.2 * x, 0.02 - 0.4 * y)))
    exact = np.where(left[..., None], unit(0.2, 0.0, -1.0), unit(0.0, -0.4, -1.0))
    assert angles(found, exact).max() < 0.02


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_the_unit_of_length_does_not_matter(scale):
    assert angles(normals.estimate(bumpy() * np.float32(scale)), normals.estimate(bumpy())).max() < 0.02


def test_a_large_distance_costs_no_more_precision_than_the_input_lost():
    # At 10 m a float32 holds a depth to half a micrometre, a two-thousandth of the spacing.
    assert angles(normals.estimate(bumpy(10.0)), normals.estimate(bumpy())).max() < 0.05


def test_a_plane_with_a_spacing_near_the_rounding_of_its_distance_keeps_its_normal():
    # At 1000 m a float32 is a multiple of 6e-5 m; the plane below is made of such numbers.
    step = 2.0**-10
    x, y = grid((step, step))
    found = normals.estimate(cloud(1000 + x, 1000 + y, 1000 + 2 * x - y))
    assert angles(found, unit(2.0, -1.0, -1.0)).max() < 0.02


@pytest.mark.parametrize("aspect", [0.4, 2.5])
def test_pixels_need_not_be_square(aspect):
    x, y = grid((aspect * SPACING, SPACING))
    assert angles(normals.estimate(cloud(x, y, DISTANCE + 0.5 * x - 0.3 * y)), unit(0.5, -0.3, -1.0)).max() < 0.02


def test_depth_in_steps_gives_normals_near_those_of_the_surface():
    x, y = grid()
    z = DISTANCE + 0.3 * x - 0.2 * y
    step = SPACING / 10
    found = normals.estimate(cloud(x, y, np.round(z / step) * step))
    assert angles(found, unit(0.3, -0.2, -1.0)).max() < 3.0


def test_a_scan_need_not_be_square_nor_larger_than_the_window():
    assert angles(normals.estimate(cloud(*grid(size=(3, 5)), DISTANCE)), [0, 0, -1]).max() < 0.02


def test_many_equal_points_have_no_normal():
    assert not normals.estimate(np.full((*SIZE, 3), 0.3, np.float32)).any()


def test_a_batch_of_scans_gives_what_each_gives():
    scans = np.stack([bumpy(), bumpy(0.7), np.zeros_like(bumpy()), bumpy()[::-1]])
    together = normals.estimate(jnp.asarray(scans.reshape(2, 2, *SIZE, 3)))
    assert together.shape == (2, 2, *SIZE, 3)
    for scan, found in zip(scans, together.reshape(4, *SIZE, 3), strict=True):
        np.testing.assert_array_equal(found, normals.estimate(scan))


def test_a_plane_needs_three_neighbours():
    with pytest.raises(ValueError, match="at least 3 neighbours, not 2"):
        normals.estimate(bumpy(), 2)
