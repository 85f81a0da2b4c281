"""Fields of normals as images: what resizing and colours must keep."""

import numpy as np
import pytest

from pirn_jax.geometry import normal_images

SIZE = (20, 26)


def field_of_normals() -> np.ndarray:
    """Unit normals all round, another at every pixel."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    slope = np.stack([np.sin(columns / 5), np.cos(rows / 4 + columns / 9), np.full(SIZE, -1.0)], axis=-1)
    return (slope / np.linalg.norm(slope, axis=-1, keepdims=True)).astype(np.float32)


def test_resize_averages_valid_normals_only():
    field = np.zeros((8, 8, 3), np.float32)
    field[:, :5] = [0.6, 0.0, -0.8]
    resized = normal_images.resize(field, (4, 4))
    np.testing.assert_allclose(resized[:, :2], np.broadcast_to([0.6, 0.0, -0.8], (4, 2, 3)), atol=1e-6)
    assert not resized[:, 3].any()
    assert resized.dtype == np.float32


@pytest.mark.parametrize(("columns", "known"), [(3, False), (5, True)])
def test_a_resized_normal_needs_half_of_its_area(columns, known):
    field = np.zeros((8, 8, 3), np.float32)
    field[:, :columns] = [0.6, 0.0, -0.8]
    assert normal_images.resize(field, (1, 1)).any() == known


@pytest.mark.parametrize("size", [(7, 5), (20, 26), (33, 31), (14, 14)])
def test_resized_normals_are_unit_or_zero(size):
    rng = np.random.default_rng(4)
    field = field_of_normals()
    field[rng.random(SIZE) < 0.4] = 0.0
    resized = normal_images.resize(field, size)
    assert resized.shape == (*size, 3)
    length = np.linalg.norm(resized, axis=-1)
    assert (length > 0).any()
    np.testing.assert_allclose(length[length > 0], 1.0, atol=1e-6)


def test_holes_do_not_tilt_resized_normals():
    rng = np.random.default_rng(5)
    field = np.full((*SIZE, 3), [0.36, -0.48, -0.8], np.float32)
    field[rng.random(SIZE) < 0.4] = 0.0
    resized = normal_images.resize(field, (11, 9))
    seen = resized.any(axis=-1)
    assert seen.any()
    np.testing.assert_allclose(resized[seen], np.broadcast_to([0.36, -0.48, -0.8], resized[seen].shape), atol=1e-5)


def test_resize_to_the_same_size_changes_nothing():
    field = field_of_normals()
    field[3:6, 2:9] = 0.0
    np.testing.assert_allclose(normal_images.resize(field, SIZE), field, atol=1e-6)


def test_opposite_normals_cancel_to_none():
    field = np.zeros((2, 2, 3), np.float32)
    field[0], field[1] = [1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]
    assert not normal_images.resize(field, (1, 1)).any()


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
    shown = normal_images.to_image(np.full((2, 3, 3), normal, np.float32))
    assert shown.shape == (2, 3, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.broadcast_to(colour, (2, 3, 3)))


def test_colours_are_linear_in_the_components():
    field = field_of_normals()
    back = (normal_images.to_image(field) / 127.5 - 1.0) * [1, -1, -1]
    assert np.abs(back - field).max() <= 0.5 / 127.5 + 1e-6
