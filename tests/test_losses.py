"""Losses against the float64 reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax import losses
from tests import reference

BATCH, N, C = 3, 7, 5


def target_and_rebuilt():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, BATCH, N, C))


@pytest.mark.usefixtures("x64")
def test_value_is_the_reference():
    target, rebuilt = target_and_rebuilt()
    np.testing.assert_allclose(
        losses.soft_mining(losses.products(jnp.array(target), jnp.array(rebuilt))),
        reference.soft_mining_loss(target, rebuilt),
        atol=1e-7,
    )


@pytest.mark.usefixtures("x64")
def test_gradient_is_weighted_patch_by_patch():
    target, rebuilt = target_and_rebuilt()

    def flat(b):
        whole = (x.reshape(BATCH, -1) for x in (jnp.array(target), b))
        return losses.cosine_distance(losses.products(*whole)).mean()

    plain = jax.grad(flat)(jnp.array(rebuilt))
    weighted = jax.grad(lambda b: losses.soft_mining(losses.products(jnp.array(target), b)))(jnp.array(rebuilt))
    weights = reference.soft_mining_weights(target, rebuilt)
    np.testing.assert_allclose(weighted, weights[..., None] * plain, atol=1e-7)


def test_no_gradient_reaches_the_target():
    target, rebuilt = map(jnp.array, target_and_rebuilt())
    assert (jax.grad(lambda a: losses.soft_mining(losses.products(a, rebuilt)))(target) == 0).all()


@pytest.mark.usefixtures("x64")
def test_cosine_distance_is_the_reference_and_one_for_a_zero_row():
    target, rebuilt = target_and_rebuilt()
    distances = losses.cosine_distance(losses.products(jnp.array(target[0]), jnp.array(rebuilt[0])))
    np.testing.assert_allclose(distances, reference.patch_distances(target[0], rebuilt[0]), atol=1e-7)
    assert losses.cosine_distance(losses.products(jnp.zeros((1, C)), jnp.ones((1, C)))) == 1.0


def test_perfect_reconstruction_has_no_loss_and_a_finite_gradient():
    target = jnp.array(target_and_rebuilt()[0])
    value, gradient = jax.value_and_grad(lambda b: losses.soft_mining(losses.products(target, b)))(target)
    assert abs(value) < 1e-6
    assert jnp.isfinite(gradient).all()
