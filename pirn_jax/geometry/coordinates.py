"""Fields of points and normals coordinate by coordinate: NumPy is slow at sums over an axis of three."""

import functools

import numpy as np
from jaxtyping import Bool, Float


def nonzero(field: Float[np.ndarray, "h w c"]) -> Bool[np.ndarray, "h w"]:
    """True where any coordinate is not exactly zero: all zero stands for nothing seen."""
    return functools.reduce(np.logical_or, (of != 0 for of in np.moveaxis(field, -1, 0)))


def seen(xyz: Float[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """True where a point was seen: all coordinates finite, and not all exactly zero."""
    return functools.reduce(np.logical_and, map(np.isfinite, np.moveaxis(xyz, -1, 0))) & nonzero(xyz)


def along(points: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "m 3"]) -> Float[np.ndarray, "n m"]:
    """Inner products of points and directions, without the threads of BLAS, which wait longer than this takes."""
    x, y, z = points.T[..., None]
    u, v, w = directions.T
    return x * u + y * v + z * w


def lengths(vectors: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Euclidean lengths."""
    x, y, z = vectors.T
    return np.sqrt(x * x + y * y + z * z)
