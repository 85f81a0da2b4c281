"""Normals of surfaces known in closed form, and what holds of them for every scan."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from pirn_jax.geometry import normals
from tests import reference

SIZE = (20, 26)
"""One size for most clouds, so that one program serves them."""

SPACING = 1e-3
DISTANCE = 0.5


def grid(spacing=(SPACING, SPACING), size=SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates x and y of a scan, the optical axis in the middle."""
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


def estimate(xyz: np.ndarray, radius: int = normals.RADIUS) -> np.ndarray:
    return np.array(normals.estimate(jnp.asarray(xyz), radius))


def angles(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Degrees between unit vectors; exact near zero, where the arccosine is not."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.degrees(2 * np.arctan2(np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)))


def neighbours(xyz: np.ndarray, row: int, column: int, radius: int = normals.RADIUS) -> np.ndarray:
    """Valid points of the window around a point, within 1.5 radius typical spacings of it; float64."""
    xyz = xyz.astype(np.float64)
    valid = np.any(xyz != 0, axis=-1)
    steps = np.linalg.norm(np.diff(xyz, axis=1), axis=-1)
    reach = 1.5 * radius * np.median(steps[valid[:, 1:] & valid[:, :-1]])
    window = np.s_[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1]
    points = xyz[window][valid[window]]
    return points[np.linalg.norm(points - xyz[row, column], axis=-1) <= reach]


@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.3, -0.2), (-1.5, 0.8), (0.0, 2.0)])
def test_a_plane_has_its_normal_everywhere(slope):
    x, y = grid()
    found = estimate(cloud(x, y, DISTANCE + slope[0] * x + slope[1] * y))
    exact = np.array([slope[0], slope[1], -1.0]) / np.linalg.norm([*slope, 1.0])
    assert angles(found, exact).max() < 0.02


def test_a_sphere_has_radial_normals():
    x, y = grid()
    radius = 0.05
    found = estimate(cloud(x, y, DISTANCE - np.sqrt(radius**2 - x**2 - y**2)))
    exact = np.stack([x, y, -np.sqrt(radius**2 - x**2 - y**2)], axis=-1) / radius
    inner = np.s_[3:-3, 3:-3]
    assert angles(found, exact)[inner].max() < 0.1
    # On the border the neighbours lie on one side: a chord's normal, off by the curvature times half the window.
    assert angles(found, exact).max() < np.degrees(3 * SPACING / radius)


def test_a_paraboloid_has_the_normals_of_its_gradient():
    x, y = grid()
    a, b = 8.0, -5.0
    found = estimate(cloud(x, y, DISTANCE + a * x**2 + b * y**2))
    exact = np.stack([2 * a * x, 2 * b * y, np.full_like(x, -1.0)], axis=-1)
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    assert angles(found, exact)[3:-3, 3:-3].max() < 0.1


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_each_normal_is_that_of_the_plane_through_its_neighbours(radius):
    rng = np.random.default_rng(0)
    xyz = bumpy()
    xyz += rng.normal(scale=3e-5, size=xyz.shape).astype(np.float32)
    xyz[rng.random(SIZE) < 0.2] = 0.0
    xyz[:6, :9] = 0.0
    found = estimate(xyz, radius)
    assert found.dtype == np.float32
    compared = 0
    for row, column in np.argwhere(xyz.any(axis=-1)):
        points = neighbours(xyz, row, column, radius)
        if len(points) < 4:
            continue
        expected = reference.normal(points)
        if abs(expected @ xyz[row, column]) < 0.02 * DISTANCE:
            continue  # Seen edge on: rounding decides on the side.
        assert angles(found[row, column], expected) < 0.01
        compared += 1
    assert compared > 300


def test_normals_are_unit_and_face_the_camera():
    xyz = bumpy()
    found = estimate(xyz)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-6)
    assert (np.sum(found * xyz, axis=-1) < 0).all()
    # Seen from the other side the same surface shows its other face.
    behind = estimate(xyz * np.array([1, 1, -1], np.float32))
    np.testing.assert_allclose(behind, found * np.array([1, 1, -1], np.float32), atol=1e-5)
    assert (np.sum(behind * xyz * np.array([1, 1, -1], np.float32), axis=-1) < 0).all()


