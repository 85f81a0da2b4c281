"""The classical descriptor: what each of its channels answers to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from pirn_jax.encoders import filter_bank

PATCH = 8
describe = jax.jit(filter_bank.describe, static_argnums=1)
COLOURS, CONTRASTS, FIRST = slice(0, 3), slice(3, 6), slice(6, 6 + filter_bank.ORIENTATIONS)


def waves(angle: float, length: float = 6.0) -> np.ndarray:
    """Grey waves whose gradient points along the angle."""
    y, x = np.mgrid[:32, :40]
    phase = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / length
    return np.repeat(0.5 + 0.3 * np.sin(phase)[..., None], 3, axis=-1).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_the_blur_is_scipys_over_the_pixels_that_there_are(sigma):
    image = np.random.default_rng(0).random((20, 31, 2), np.float32)

    def spread(x):
        return scipy.ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="constant", truncate=8.0)

    expected = spread(image) / spread(np.ones_like(image))
    np.testing.assert_allclose(filter_bank.blur(jnp.asarray(image), sigma), expected, atol=1e-5)
    np.testing.assert_allclose(filter_bank.blur(jnp.asarray(image[..., 0]), sigma), expected[..., 0], atol=1e-5)


def test_there_is_a_descriptor_for_every_patch_row_by_row():
    image = np.zeros((32, 40, 3), np.float32)
    image[8:16, 24:32] = (0.2, 0.4, 0.9)
    found = describe(image, PATCH)
    assert found.shape == (4 * 5, 6 + 16 * len(filter_bank.SCALES))
    np.testing.assert_allclose(found[1 * 5 + 3, COLOURS], (0.2, 0.4, 0.9), rtol=1e-6)
    assert not found[0, COLOURS].any()


@pytest.mark.parametrize("bin_", range(filter_bank.ORIENTATIONS))
def test_a_wave_answers_in_the_bin_of_its_orientation(bin_):
    found = describe(waves(np.pi * bin_ / filter_bank.ORIENTATIONS), PATCH)
    assert (np.argmax(found[:, FIRST], axis=-1) == bin_).all()


def test_half_way_between_two_bins_both_answer_alike():
    found = np.asarray(describe(waves(np.pi * 1.5 / filter_bank.ORIENTATIONS), PATCH)[:, FIRST]).mean(0)
    assert set(np.argsort(found)[-2:]) == {1, 2}
    np.testing.assert_allclose(found[1], found[2], rtol=0.2)


def test_the_opposite_direction_is_the_same_orientation():
    step = jnp.repeat(jnp.linspace(0, 1, 40)[None].repeat(32, 0)[..., None], 3, axis=-1)
    np.testing.assert_allclose(describe(step, PATCH)[:, 6:], describe(1 - step, PATCH)[:, 6:], atol=1e-4)


def test_contrast_grows_with_the_amplitude():
    weak, strong = (np.asarray(describe(0.5 + factor * (waves(0.3) - 0.5), PATCH)) for factor in (0.5, 1.0))
    np.testing.assert_allclose(strong[:, CONTRASTS], 2 * weak[:, CONTRASTS], rtol=0.02)
