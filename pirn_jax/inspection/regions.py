"""Regions of an anomaly map above a threshold: where they are, how large, and how far they rise or sink."""

from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float

_EIGHT = np.ones((3, 3), bool)
_RING = 8
"""Width in pixels of the neighbourhood that a region's height is measured against (our choice)."""

_SPREAD = 0.1
"""Share of a region's points, the highest or the lowest, whose mean is its height (our choice)."""


class Region(NamedTuple):
    """A connected region of an anomaly map.

    Attributes:
      row: of its centre, in pixels.
      column: likewise.
      pixels: its area.
      highest: largest value of the map in it.
      box: around it, (left, top, width, height) in pixels.
      centre_mm: x, y and z of its points' mean in millimetres; None without a scan there.
      area_mm2: area in square millimetres, as seen from the camera at its distance; None without a scan there.
      height_mm: how far it rises towards the camera over the plane of its neighbourhood, below zero for a dent; None
        without a scan there or around it.
    """

    row: float
    column: float
    pixels: int
    highest: float
    box: tuple[int, int, int, int]
    centre_mm: tuple[float, float, float] | None = None
    area_mm2: float | None = None
    height_mm: float | None = None


def find(
    values: Float[np.ndarray, "h w"], threshold: float, xyz: Float[np.ndarray, "h w 3"] | None = None
) -> list[Region]:
    """Regions of 8-connected pixels above a threshold, the one with the highest value first.

    Args:
      values: anomaly map.
      threshold: what counts.
      xyz: points in metres of the same view, zero where nothing was seen; None leaves out what is in millimetres.
    """
    labelled: Any = scipy.ndimage.label(values > threshold, _EIGHT)
    labels = labelled[0]
    found = []
    for number, place in enumerate(scipy.ndimage.find_objects(labels), 1):
        around = tuple(slice(max(of.start - _RING, 0), of.stop + _RING) for of in place)
        inside = labels[around] == number
        rows, columns = np.nonzero(inside)
        metric = {} if xyz is None else _measure(xyz[around], inside, labels[around] > 0)
        found.append(
            Region(
                float(rows.mean() + around[0].start),
                float(columns.mean() + around[1].start),
                len(rows),
                float(values[around][inside].max()),
                _box(*place),
                **metric,
            )
        )
    return sorted(found, key=lambda region: -region.highest)


def _box(rows: slice, columns: slice) -> tuple[int, int, int, int]:
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _measure(
    xyz: Float[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"], any_region: Bool[np.ndarray, "h w"]
) -> dict:
    seen = np.any(xyz != 0, axis=-1)
    points = 1000.0 * xyz[inside & seen].astype(np.float64)
    if not len(points):
        return {}
    x, y, z = points.mean(0)
    measured = {"centre_mm": (float(x), float(y), float(z)), "area_mm2": _area(xyz, inside, seen)}
    ring = scipy.ndimage.binary_dilation(inside, _EIGHT, _RING) & seen & ~any_region
    nearby = 1000.0 * xyz[ring].astype(np.float64)
    if len(nearby) < 3:
        return measured
    # The plane z = a x + b y + c; towards the camera is where z falls.
    plane, _, rank, _ = np.linalg.lstsq(
        np.column_stack([nearby[:, :2], np.ones(len(nearby))]), nearby[:, 2], rcond=None
    )
    if rank < 3:
        return measured
    rise = (np.column_stack([points[:, :2], np.ones(len(points))]) @ plane - points[:, 2]) / np.hypot(
        1, np.hypot(*plane[:2])
    )
    count = max(1, round(_SPREAD * len(rise)))
    ordered = np.sort(rise)
    low, high = ordered[:count].mean(), ordered[-count:].mean()
    return {**measured, "height_mm": float(high if high >= -low else low)}


def _area(
    xyz: Float[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"], seen: Bool[np.ndarray, "h w"]
) -> float | None:
    """Pixels times the area that one covers, from the distances of points that are neighbours in the image."""
    steps = []
    for axis, coordinate in ((1, 0), (0, 1)):
        both = np.logical_and(*(np.take(seen, part, axis) for part in _pairs(seen.shape[axis])))
        apart = np.diff(xyz[..., coordinate], axis=axis)[both]
        if not len(apart):
            return None
        steps.append(1000.0 * abs(float(np.median(apart))))
    return float(inside.sum() * steps[0] * steps[1])


def _pairs(length: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(length - 1), np.arange(1, length)
