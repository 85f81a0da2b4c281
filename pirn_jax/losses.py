"""Reconstruction losses that methods share. All they need of a patch and what it became are three inner products."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Products(NamedTuple):
    """Inner products of corresponding rows of a target and its reconstruction.

    Attributes:
      mixed: target with rebuilt.
      rebuilt: rebuilt with itself.
      target: target with itself.
    """

    mixed: Float[Array, "*rows"]
    rebuilt: Float[Array, "*rows"]
    target: Float[Array, "*rows"]


def inner(a: Float[Array, "*rows c"], b: Float[Array, "*rows c"]) -> Float[Array, "*rows"]:
    """Inner products of corresponding rows."""
    return jnp.sum(a * b, axis=-1)


def products(target: Float[Array, "*rows c"], rebuilt: Any, paired: Callable[[Any, Any], Array] = inner) -> Products:
    """Inner products of a target and its reconstruction; no gradient reaches the target.

    Args:
      target: rows.
      rebuilt: as many, in any form that `paired` takes.
      paired: inner products of corresponding rows.
    """
    target = jax.lax.stop_gradient(target)
    return Products(paired(target, rebuilt), paired(rebuilt, rebuilt), paired(target, target))


def cosine_distance(rows: Products) -> Float[Array, "*rows"]:
    """`1 - cos` of target and reconstruction, in [0, 2]; 1 where either row is zero."""
    return 1.0 - rows.mixed * jax.lax.rsqrt(jnp.maximum(rows.target * rows.rebuilt, 1e-24))


def soft_mining(rows: Products, exponent: float = 3.0) -> Float[Array, ""]:
    """Soft mining loss of INP-Former: badly rebuilt patches pull harder (Luo et al., 2025).

    The value is the mean cosine distance of whole feature maps, each flattened to one vector. The gradient that
    reaches patch `i` of the reconstruction is multiplied by `(d_i / mean d) ** exponent`, with `d` the cosine distance
    of each patch and the mean over batch and patches.

    Args:
      rows: (batch, n) of encoder features and what the decoder made of them.
      exponent: INP-Former uses 3.
    """
    distance = jax.lax.stop_gradient(cosine_distance(rows))
    weight = (distance / jnp.maximum(distance.mean(), 1e-12)) ** exponent
    # A patch reaches the loss through these two numbers alone: weighting their gradients weights the patch's.
    mixed, rebuilt = _weighted(rows.mixed, weight), _weighted(rows.rebuilt, weight)
    return jnp.mean(cosine_distance(Products(mixed.sum(1), rebuilt.sum(1), rows.target.sum(1))))


def _weighted(x: Float[Array, "batch n"], weight: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
    """The same value with its gradient multiplied."""
    frozen = jax.lax.stop_gradient(x)
    return frozen + weight * (x - frozen)
