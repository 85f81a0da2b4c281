"""A classical descriptor of patches, the baseline of learned encoders."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

ORIENTATIONS = 8
SCALES = (1.0, 2.0, 4.0)
"""Deviations in pixels of the Gaussians whose gradients are binned; our choice, as the number of orientations."""

_CONTRAST = 4.0  # pixels; colours are compared with their mean over a Gaussian as wide as this


@dataclasses.dataclass(frozen=True)
class FilterBankConfig:
    """The descriptor as an encoder.

    Attributes:
      patch: side of a patch in pixels.
    """

    patch: int = 14

    @property
    def width(self) -> int:
        """Channels of a descriptor."""
        return 6 + 2 * ORIENTATIONS * len(SCALES)


def blur(image: Float[Array, "h w *c"], sigma: Float[Array, ""] | float) -> Float[Array, "h w *c"]:
    """Gaussian blur; at the edges the mean goes over the pixels that there are."""
    for axis in range(2):
        place = jnp.arange(image.shape[axis])
        weights = jnp.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
        weights = weights / jnp.sum(weights, axis=1, keepdims=True)
        image = jnp.moveaxis(jnp.tensordot(weights, image, (1, axis)), 0, axis)
    return image


def pool(image: Float[Array, "h w c"], patch: int) -> Float[Array, "r s c"]:
    """Means over patches."""
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    return jnp.mean(image.reshape(rows, patch, columns, patch, -1), axis=(1, 3))


def describe(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n c"]:
    """Colour, contrast and gradients binned by orientation at several scales, of patches and of their surroundings.

    Gradients of the grey value are split among the two nearest of `ORIENTATIONS` bins of the half circle, averaged over
    a patch, and over it and its neighbours; square roots are taken as in RootSIFT. Channels differ in scale.

    Args:
      image: pixels in [0, 1].
      patch: side of a patch in pixels.

    Returns:
      (n, 6 + 16 len(SCALES)) descriptors of the n patches, row by row.
    """
    contrast = (image - blur(image, _CONTRAST)) ** 2
    parts = [pool(image, patch), jnp.sqrt(pool(contrast, patch) + 1e-6)]
    grey = jnp.mean(image, axis=-1)
    for sigma in SCALES:
        down, right = jnp.gradient(blur(grey, sigma))
        strength, angle = jnp.hypot(down, right), jnp.arctan2(down, right) * (ORIENTATIONS / jnp.pi)
        offset = jnp.mod(angle[..., None] - jnp.arange(ORIENTATIONS) + ORIENTATIONS / 2, ORIENTATIONS)
        share = jnp.maximum(1.0 - jnp.abs(offset - ORIENTATIONS / 2), 0.0)
        energy = pool(strength[..., None] * share, patch)
        rows, columns = energy.shape[:2]
        padded = jnp.pad(energy, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = sum(padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)) / 9.0
        parts += [jnp.sqrt(energy + 1e-6), jnp.sqrt(around + 1e-6)]
    descriptors = jnp.concatenate(parts, axis=-1)
    return descriptors.reshape(-1, descriptors.shape[-1])
