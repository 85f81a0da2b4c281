"""Programs without loops and calls: the numbers of those with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.inspection.unrolling import unroll


def looped(x, rows):
    """A loop with slices at its turn, stacked results, a reversed scan and a call."""

    def turn(carry, i):
        part = jax.lax.dynamic_slice_in_dim(rows, i, 2)
        return jax.nn.relu(carry + part.sum(0)), carry[0] * i

    last, stacked = jax.lax.scan(turn, x, jnp.arange(3))
    _, behind = jax.lax.scan(lambda carry, v: (carry * 0.5 + v, carry), 0.0, stacked, reverse=True)
    return last, jax.lax.fori_loop(0, 4, lambda i, v: v + i * behind, stacked)


def primitives(jaxpr):
    return {equation.primitive.name for equation in jaxpr.eqns}


def test_a_program_without_loops_gives_the_same_numbers():
    rng = np.random.default_rng(0)
    x, rows = (rng.normal(size=size).astype(np.float32) for size in ((3,), (4, 3)))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    flat = unroll(lambda x: looped(x, jnp.asarray(rows)), shape)
    for ours, expected in zip(flat(x), looped(x, rows), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)
    found = primitives(jax.make_jaxpr(flat)(shape))
    assert not found & {"scan", "while", "jit", "pjit", "custom_jvp_call"}
    # Slices that start at the number of a turn depend on constants alone.
    assert not found & {"dynamic_slice", "gather"}


def test_a_loop_that_ends_when_it_likes_is_refused():
    def halve(x):
        return jax.lax.while_loop(lambda v: v > 1, lambda v: v / 2, x)

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    with pytest.raises(ValueError, match="without a fixed number of turns"):
        unroll(halve, shape)(jnp.float32(8))
