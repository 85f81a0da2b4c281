"""Targets of the encoder: local statistics of a patch, compared as natural variation allows.

Of a colour image: colour, and at several scales the strength of its gradient, by mean and deviation over the patch,
and its Laplacian, by the deviation. Of a normal map likewise: tilt, the size of the derivative, and divergence, which
is the mean curvature. Nothing in them has an orientation, unlike in `encoders.filter_bank`, and what the scanner lost
is filled in first, so that gaps are no edges.

How much a difference between two descriptors means is taken from made-up families: directions in which a patch of one
good instance differs from its nearest neighbour in another one count for less.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pirn_jax.encoders.filter_bank import blur, pool

_SCALES = (1.6, 3.2, 6.4)
"""Deviations in pixels of the Gaussians before derivatives; our choice, as all numbers here."""

_GAP = 4.0  # deviation in pixels of the Gaussian that fills gaps of normal maps
_KNOWN = 0.05  # share of known pixels under it from which a gap is filled; elsewhere there is no surface
_FLOOR = 0.3  # share of the mean variance that is added to each direction before it is divided by
_CONSTANTS = (2.0, 1.0)
"""Size of a constant beside the descriptors of each modality: the larger, the smaller cosine distances are."""


class Targets(NamedTuple):
    """Map from descriptors of one modality to targets: `(descriptor - mean) @ weights + constant`.

    Attributes:
      mean: (d,) of descriptors over many images.
      weights: (d, c).
      constant: (c,), orthogonal to the rows of the weights.
    """

    mean: Array
    weights: Array
    constant: Array


Teacher = tuple[Targets, Targets]
"""Of colour images and of normal maps."""


def _slopes(field: Float[Array, "h w *c"]) -> tuple[Array, Array]:
    """Derivatives downwards and to the right."""
    down, right = jnp.gradient(field, axis=(0, 1))
    return down, right


def _size(*parts: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
    return jnp.sqrt(sum(jnp.sum(part**2, axis=-1, keepdims=True) for part in parts) + 1e-8)


def _statistics(levels: list[Array], waves: list[Array], patch: int) -> Float[Array, "r s d"]:
    """Means of levels, then deviations of levels and of waves, over patches."""
    fields = jnp.concatenate([*levels, *waves], axis=-1)
    means = pool(fields, patch)
    deviations = jnp.sqrt(jnp.maximum(pool(fields**2, patch) - means**2, 0.0) + 1e-8)
    return jnp.concatenate([means[..., : sum(level.shape[-1] for level in levels)], deviations], axis=-1)


def describe_colours(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n d"]:
    """Descriptors of patches, row by row, of an image in 0..255."""
    image = image / 255.0
    levels, waves = [image], []
    for sigma in _SCALES:
        down, right = _slopes(blur(image, sigma))
        levels.append(sigma * _size(down, right))
        waves.append(sigma**2 * (_slopes(down)[0] + _slopes(right)[1]))
    found = _statistics(levels, waves, patch)
    return found.reshape(-1, found.shape[-1])


def describe_normals(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n d"]:
    """Descriptors of patches, row by row, of a normal map in 0..255, black where there is none.

    Beside the statistics, the shares of pixels that were filled in and that have a surface.
    """
    seen = jnp.max(image, axis=-1) > 0
    near = blur(seen.astype(jnp.float32), _GAP)
    surface = seen | (near > _KNOWN)
    around = blur(image * seen[..., None], _GAP) / jnp.maximum(near, _KNOWN)[..., None]
    vectors = jnp.where(seen[..., None], image, around) / 127.5 - 1.0
    vectors = jnp.where(surface[..., None], vectors, jnp.array([0.0, 0.0, 1.0]))
    vectors = vectors / (jnp.linalg.norm(vectors, axis=-1, keepdims=True) + 1e-6)
    levels, waves = [_size(vectors[..., :2])], []
    for sigma in _SCALES:
        down, right = _slopes(blur(vectors[..., :2], sigma))
        levels.append(sigma * _size(down, right))
        # The second component points upwards in the image.
        waves.append(sigma * (right[..., :1] - down[..., 1:]))
    shares = pool(jnp.stack([surface & ~seen, surface], axis=-1).astype(jnp.float32), patch)
    found = jnp.concatenate([_statistics(levels, waves, patch), shares], axis=-1)
    return found.reshape(-1, found.shape[-1])


_DESCRIBE: tuple[Callable[..., Array], ...] = (describe_colours, describe_normals)


def _variation(one: Float[Array, "n d"], other: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """Mean square of the differences between patches of one instance and their nearest ones in another."""
    apart = jnp.sum(one**2, -1)[:, None] + jnp.sum(other**2, -1) - 2.0 * one @ other.T
    differences = one - other[jnp.argmin(apart, axis=1)]
    return differences.T @ differences / len(one)


def _fit(found: Float[Array, "f 2 n d"], rows: Float[Array, "c c"], constant: float) -> Targets:
    mean, deviation = jnp.mean(found, (0, 1, 2)), jnp.std(found, (0, 1, 2)) + 1e-6
    scaled = (found - mean) / deviation
    variation = jnp.mean(jax.lax.map(lambda pair: _variation(*pair), scaled), axis=0)
    values, vectors = jnp.linalg.eigh(variation)
    metric = vectors / jnp.sqrt(values + _FLOOR * jnp.mean(values)) @ vectors.T
    metric = metric / jnp.sqrt(jnp.mean((scaled @ metric) ** 2))
    size = len(mean)
    return Targets(mean, (metric / deviation[:, None]) @ rows[1 : size + 1], constant * size**0.5 * rows[0])


def fit(images: Float[Array, "f 2 2 h w 3"], key: Key[Array, ""], patch: int, width: int) -> Teacher:
    """Takes means and metrics from families, and a random projection to the encoder's width.

    Args:
      images: in 0..255, two instances of each family as colour image and normal map.
      key: of the projection.
      patch: side of a patch in pixels.
      width: channels of the targets, more than descriptors have.
    """
    rows = jax.random.orthogonal(key, width)
    fitted = []
    for modality, describe in enumerate(_DESCRIBE):
        seen = images[:, :, modality].reshape(-1, *images.shape[3:])
        found: Any = jax.lax.map(functools.partial(describe, patch=patch), seen)
        fitted.append(_fit(found.reshape(len(images), 2, *found.shape[1:]), rows, _CONSTANTS[modality]))
    return fitted[0], fitted[1]


def target(teacher: Teacher, images: Float[Array, "2 h w 3"], patch: int) -> Float[Array, "2 n c"]:
    """Targets for features of a colour image and of a normal map in 0..255."""
    found = zip(_DESCRIBE, teacher, images, strict=True)
    return jnp.stack([(of(image, patch) - fit.mean) @ fit.weights + fit.constant for of, fit, image in found])
