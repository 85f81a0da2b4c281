"""Random numbers and fields, and smooth steps between values, for what is made up."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def uniform(key: Key[Array, ""], low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
    """Uniform numbers."""
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def spread(key: Key[Array, ""], low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
    """Numbers whose logarithm is uniform."""
    return jnp.exp(uniform(key, math.log(low), math.log(high), shape))


def ramp(x: Array, low: Array | float, high: Array | float) -> Array:
    """0 up to `low`, 1 from `high` on, smooth between."""
    t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def of_cells(i: Array, j: Array, salt: Array) -> Array:
    """Pseudo-random numbers in [0, 1) of lattice cells."""
    value = jnp.sin(i * 12.9898 + j * 78.233 + salt * 37.719) * 43758.5453
    return value - jnp.floor(value)


def noise(
    key: Key[Array, ""], size: int, grain: Array | float, stretch: Array | float = 1.0, turn: Array | float = 0.0
) -> Float[Array, "n n"]:
    """Band-limited noise of unit variance with blobs of about `grain` pixels, stretched along the direction `turn`."""
    white = jnp.fft.rfft2(jax.random.normal(key, (size, size)))
    fy, fx = jnp.fft.fftfreq(size)[:, None], jnp.fft.rfftfreq(size)[None]
    along = (jnp.cos(turn) * fx + jnp.sin(turn) * fy) * grain * stretch
    across = (jnp.cos(turn) * fy - jnp.sin(turn) * fx) * grain
    field = jnp.fft.irfft2(white * jnp.exp(-10.0 * (along**2 + across**2)), (size, size))
    return field / (jnp.std(field) + 1e-6)