@pytest.mark.parametrize("distance", [DISTANCE, 2 * SPACING], ids=["far from the origin", "beside it"])
def test_holes_stay_zero_and_influence_no_neighbour(distance):
    x, y = grid()
    xyz = cloud(x, y, distance + 0.3 * x - 0.2 * y)
    rng = np.random.default_rng(3)
    holes = rng.random(SIZE) < 0.3
    holes[5:10, 5:12] = True
    exact = estimate(xyz)
    xyz[holes] = 0.0
    found = estimate(xyz)
    assert not found[holes].any()
    assert angles(found, exact)[~holes].max() < 0.02


def test_a_point_with_a_coordinate_of_zero_is_valid():
    x, y = grid()
    xyz = cloud(x - x[0, 12], y, DISTANCE)
    assert (xyz[:, 12, 0] == 0).all()
    assert angles(estimate(xyz), [0, 0, -1]).max() < 0.02


def test_fewer_than_three_points_have_no_normal():
    x, y = grid()
    full = cloud(x, y, DISTANCE)
    for kept in ([(4, 4)], [(4, 4), (4, 5)], [(4, 4), (5, 5), (17, 20)]):
        xyz = np.zeros_like(full)
        for place in kept:
            xyz[place] = full[place]
        assert not estimate(xyz).any()
    xyz = np.zeros_like(full)
    for place in ((4, 4), (4, 5), (5, 4)):
        xyz[place] = full[place]
    found = estimate(xyz)
    assert angles(found[[4, 4, 5], [4, 5, 4]], [0, 0, -1]).max() < 0.02
    assert np.count_nonzero(found.any(axis=-1)) == 3


@pytest.mark.parametrize("direction", [(0, 1), (1, 0), (1, 1), (1, -2)])
@pytest.mark.parametrize("slope", [(0.0, 0.0), (0.37, 0.11), (-1.3, 2.1)])
def test_points_on_one_line_have_no_normal(direction, slope):
    x, y = grid()
    full = cloud(x, y, DISTANCE + slope[0] * x + slope[1] * y)
    xyz = np.zeros_like(full)
    xyz[0] = full[0]  # Another line, far away: the typical spacing is that of points side by side.
    for step in range(-4, 5):
        place = 12 + step * direction[0], 13 + step * direction[1]
        xyz[place] = full[place]
    assert not estimate(xyz).any()
    # One point beside the line makes a plane of it.
    beside = 12 + direction[1], 13 - direction[0]
    xyz[beside] = full[beside]
    exact = np.array([*slope, -1.0]) / np.linalg.norm([*slope, 1.0])
    assert angles(estimate(xyz)[12, 13], exact) < 0.2


def test_an_empty_scan_has_no_normals():
    assert not estimate(np.zeros((*SIZE, 3), np.float32)).any()


def test_a_depth_step_is_not_smeared_over():
    x, y = grid()
    left = np.broadcast_to(np.arange(SIZE[1]) < 13, SIZE)
    xyz = cloud(x, y, DISTANCE + np.where(left, 0.2 * x, 0.02 - 0.4 * y))
    found = estimate(xyz)
    exact = np.where(left[..., None], [0.2, 0.0, -1.0], [0.0, -0.4, -1.0])
    exact /= np.linalg.norm(exact, axis=-1, keepdims=True)
    assert angles(found, exact).max() < 0.02


@pytest.mark.parametrize("unit", [1e3, 1e-3])
def test_the_unit_of_length_does_not_matter(unit):
    xyz = bumpy()
    assert angles(estimate(xyz * np.float32(unit)), estimate(xyz)).max() < 0.02


def test_a_large_distance_costs_little_precision():
    # At 10 m a float32 holds a depth to half a micrometre, a two-thousandth of the spacing.
    assert angles(estimate(bumpy(10.0)), estimate(bumpy())).max() < 0.05


@pytest.mark.parametrize("aspect", [0.4, 2.5])
def test_pixels_need_not_be_square(aspect):
    x, y = grid((aspect * SPACING, SPACING))
    found = estimate(cloud(x, y, DISTANCE + 0.5 * x - 0.3 * y))
    exact = np.array([0.5, -0.3, -1.0]) / np.linalg.norm([0.5, 0.3, 1.0])
    assert angles(found, exact).max() < 0.02


def test_depth_in_steps_gives_normals_near_those_of_the_surface():
    x, y = grid()
    z = DISTANCE + 0.3 * x - 0.2 * y
    step = SPACING / 10
    found = estimate(cloud(x, y, np.round(z / step) * step))
    assert angles(found, np.array([0.3, -0.2, -1.0]) / np.linalg.norm([0.3, 0.2, 1.0])).max() < 3.0


def test_a_scan_need_not_be_square_nor_larger_than_the_window():
    x, y = grid(size=(3, 5))
    assert angles(estimate(cloud(x, y, DISTANCE)), [0, 0, -1]).max() < 0.02


