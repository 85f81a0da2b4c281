"""Soft histograms of colour relative to the part's own: what networks trained on objects learn to look past.

Nothing is learned. Colour histograms as descriptors: Swain and Ballard, 1991; the logarithm of ratios of channels
leaves out how much light there is, and subtracting the part's mean leaves out the light's colour, as grey-world white
balance does. Of a normals' image they are histograms of directions relative to the part's mean direction.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax.encoders import filter_bank

_STEP = 0.25
_CENTRES = (np.arange(8, dtype=np.float32) - 3.5) * _STEP
"""Bins of both log ratios (our choice)."""

_DARK = 0.05
"""Added to pixels in [0, 1] before the logarithm: the darkest have no colour but noise (our choice)."""

_PIXELS = 2
"""Side in pixels of the squares that are averaged before they are counted, against noise (our choice)."""


@dataclasses.dataclass(frozen=True)
class ChromaConfig:
    """Form of the descriptor.

    Attributes:
      patch: side of a patch in pixels.
    """

    patch: int = 8

    @property
    def width(self) -> int:
        """Bins of a histogram."""
        return len(_CENTRES) ** 2


def describe(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n c"]:
    """Soft histograms of patches, row by row; what shows nothing of the part counts as its mean colour.

    Log ratios red to green and blue to green, less their means over the part, fall into bins of Gaussian shape. Square
    roots of counts are taken, as in RootSIFT.

    Args:
      image: pixels in [0, 1]; black ones are off the part or unknown.
      patch: side of a patch in pixels, even.
    """
    shown = jnp.any(image > 0, axis=-1, keepdims=True)
    logs = jnp.log(image + _DARK)
    ratios = jnp.stack([logs[..., 0] - logs[..., 1], logs[..., 2] - logs[..., 1]], axis=-1)
    count = jnp.maximum(jnp.sum(shown), 1)
    ratios = jnp.where(shown, ratios - jnp.sum(jnp.where(shown, ratios, 0.0), axis=(0, 1)) / count, 0.0)
    near = jnp.exp(-0.5 * ((filter_bank.pool(ratios, _PIXELS)[..., None] - _CENTRES) / _STEP) ** 2)
    red, blue = (_blocks(near[..., i, :], patch // _PIXELS) for i in range(2))
    counts = jnp.einsum("rspi,rspj->rsij", red, blue) / red.shape[2]
    return jnp.sqrt(counts).reshape(counts.shape[0] * counts.shape[1], -1)


def _blocks(image: Float[Array, "h w c"], side: int) -> Float[Array, "r s p c"]:
    """Pixels of squares, those of each along the third axis."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    squares = image.reshape(rows, side, columns, side, -1).swapaxes(1, 2)
    return squares.reshape(rows, columns, side * side, -1)
