"""Histograms of angles between neighbouring normals, after Fast Point Feature Histograms (Rusu et al., ICRA 2009).

A stand-in for descriptors of point clouds that works on an image of normals, whose points it integrates from their
slopes. It differs from the original: neighbours are pixels of two rings instead of points within a radius, the first
point of a pair is always the one described, and histograms belong to patches. Of a colour image it means nothing.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax.encoders import filter_bank

BINS = 11
"""Bins of each of the three angles, as in the paper."""

_RADII = (2, 4)
"""Rings of neighbours in pixels (our choice)."""

_STEEPEST = 0.1
"""Smallest share of a normal that points at the camera when slopes are integrated (our choice)."""


@dataclasses.dataclass(frozen=True)
class FpfhConfig:
    """Form of the descriptor.

    Attributes:
      patch: side of a patch in pixels.
    """

    patch: int = 8

    @property
    def width(self) -> int:
        """Bins of the three histograms."""
        return 3 * BINS


def describe(image: Float[Array, "h w 3"], patch: int) -> Float[Array, "n c"]:
    """Histograms of patches, row by row, each with those of its neighbours weighted by inverse distance.

    With unit normals `u` and `n` of a pixel and its neighbour, `d` the unit vector between them, `v = d x u` made unit
    and `w = u x v`, the angles are `v n`, `u d` and `atan2(w n, u n)`. Pairs of which one shows nothing are left out.
    Square roots of counts are taken, as in RootSIFT.

    Args:
      image: normals as `geometry.normal_images` shows them, in [0, 1]; black ones are unknown.
      patch: side of a patch in pixels.
    """
    shown = jnp.any(image > 0, axis=-1)
    normals = image * 2.0 - 1.0
    normals = normals / jnp.maximum(jnp.linalg.norm(normals, axis=-1, keepdims=True), 1e-6)
    # x right and y up, so that heights fall by these for a pixel to the right and one up.
    slopes = normals[..., :2] / jnp.maximum(normals[..., 2:], _STEEPEST)
    counts, pairs = jnp.zeros((*shown.shape, 3 * BINS)), jnp.zeros(shown.shape)
    for right, up in _offsets():
        turn = (-up, right)
        other, apart, known = (_moved(of, *turn) for of in (normals, slopes, shown.astype(image.dtype)))
        both = shown * known
        rise = -0.5 * ((slopes + apart) @ jnp.array([right, up], image.dtype))
        step = jnp.stack([jnp.full_like(rise, right), jnp.full_like(rise, up), rise], axis=-1)
        counts = counts + both[..., None] * _votes(*_angles(normals, other, step))
        pairs = pairs + both
    grid, total = filter_bank.pool(counts, patch), filter_bank.pool(pairs[..., None], patch)
    simple = grid / jnp.maximum(total, 1e-6)
    found = jnp.sqrt(simple + _around(simple))
    return found.reshape(-1, 3 * BINS)


def _offsets() -> list[tuple[int, int]]:
    turns = [i * math.pi / 4 for i in range(8)]
    return [(round(r * math.cos(a)), round(r * math.sin(a))) for r in _RADII for a in turns]


def _moved(values: Array, down: int, right: int) -> Array:
    """Values so far below and to the right of each pixel, zero beyond the edges."""
    rows, columns = values.shape[:2]
    margin = max(_RADII)
    padded = jnp.pad(values, ((margin, margin), (margin, margin), *[(0, 0)] * (values.ndim - 2)))
    return padded[margin + down : margin + down + rows, margin + right : margin + right + columns]


def _angles(
    u: Float[Array, "h w 3"], n: Float[Array, "h w 3"], step: Float[Array, "h w 3"]
) -> tuple[Float[Array, "h w"], Float[Array, "h w"], Float[Array, "h w"]]:
    """The three angles of pairs, each as a number from -1 to 1."""
    d = step / jnp.linalg.norm(step, axis=-1, keepdims=True)
    v = jnp.cross(d, u)
    v = v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-6)
    w = jnp.cross(u, v)
    turned = jnp.arctan2(jnp.sum(w * n, axis=-1), jnp.sum(u * n, axis=-1))
    return jnp.sum(v * n, axis=-1), jnp.sum(u * d, axis=-1), turned / jnp.pi


def _votes(*angles: Float[Array, "h w"]) -> Float[Array, "h w c"]:
    """Each angle's vote, split between the two nearest bins."""
    centres = (np.arange(BINS, dtype=np.float32) + 0.5) * 2 / BINS - 1
    places = [jnp.clip(of, centres[0], centres[-1])[..., None] for of in angles]
    return jnp.concatenate([jnp.maximum(1.0 - jnp.abs(of - centres) * BINS / 2, 0.0) for of in places], axis=-1)


def _around(grid: Float[Array, "r s c"]) -> Float[Array, "r s c"]:
    """Mean over the eight neighbours of each patch, weighted by one over their distance."""
    rows, columns = grid.shape[:2]
    padded = jnp.pad(grid, ((1, 1), (1, 1), (0, 0)), mode="edge")
    places = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    weights = [1 / math.hypot(i - 1, j - 1) for i, j in places]
    parts = [w * padded[i : i + rows, j : j + columns] for w, (i, j) in zip(weights, places, strict=True)]
    return sum(parts[1:], parts[0]) / sum(weights)
