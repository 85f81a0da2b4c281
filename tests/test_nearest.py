"""Nearest rows of banks, by maps of one modality and of both; reach of rows, and distances in units of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import nearest

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(2, 3, 4, 2)).astype(np.float32)
MASK = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)
MAPS = nearest.each(2) + nearest.together(2)
X = RNG.normal(size=(2, 6, 2)).astype(np.float32)


def squared(x, rows):
    """Of each map, (3, n, N)."""
    each = np.square(x[:, :, None] - rows[:, None]).sum(-1)
    return np.concatenate([each, each.mean(0, keepdims=True)])


def test_a_row_reaches_to_the_nearest_row_of_another_sample_and_a_share_of_the_mean_farther():
    expected = np.zeros((3, 3, 4))
    for i in range(3):
        others = np.concatenate([ROWS[:, j][:, MASK[j]] for j in range(3) if j != i], axis=1)
        expected[:, i] = squared(ROWS[:, i], others).min(-1)
    expected += 0.5 * expected[:, MASK].mean(-1)[:, None, None]
    found = nearest.reaches(jnp.asarray(ROWS), jnp.asarray(MASK), MAPS, 0.5)
    np.testing.assert_allclose(np.reshape(found, (3, 3, 4)), expected, rtol=1e-4)


def test_a_row_of_a_single_sample_reaches_to_the_nearest_other_row():
    found = nearest.reaches(jnp.asarray(ROWS[:, :1]), jnp.asarray(MASK[:1]), MAPS, 0.5)
    apart = squared(ROWS[:, 0], ROWS[:, 0])
    apart[:, :, ~MASK[0]] = np.inf
    expected = np.sort(apart, axis=-1)[..., 1][:, MASK[0]]
    np.testing.assert_allclose(found[:, MASK[0]], expected + 0.5 * expected.mean(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize(
    "rows", [ROWS[:, :1, :1], np.ones((2, 1, 4, 2), np.float32), np.ones((2, 3, 4, 2), np.float32)]
)
def test_rows_that_are_all_one_or_one_alone_reach_equally_far(rows):
    mask = np.ones(rows.shape[1:3], bool)
    found = nearest.reaches(jnp.asarray(rows), jnp.asarray(mask), MAPS)
    np.testing.assert_array_equal(found, np.ones((3, mask.size)))


@pytest.mark.parametrize("with_reach", [False, True])
def test_each_map_has_the_least_distance_of_its_modalities_in_units_of_each_rows_reach(with_reach, monkeypatch):
    monkeypatch.setattr(nearest, "_TILE", 5)
    bank, counted = ROWS.reshape(2, 12, 2), np.stack([MASK.ravel(), MASK.ravel(), np.arange(12) > 4])
    reach = RNG.uniform(0.1, 5, (3, 12)).astype(np.float32) if with_reach else np.ones((3, 12), np.float32)
    apart = np.where(counted[:, None], squared(X, bank) / reach[:, None], np.inf)
    given = X, bank, counted, MAPS, 4, reach if with_reach else None
    found, indices = nearest.nearest_rows(*(jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in given))
    np.testing.assert_allclose(found, np.sort(apart, axis=-1)[..., :4], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(apart, np.asarray(indices), -1), found, rtol=1e-3, atol=1e-5)
    one = nearest.nearest_row(*map(jnp.asarray, given[:3]), MAPS, None if given[5] is None else jnp.asarray(reach))
    np.testing.assert_allclose(one, found[..., 0], rtol=1e-5)


def test_a_bank_is_remembered_and_forgotten_by_sample():
    rows, mask = jnp.moveaxis(jnp.asarray(ROWS), 1, 0), jnp.asarray(MASK)
    params = nearest.remember(rows, mask, MAPS)
    np.testing.assert_allclose(nearest.distances(params, rows[1], MAPS)[:, MASK[1]], 0.0, atol=1e-5)
    left = nearest.distances(nearest.forget(params, jnp.asarray(1)), rows[1], MAPS)
    kept = np.delete(np.arange(3), 1)
    apart = squared(ROWS[:, 1], ROWS[:, kept].reshape(2, 8, 2)) / np.reshape(params["reach"], (3, 3, 4))[
        :, kept
    ].reshape(3, 1, 8)
    np.testing.assert_allclose(left, np.where(MASK[kept].ravel(), apart, np.inf).min(-1), rtol=1e-3, atol=1e-5)