def test_a_batch_of_scans_gives_what_each_gives():
    scans = jnp.stack([jnp.asarray(bumpy()), jnp.asarray(bumpy(0.7))])
    together = jax.vmap(normals.estimate)(scans)
    np.testing.assert_allclose(together[1], normals.estimate(scans[1]), atol=1e-5)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    shift=st.tuples(*[st.floats(-0.2, 0.2)] * 3),
    seed=st.integers(0, 10**6),
)
def test_normals_turn_with_the_scan(turn, shift, seed):
    rng = np.random.default_rng(seed)
    xyz = bumpy(0.0) + rng.normal(scale=2e-5, size=(*SIZE, 3)).astype(np.float32)
    holes = rng.random(SIZE) < 0.1
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    placed, turned = xyz + np.array([0, 0, DISTANCE]), xyz @ rotation.T + np.array(shift) + 1e-3
    for scan in (placed, turned):
        scan[holes] = 0.0
    one, two = estimate(placed.astype(np.float32)) @ rotation.T, estimate(turned.astype(np.float32))
    # Which side faces the camera may change; the plane may not.
    apart = np.minimum(angles(one, two), angles(one, -two))
    assert apart[~holes].max() < 0.05
    assert not two[holes].any()


def test_resize_averages_valid_normals_only():
    field = np.zeros((8, 8, 3), np.float32)
    field[:, :5] = [0.6, 0.0, -0.8]
    resized = normals.resize(field, (4, 4))
    np.testing.assert_allclose(resized[:, :2], np.broadcast_to([0.6, 0.0, -0.8], (4, 2, 3)), atol=1e-6)
    assert not resized[:, 3].any()
    assert resized.dtype == np.float32


@pytest.mark.parametrize(("columns", "known"), [(3, False), (5, True)])
def test_a_resized_normal_needs_half_of_its_area(columns, known):
    field = np.zeros((8, 8, 3), np.float32)
    field[:, :columns] = [0.6, 0.0, -0.8]
    assert normals.resize(field, (1, 1)).any() == known


@pytest.mark.parametrize("size", [(7, 5), (20, 26), (33, 31), (14, 14)])
def test_resized_normals_are_unit_or_zero(size):
    rng = np.random.default_rng(4)
    field = estimate(bumpy())
    field[rng.random(SIZE) < 0.4] = 0.0
    resized = normals.resize(field, size)
    assert resized.shape == (*size, 3)
    length = np.linalg.norm(resized, axis=-1)
    assert (length > 0).any()
    np.testing.assert_allclose(length[length > 0], 1.0, atol=1e-6)


def test_holes_do_not_tilt_resized_normals():
    rng = np.random.default_rng(5)
    field = np.full((*SIZE, 3), [0.36, -0.48, -0.8], np.float32)
    field[rng.random(SIZE) < 0.4] = 0.0
    resized = normals.resize(field, (11, 9))
    seen = resized.any(axis=-1)
    assert seen.any()
    assert angles(resized[seen], [0.36, -0.48, -0.8]).max() < 1e-3


def test_resize_to_the_same_size_changes_nothing():
    field = estimate(bumpy())
    field[3:6, 2:9] = 0.0
    np.testing.assert_allclose(normals.resize(field, SIZE), field, atol=1e-6)


def test_opposite_normals_cancel_to_none():
    field = np.zeros((2, 2, 3), np.float32)
    field[0], field[1] = [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]
    assert not normals.resize(field, (1, 1)).any()


@pytest.mark.parametrize(
    ("normal", "colour"),
    [
        ((0, 0, -1), (128, 128, 255)),
        ((1, 0, 0), (255, 128, 128)),
        ((-1, 0, 0), (0, 128, 128)),
        ((0, -1, 0), (128, 255, 128)),
        ((0, 1, 0), (128, 0, 128)),
        ((0, 0, 0), (0, 0, 0)),
        ((0.6, 0, -0.8), (204, 128, 230)),
    ],
)
def test_colours_of_normals(normal, colour):
    shown = normals.to_image(np.full((2, 3, 3), normal, np.float32))
    assert shown.shape == (2, 3, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.broadcast_to(colour, (2, 3, 3)))


def test_colours_are_linear_in_the_components():
    field = estimate(bumpy())
    back = (normals.to_image(field) / 127.5 - 1.0) * [1, -1, -1]
    assert np.abs(back - field).max() <= 0.5 / 127.5 + 1e-6
