"""The camera of a scan, from the order of its pixels and the places of its points."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_MARGIN = 1e-3
"""Pixels by which parallel rays must fit better than rays from the origin to be believed (our choice)."""


class _Order(NamedTuple):
    """Coordinate that the columns, or the rows, of a scan are in order of.

    Attributes:
      coordinate: (h, w) float64, rising with them on the whole; NaN where invalid.
      low: smallest coordinate of each column or row; infinite where it is empty.
      high: largest one; negative infinite likewise.
    """

    coordinate: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Rays(NamedTuple):
    """Projection of the scanner.

    Attributes:
      orders: of columns and of rows.
      parallel: whether rays are parallel to z, and the coordinates x and y; else they start at the origin, and the
        coordinates are x / z and y / z.
    """

    orders: tuple[_Order, _Order]
    parallel: bool


def rays(xyz: Float[np.ndarray, "h w 3"], valid: Bool[np.ndarray, "h w"]) -> Rays:
    """The better of both kinds of rays: whose coordinates vary least within a column and within a row.

    Needs at least one valid point. Where both fit, as they do for a flat board seen head on, rays start at the origin.
    """
    points = np.moveaxis(np.where(valid[..., None], xyz, np.nan).astype(np.float64), -1, 0)
    depth = points[2][valid]
    if not (depth.min() > 0 or depth.max() < 0):
        return Rays(_orders(points[:2]), True)
    central = _orders(points[:2] / points[2])
    parallel = _orders(points[:2])
    if _blur(parallel) + _MARGIN < _blur(central):
        return Rays(parallel, True)
    return Rays(central, False)


def facing(
    normals: Float[np.ndarray, "h w 3"], xyz: Float[np.ndarray, "h w 3"], parallel: bool
) -> Float[np.ndarray, "h w 3"]:
    """Normals turned against the rays, which go from the origin to the points or along z."""
    along = normals[..., 2] if parallel else np.einsum("hwc,hwc->hw", normals, xyz)
    return np.where(along[..., None] > 0, -normals, normals)


def reach(looking: Rays, xyz: Float[np.ndarray, "h w 3"], radius: int) -> Float[np.ndarray, "h w"]:
    """Distance of each point within which all others are in the window of `radius` pixels around it.

    Whatever lies right of the window has a coordinate of at least the smallest one of the columns there, so it is
    beyond a plane: x = t z for rays from the origin, x = t for parallel ones. The same holds on all four sides. So no
    camera is fitted; where the pixels are not in order at all, the reach is zero.

    Returns:
      float64, infinite where the window covers the image, NaN where invalid.
    """
    nearest = np.full(xyz.shape[:2], np.inf)
    for axis, (coordinate, low, high) in zip((1, 0), looking.orders, strict=True):
        count = len(low)
        after = np.full(count + radius + 1, np.inf)
        after[:count] = np.minimum.accumulate(low[::-1])[::-1]
        before = np.full(count + radius + 1, -np.inf)
        before[radius + 1 :] = np.maximum.accumulate(high)
        for limit, side in ((after[radius + 1 :], 1), (before[:count], -1)):
            # Infinite limits, where the image ends or is empty, bound nothing.
            scale = 1.0 if looking.parallel else 1 / np.sqrt(1 + np.where(np.isinf(limit), 0.0, limit) ** 2)
            limit, scale = (np.expand_dims(np.broadcast_to(value, count), 1 - axis) for value in (limit, scale))
            np.minimum(nearest, side * (limit - coordinate) * scale, out=nearest)
    if not looking.parallel:
        nearest *= np.abs(xyz[..., 2])
    return np.maximum(nearest, 0.0)


def _orders(coordinates):
    """Orders of columns and rows; coordinates that fall along the image are turned round."""
    columns, rows = (_order(coordinate, axis) for coordinate, axis in zip(coordinates, (1, 0), strict=True))
    return columns, rows


def _order(coordinate, axis):
    """The order of columns (axis 1) or rows (axis 0)."""
    low = np.fmin.reduce(coordinate, 1 - axis, initial=np.inf)
    high = np.fmax.reduce(coordinate, 1 - axis, initial=-np.inf)
    filled = low[np.isfinite(low)]
    return _Order(-coordinate, -high, -low) if filled[-1] < filled[0] else _Order(coordinate, low, high)


def _blur(orders):
    """Variation of coordinates within columns and within rows, in pixels."""
    total = 0.0
    for _, low, high in orders:
        filled = np.isfinite(low)
        extent = high[filled].max() - low[filled].min()
        total += np.median((high - low)[filled]) * np.count_nonzero(filled) / max(extent, np.finfo(float).tiny)
    return total
