"""What the encoder learns to see: local statistics of a patch that do not depend on how it is turned.

Colour, and at several scales the strength of gradients and the curvature of each colour, each by its mean and deviation
over the patch. Nothing in them has an orientation, unlike in `encoders.filter_bank`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pirn_jax.encoders import filter_bank

_SCALES = (0.8, 1.6, 3.2)
"""Deviations in pixels of the Gaussians before derivatives; our choice."""


class Teacher(NamedTuple):
    """What turns descriptors into targets.

    Attributes:
      mean: (d,) of descriptors over many images.
      deviation: (d,) likewise.
      projection: (d + 1, c) orthonormal rows; the first is for a constant.
    """

    mean: Array
    deviation: Array
    projection: Array


def _slope(field: Float[Array, "h w c"], axis: int) -> Float[Array, "h w c"]:
    slope: Any = jnp.gradient(field, axis=axis)
    return slope


def describe(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n d"]:
    """Descriptors of patches, row by row; the image's pixels lie in [0, 1]."""
    fields = [image]
    for sigma in _SCALES:
        smooth = jnp.stack([filter_bank.blur(image[..., channel], sigma) for channel in range(3)], axis=-1)
        down, right = _slope(smooth, 0), _slope(smooth, 1)
        fields.append(sigma**2 * (_slope(down, 0) + _slope(right, 1)))
        fields.append(sigma * jnp.sqrt(jnp.sum(down**2 + right**2, axis=-1, keepdims=True) + 1e-8))
    field = jnp.concatenate(fields, axis=-1)
    mean, square = filter_bank.pool(field, patch), filter_bank.pool(field**2, patch)
    deviation = jnp.sqrt(jnp.maximum(square - mean**2, 0.0) + 1e-8)
    return jnp.concatenate([mean, deviation], axis=-1).reshape(-1, 2 * field.shape[-1])


def fit(images: Float[Array, "m h w 3"], key: Key[Array, ""], patch: int, width: int) -> Teacher:
    """Takes the scale of each descriptor from images in 0..255, and a random projection to the encoder's width."""
    found = jax.lax.map(lambda image: describe(image / 255.0, patch), images)
    mean, deviation = jnp.mean(found, (0, 1)), jnp.std(found, (0, 1)) + 1e-6
    rows = jax.random.orthogonal(key, width)[: found.shape[-1] + 1]
    return Teacher(mean, deviation, rows)


def target(teacher: Teacher, image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n c"]:
    """What the encoder's features of an image in 0..255 should be.

    Standardised descriptors beside a constant as large as they are together, so that cosine distances between targets
    order patches nearly as Euclidean distances between descriptors do.
    """
    found = (describe(image / 255.0, patch) - teacher.mean) / teacher.deviation
    constant = jnp.full((len(found), 1), jnp.sqrt(found.shape[-1]))
    return jnp.concatenate([constant, found], axis=-1) @ teacher.projection
