"""Reconstruction losses that methods share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def cosine_distance(a: Float[Array, "*rows c"], b: Float[Array, "*rows c"]) -> Float[Array, "*rows"]:
    """`1 - cos(a, b)` of corresponding rows, in [0, 2]; 1 where either row is zero."""
    squared = jnp.sum(a * a, axis=-1) * jnp.sum(b * b, axis=-1)
    return 1.0 - jnp.sum(a * b, axis=-1) * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))


def soft_mining(
    target: Float[Array, "batch n c"], rebuilt: Float[Array, "batch n c"], exponent: float = 3.0
) -> Float[Array, ""]:
    """Soft mining loss of INP-Former: badly rebuilt patches pull harder (Luo et al., 2025).

    The value is the mean cosine distance of whole feature maps, each flattened to one vector. The gradient that
    reaches patch `i` of the reconstruction is multiplied by `(d_i / mean d) ** exponent`, with `d` the cosine distance
    of each patch and the mean over batch and patches. No gradient reaches the target.

    Args:
      target: encoder features.
      rebuilt: decoder output.
      exponent: INP-Former uses 3.
    """
    target = jax.lax.stop_gradient(target)
    product, own = jnp.sum(target * rebuilt, axis=-1), jnp.sum(rebuilt * rebuilt, axis=-1)
    theirs = jnp.sum(target * target, axis=-1)
    distance = 1.0 - jax.lax.stop_gradient(product * jax.lax.rsqrt(jnp.maximum(theirs * own, 1e-24)))
    weight = (distance / jnp.maximum(distance.mean(), 1e-12)) ** exponent
    # A patch reaches the loss through these two numbers alone: weighting their gradients weights the patch's.
    product, own = _weighted(product, weight), _weighted(own, weight)
    squared = theirs.sum(1) * own.sum(1)
    return jnp.mean(1.0 - product.sum(1) * jax.lax.rsqrt(jnp.maximum(squared, 1e-24)))


def _weighted(x: Float[Array, "batch n"], weight: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
    """The same value with its gradient multiplied."""
    frozen = jax.lax.stop_gradient(x)
    return frozen + weight * (x - frozen)
