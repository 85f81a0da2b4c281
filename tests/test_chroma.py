"""Soft histograms of relative colour: what changes them, and what must not."""

import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.encoders import chroma

SIZE, PATCH = 32, 8


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.9, (SIZE, SIZE, 3)).astype(np.float32)


def histograms(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(chroma.describe(jnp.asarray(pixels), PATCH)).reshape(SIZE // PATCH, SIZE // PATCH, -1)


def test_a_histogram_is_the_mean_over_squares_of_bins_of_both_ratios():
    pixels = image()
    pixels[:5] = 0
    shown = pixels.any(-1)
    logs = np.log(pixels.astype(np.float64) + 0.05)
    ratios = np.stack([logs[..., 0] - logs[..., 1], logs[..., 2] - logs[..., 1]], axis=-1)
    ratios = np.where(shown[..., None], ratios - ratios[shown].mean(0), 0)
    centres, expected = [-0.875 + 0.25 * i for i in range(8)], np.zeros((4, 4, 8, 8))
    for row in range(0, SIZE, 2):
        for column in range(0, SIZE, 2):
            red, blue = ratios[row : row + 2, column : column + 2].mean((0, 1))
            for i, a in enumerate(centres):
                for j, b in enumerate(centres):
                    value = np.exp(-((red - a) ** 2 + (blue - b) ** 2) / (2 * 0.25**2))
                    expected[row // PATCH, column // PATCH, i, j] += value / 16
    found = histograms(pixels)
    assert found.shape == (4, 4, chroma.ChromaConfig().width)
    np.testing.assert_allclose(found, np.sqrt(expected).reshape(4, 4, 64), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("light", [(0.5, 0.5, 0.5), (1.1, 1.0, 0.8)])
def test_the_light_counts_for_little_and_a_stain_for_much(light):
    clean = image()
    lit = clean * np.array(light, np.float32)
    stained = clean.copy()
    stained[8:16, 8:16, 0] *= 2
    one, other, stain = map(histograms, (clean, lit, stained))
    assert np.linalg.norm(other - one, axis=-1).max() < 0.2 * np.linalg.norm(stain - one, axis=-1)[1, 1]


def test_what_is_off_the_part_has_its_mean_colour():
    pixels = np.zeros((SIZE, SIZE, 3), np.float32)
    pixels[:16] = [0.8, 0.4, 0.2]
    found = histograms(pixels)
    np.testing.assert_allclose(found[3], found[0], rtol=1e-4)
    np.testing.assert_allclose(histograms(np.zeros_like(pixels)), found, rtol=1e-4)
