"""Losses against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import losses
from tests import reference

BATCH, N, C = 3, 7, 5
WHOLE = np.ones((BATCH, N), bool)
MASK = np.arange(N) < np.array([[7], [4], [1]])


def target_and_rebuilt():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, BATCH, N, C))


def soft_mining(target, rebuilt, mask=WHOLE):
    return losses.soft_mining(losses.products(target, rebuilt), jnp.array(mask))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [WHOLE, MASK])
def test_value_is_the_reference_on_the_kept_patches(mask):
    target, rebuilt = target_and_rebuilt()
    kept = zip(target, rebuilt, mask, strict=True)
    expected = np.mean([reference.soft_mining_loss(a[of], b[of]) for a, b, of in kept])
    np.testing.assert_allclose(soft_mining(jnp.array(target), jnp.array(rebuilt), mask), expected, atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [WHOLE, MASK])
def test_gradient_is_weighted_patch_by_patch_and_zero_off_the_mask(mask):
    target, rebuilt = target_and_rebuilt()

    def flat(b):
        whole = (jnp.where(mask[..., None], x, 0.0).reshape(BATCH, -1) for x in (jnp.array(target), b))
        return losses.cosine_distance(losses.products(*whole)).mean()

    plain = jax.grad(flat)(jnp.array(rebuilt))
    weighted = jax.grad(lambda b: soft_mining(jnp.array(target), b, mask))(jnp.array(rebuilt))
    weights = reference.soft_mining_weights(target[mask], rebuilt[mask])
    np.testing.assert_allclose(weighted[mask], weights[:, None] * plain[mask], atol=1e-7)
    assert (weighted[~mask] == 0).all()


def test_no_gradient_reaches_the_target():
    target, rebuilt = map(jnp.array, target_and_rebuilt())
    assert (jax.grad(lambda a: soft_mining(a, rebuilt))(target) == 0).all()


@pytest.mark.usefixtures("x64")
def test_cosine_distance_is_the_reference_and_one_for_a_zero_row():
    target, rebuilt = target_and_rebuilt()
    distances = losses.cosine_distance(losses.products(jnp.array(target[0]), jnp.array(rebuilt[0])))
    np.testing.assert_allclose(distances, reference.patch_distances(target[0], rebuilt[0]), atol=1e-7)
    assert losses.cosine_distance(losses.products(jnp.zeros((1, C)), jnp.ones((1, C)))) == 1.0


def test_perfect_reconstruction_has_no_loss_and_a_finite_gradient():
    target = jnp.array(target_and_rebuilt()[0])
    value, gradient = jax.value_and_grad(lambda b: soft_mining(target, b))(target)
    assert abs(value) < 1e-6
    assert jnp.isfinite(gradient).all()
