"""Reach of a bank's rows, and distances in units of it."""

import jax.numpy as jnp
import numpy as np

from pirn_jax.methods import nearest

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(3, 4, 2)).astype(np.float32)
MASK = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [1, 1, 1, 1]], bool)


def test_a_row_reaches_to_the_nearest_row_of_another_sample_and_a_share_of_the_mean_farther():
    expected = np.zeros((3, 4))
    for i in range(3):
        others = np.concatenate([ROWS[j][MASK[j]] for j in range(3) if j != i])
        expected[i] = ((ROWS[i][:, None] - others) ** 2).sum(-1).min(1)
    expected += 0.5 * expected[MASK].mean()
    found = nearest.reaches(jnp.asarray(ROWS), jnp.asarray(MASK), 0.5)
    np.testing.assert_allclose(np.reshape(found, (3, 4)), expected, rtol=1e-4)


def test_rows_of_a_single_sample_reach_equally_far():
    np.testing.assert_array_equal(nearest.reaches(jnp.asarray(ROWS[:1]), jnp.asarray(MASK[:1]), 3.0), np.ones(4))


def test_the_least_distance_is_taken_in_units_of_each_rows_reach(monkeypatch):
    monkeypatch.setattr(nearest, "_TILE", 5)
    x, bank, mask = RNG.normal(size=(6, 2)).astype(np.float32), ROWS.reshape(-1, 2), MASK.ravel()
    reach = RNG.uniform(0.1, 5, 12).astype(np.float32)
    apart = ((x[:, None] - bank) ** 2).sum(-1)
    found = nearest.nearest_row(*map(jnp.asarray, (x, bank, mask, reach)))
    np.testing.assert_allclose(found, (apart / reach)[:, mask].min(1), rtol=1e-3, atol=1e-5)
    plain = nearest.nearest_row(*map(jnp.asarray, (x, bank, mask)))
    np.testing.assert_allclose(plain, apart[:, mask].min(1), rtol=1e-3, atol=1e-5)
