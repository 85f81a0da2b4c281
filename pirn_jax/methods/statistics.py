"""Statistics over the patches that show the part. `s` samples, `m` modalities, `n` patches, `c` channels."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def root_mean_square(values: Float[Array, "s m *groups n c"], mask: Bool[Array, "s n"]) -> Float[Array, " m"]:
    """Root mean square of each modality's channels, 1 where these are all zero: a scale to divide by."""
    samples, patches = mask.shape
    shown = mask.reshape(samples, *[1] * (values.ndim - 3), patches, 1)
    squares = jnp.sum(jnp.where(shown, values**2, 0.0), axis=(0, *range(2, values.ndim)))
    scale = jnp.sqrt(squares / (jnp.sum(mask) * (math.prod(values.shape[2:]) // patches)))
    return jnp.where(scale > 0, scale, 1.0)


def in_units(values: Float[Array, "*batch m g n c"], scale: Float[Array, " m"]) -> Float[Array, "*batch m g n c"]:
    """Values of each modality divided by its scale, in float32."""
    return values.astype(jnp.float32) / scale[:, None, None, None]


def moments(
    values: Float[Array, "s m n c"], mask: Bool[Array, "s n"]
) -> tuple[Float[Array, "m c"], Float[Array, "m c"]]:
    """Mean and deviation of each channel; no deviation is zero."""
    shown = jnp.broadcast_to(mask[:, None, :, None], values.shape)
    return jnp.mean(values, axis=(0, 2), where=shown), jnp.std(values, axis=(0, 2), where=shown) + 1e-6


def mean(values: Float[Array, "*maps n"], mask: Bool[Array, " n"]) -> Float[Array, "*maps"]:
    """Mean over the part of a sample; zero without one."""
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / jnp.maximum(jnp.sum(mask), 1)
