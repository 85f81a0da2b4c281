"""From distances to maps: the combined operators against the four steps they stand for."""

import numpy as np
import pytest

from pirn_jax.protocol import scoring
from tests import reference


@pytest.mark.parametrize("size", [(16, 16), (20, 12), (9, 30)])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_maps_are_upsampled_smoothed_resized_and_cropped(size, sigma):
    maps = scoring.Maps(grid=4, input_size=24, sigma=sigma)
    distances = np.random.default_rng(0).random((2, 16))
    up, side = reference.bilinear_weights(24, 4), max(size)
    smooth = reference.gaussian_weights(24, sigma) if sigma else np.eye(24)
    axis = reference.bilinear_weights(side, 24) @ smooth @ up
    top, left = ((side - length) // 2 for length in size)
    rows, columns = axis[top : top + size[0]], axis[left : left + size[1]]
    expected = [rows @ d.reshape(4, 4) @ columns.T for d in distances]
    np.testing.assert_allclose(maps.modalities(distances, size), expected, atol=1e-6)
    np.testing.assert_allclose(maps.fused(distances, size), sum(expected), atol=1e-6)


def test_constant_distances_give_a_constant_map():
    fused = scoring.Maps(grid=4, input_size=56, sigma=4.0).fused(np.full((2, 16), 0.25), (50, 30))
    np.testing.assert_allclose(fused, 0.5, rtol=1e-5)


def test_a_patch_lights_up_where_it_lies():
    distances = np.zeros((2, 16))
    distances[0, 1 * 4 + 2] = 1.0
    fused = scoring.Maps(grid=4, input_size=56, sigma=2.0).fused(distances, (40, 40))
    row, column = np.unravel_index(fused.argmax(), fused.shape)
    assert abs(row - 14.5) < 1
    assert abs(column - 24.5) < 1


@pytest.mark.parametrize(("size_out", "size_in"), [(7, 3), (3, 7), (5, 5), (4, 1)])
def test_bilinear_is_the_reference(size_out, size_in):
    np.testing.assert_allclose(
        scoring.bilinear(size_out, size_in), reference.bilinear_weights(size_out, size_in), atol=1e-12
    )
