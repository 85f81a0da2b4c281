"""What the encoder learns to see first: local statistics of a patch that do not depend on how it is turned.

Colour, and at several scales the strength of gradients and the curvature of each colour, each by its mean, deviation
and extremes over the patch. Nothing in them has an orientation, unlike in `encoders.filter_bank`: on held-out episodes
their nearest neighbours find edits better than the filter bank's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pirn_jax.encoders import filter_bank

_SCALES = (0.8, 1.6, 3.2)
"""Deviations in pixels of the Gaussians before derivatives; our choice."""

_POWER = 6.0
"""Extremes are power means, which need no sorting."""


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


def describe(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n d"]:
    """Descriptors of patches, row by row; the image's pixels lie in [0, 1].

    The lower extreme of a strength is nothing, so that three of them are constant.
    """
    fields = []
    for sigma in _SCALES:
        strength = 0.0
        for channel in range(3):
            smooth = filter_bank.blur(image[..., channel], sigma)
            down, right = jnp.gradient(smooth)
            strength = strength + down**2 + right**2
            fields.append(sigma**2 * (jnp.gradient(down, axis=0) + jnp.gradient(right, axis=1)))
        fields.append(sigma * jnp.sqrt(strength + 1e-8))
    field = jnp.stack(fields, axis=-1)

    def pool(values):
        return filter_bank.pool(values, patch).reshape(-1, values.shape[-1])

    def moments(values):
        mean = pool(values)
        return [mean, jnp.sqrt(jnp.maximum(pool(values**2) - mean**2, 0.0) + 1e-8)]

    def extreme(values):
        return pool(jnp.maximum(values, 1e-6) ** _POWER) ** (1.0 / _POWER)

    return jnp.concatenate([*moments(image), *moments(field), extreme(field), extreme(-field)], axis=-1)


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
