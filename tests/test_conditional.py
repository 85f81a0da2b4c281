"""The Gaussian over modalities: its inverse, distances against a regression in float64, and what it sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import conditional, nearest, residuals
from tests import reference

RNG = np.random.default_rng(0)
SAMPLES, N, C = 3, 40, 5
MIX = RNG.normal(size=(2 * C, 2 * C))
ROWS = np.moveaxis((RNG.normal(size=(SAMPLES, N, 2 * C)) @ MIX + 3).reshape(SAMPLES, N, 2, C), 2, 1).astype(np.float32)
MASK = RNG.uniform(size=(SAMPLES, N)) < 0.8
X = np.moveaxis((RNG.normal(size=(7, 2 * C)) @ MIX + 3).reshape(7, 2, C), 1, 0).astype(np.float32)


@pytest.mark.parametrize("size", [1, 31, 32, 70])
def test_the_inverse_is_the_inverse(size):
    root = RNG.normal(size=(size, 2 * size))
    matrix = root @ root.T / size + 0.01 * np.eye(size)
    found = jax.jit(conditional.inverse)(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(found, np.linalg.inv(matrix), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("modalities", [1, 2])
@pytest.mark.parametrize(("shrinkage", "ridge"), [(0.1, 0.1), (0.0, 0.01), (1.0, 0.1)])
def test_distances_are_those_of_the_conditional_gaussian(modalities, shrinkage, ridge):
    rows, x = ROWS[:, :modalities], X[:modalities]
    fit = functools.partial(conditional.fit, shrinkage=shrinkage, ridge=ridge)
    found = conditional.distances(jax.jit(fit)(rows, MASK), jnp.asarray(x))
    good = np.moveaxis(rows, 2, 1)[MASK]
    np.testing.assert_allclose(found, reference.conditional_distances(good, x, shrinkage, ridge), rtol=2e-3)


def test_good_patches_lie_about_one_off_and_what_is_off_the_part_counts_for_nothing():
    fitted = conditional.fit(jnp.asarray(ROWS), jnp.asarray(MASK), 0.0, 1e-3)
    good = np.stack([conditional.distances(fitted, jnp.asarray(of)) for of in ROWS])
    assert 0.8 < np.square(good)[np.broadcast_to(MASK[:, None], good.shape)].mean() < 1.1
    other = conditional.fit(jnp.where(MASK[:, None, :, None], ROWS, 1e6), jnp.asarray(MASK), 0.0, 1e-3)
    np.testing.assert_array_equal(other["precision"], fitted["precision"])


def test_what_is_normal_in_each_modality_and_not_together_is_far():
    colour = np.repeat(RNG.choice([-1.0, 1.0], size=(1, 1, 400, 1)), 2, axis=1)
    rows = jnp.asarray(colour + 0.1 * RNG.normal(size=(1, 2, 400, 2)), jnp.float32)
    fitted, whole = conditional.fit(rows, jnp.ones((1, 400), bool)), rows[0]
    swapped = jnp.stack([whole[0], -whole[1]])
    assert conditional.distances(fitted, swapped).min() > 2 * conditional.distances(fitted, whole).max()
    alone = conditional.fit(rows[:, :1], jnp.ones((1, 400), bool))
    assert conditional.distances(alone, swapped[:1]).max() < 2


def test_both_comparisons_stand_side_by_side_and_one_of_them_forgets():
    both = residuals.compare("both", ("rgb", "normals"), joint=True)
    assert both.maps == ("rgb", "normals", "joint", "rgb given normals", "normals given rgb")
    fitted = both.fit(jnp.asarray(ROWS), jnp.asarray(MASK))
    found = both.distances(fitted, jnp.asarray(ROWS[1]))
    maps = nearest.each(2) + nearest.together(2)
    np.testing.assert_allclose(found[:3, MASK[1]], 0.0, atol=1e-4)
    np.testing.assert_array_equal(
        found[3:], conditional.distances(conditional.fit(jnp.asarray(ROWS), jnp.asarray(MASK)), jnp.asarray(ROWS[1]))
    )
    left = both.distances(both.forget(fitted, jnp.asarray(1)), jnp.asarray(ROWS[1]))
    expected = nearest.distances(nearest.forget(fitted[0], jnp.asarray(1)), jnp.asarray(ROWS[1]), maps)
    np.testing.assert_array_equal(left[:3], expected)
    assert left[:3].min() > 0
    np.testing.assert_array_equal(left[3:], found[3:])


def test_a_map_of_all_modalities_needs_several():
    assert residuals.compare("nearest", ("rgb",), joint=True).maps == ("rgb",)
