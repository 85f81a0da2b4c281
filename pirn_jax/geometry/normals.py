"""Surface normals of organised point clouds, and the images that show them to an encoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from jaxtyping import Array, Float

RADIUS = 3
"""Half the window in pixels: 49 points where all are valid, near the 30 neighbours of the paper (our choice)."""

_BALL = 1.5
"""Neighbours lie within `_BALL * radius` point spacings: all of a flat window (its corners are at 1.42), but not the
far side of a depth step (our choice)."""

_SPREAD = 1e-5
"""Least share of the variance across the line that fits the points best; below it they are collinear. Rounding gives
points on a line about 1e-7 in float32."""


@functools.partial(jax.jit, static_argnames="radius")
def estimate(xyz: Float[Array, "h w 3"], radius: int = RADIUS) -> Float[Array, "h w 3"]:
    """Normals of an organised cloud: the plane fitted to each point's neighbours, turned towards the camera.

    The neighbours of a point are the valid points of the (2 radius + 1)^2 window around it that are no farther than
    1.5 radius typical point spacings. The normal is the direction of least variance.

    Args:
      xyz: points in the camera frame (x right, y down, z away from the camera); exactly zero where invalid.
      radius: half the window, in pixels.

    Returns:
      Unit normals with `n . p <= 0`; zero where the point is invalid, has fewer than three neighbours (itself
      included), or has neighbours on one line.
    """
    valid = jnp.any(xyz != 0, axis=-1)
    # In units of the spacing and relative to each point: neither the unit of length nor the distance to the camera
    # costs precision.
    scaled = xyz / jnp.maximum(_spacing(xyz, valid), 1e-12)
    count, total, moments = _neighbour_sums(scaled, valid, radius)
    mean = total / count[..., None]
    covariance = moments / count[..., None, None] - mean[..., :, None] * mean[..., None, :]
    normal, spread = _least_direction(covariance)
    normal = normal * jnp.where(jnp.sum(normal * xyz, axis=-1, keepdims=True) > 0, -1.0, 1.0)
    usable = valid & (count >= 3) & (spread > _SPREAD)
    return jnp.where(usable[..., None], normal, 0.0)


def _spacing(xyz, valid):
    """Median distance of adjacent valid points, along rows or columns, whichever is larger; zero without any."""
    across = jnp.where(valid[:, 1:] & valid[:, :-1], jnp.linalg.norm(jnp.diff(xyz, axis=1), axis=-1), jnp.nan)
    down = jnp.where(valid[1:] & valid[:-1], jnp.linalg.norm(jnp.diff(xyz, axis=0), axis=-1), jnp.nan)
    return jnp.nan_to_num(jnp.fmax(jnp.nanmedian(across), jnp.nanmedian(down)))


def _neighbour_sums(points, valid, radius):
    """Number, sum and sum of outer products of every point's neighbours, relative to the point."""
    height, width, _ = points.shape
    border = ((radius, radius), (radius, radius))
    padded = jnp.pad(points, (*border, (0, 0)))
    padded_valid = jnp.pad(valid, border)
    side = 2 * radius + 1

    def add(sums, offset):
        row, column = offset // side, offset % side
        other = jax.lax.dynamic_slice(padded, (row, column, 0), points.shape)
        other_valid = jax.lax.dynamic_slice(padded_valid, (row, column), (height, width))
        step = other - points
        near = other_valid & (jnp.sum(step * step, axis=-1) <= (_BALL * radius) ** 2)
        step = jnp.where(near[..., None], step, 0.0)
        count, total, moments = sums
        return (count + near, total + step, moments + step[..., :, None] * step[..., None, :]), None

    zeros = jnp.zeros(points.shape, points.dtype)
    start = (zeros[..., 0], zeros, jnp.zeros((*points.shape, 3), points.dtype))
    (count, total, moments), _ = jax.lax.scan(add, start, jnp.arange(side * side))
    return jnp.maximum(count, 1.0), total, moments


def _least_direction(a):
    """Unit eigenvector of the least eigenvalue of symmetric 3x3 matrices, and the spread of the points across a line.

    Eigenvalues in closed form (Smith, 1961); the eigenvector is orthogonal to the rows of `a - lambda I`, so it is
    the longest of their cross products. The spread is the sum of the products of two eigenvalues, for a trace of one:
    near a line that is the variance across it, and unlike the second eigenvalue it passes through no arccosine, which
    would turn rounding errors of 1e-7 into 1e-4.
    """
    trace = jnp.trace(a, axis1=-2, axis2=-1)[..., None, None]
    a = a / jnp.where(trace > 0, trace, 1.0)
    eye = jnp.eye(3, dtype=a.dtype)
    deviator = a - eye / 3.0
    size = jnp.sqrt(jnp.sum(deviator**2, axis=(-2, -1)) / 6.0)
    cosine = jnp.linalg.det(deviator) / jnp.where(size > 0, 2.0 * size**3, 1.0)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0)) / 3.0
    least = 1.0 / 3.0 + 2.0 * size * jnp.cos(angle + 2.0 * jnp.pi / 3.0)
    rows = a - least[..., None, None] * eye
    crosses = jnp.cross(rows, jnp.roll(rows, 1, axis=-2))
    lengths = jnp.sum(crosses**2, axis=-1)
    best = jnp.argmax(lengths, axis=-1)[..., None]
    direction = jnp.take_along_axis(crosses, best[..., None], axis=-2)[..., 0, :]
    length = jnp.sqrt(jnp.take_along_axis(lengths, best, axis=-1))
    spread = (1.0 - jnp.sum(a * a, axis=(-2, -1))) / 2.0
    return direction / jnp.where(length > 0, length, 1.0), spread


def resize(normals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a field of normals, averaging valid ones only, and makes them unit again.

    Args:
      normals: (h, w, 3) float32, zero where invalid.
      size: (height, width) of the result.

    Returns:
      (height, width, 3) float32, zero where less than half of the area was valid.
    """
    valid = np.any(normals != 0, axis=-1).astype(np.float32)
    channels = [*np.moveaxis(normals.astype(np.float32), -1, 0), valid]
    shape = (size[1], size[0])
    resized = [np.asarray(PIL.Image.fromarray(c).resize(shape, PIL.Image.Resampling.BILINEAR)) for c in channels]
    field = np.stack(resized[:3], axis=-1)
    length = np.linalg.norm(field, axis=-1)
    usable = (resized[3] >= 0.5) & (length > 1e-6)
    return np.where(usable[..., None], field / np.where(usable, length, 1.0)[..., None], 0.0).astype(np.float32)


def to_image(normals: np.ndarray) -> np.ndarray:
    """Shows normals as colours, each component mapped linearly from [-1, 1] to [0, 255]; black is invalid.

    The colours are those of a normal map, x right, y up, z towards the viewer: a surface that faces the camera is
    light blue, (128, 128, 255).

    Args:
      normals: (h, w, 3) in the camera frame (x right, y down, z away from the camera), zero where invalid.

    Returns:
      (h, w, 3) uint8.
    """
    shown = np.rint((normals * np.array([1, -1, -1]) + 1.0) * 127.5).astype(np.uint8)
    shown[~np.any(normals != 0, axis=-1)] = 0
    return shown
