"""Plausibility of scans: what can be read but hardly means what it says becomes a note for the user."""

import numpy as np

from pirn_jax.geometry import coordinates

_ALONG = 0.3
"""Correlation of x with columns, and of y with rows, from which points count as in order (our choice)."""

_FAR_SHARE, _FAR_TIMES, _FAR_WIDTHS = 0.01, 3.0, 0.5
"""Share of the points at one depth, times of the others' median, and widths of what they cover, that count as far from
them (our choice)."""

_FARTHEST, _NEAREST = 10.0, 0.01
"""Median distances in metres of a scan that no one means (our choice): a part is scanned from 10 cm to some metres."""


def scan_note(xyz: np.ndarray) -> str:
    """Implausible properties of points (h, w, 3) in metres, a sentence; empty if there are none."""
    seen = coordinates.nonzero(xyz)
    points = xyz[seen]
    if not points.size:
        return ""
    far = _far_note(points)
    notes = [far]
    if np.ptp(points[:, :2], axis=0).min() == 0 and min(xyz.shape[:2]) > 1:
        notes.append("all its points have one x or one y, so its normals mean nothing; take --normals=native if it can")
    elif not far:
        notes.append(_frame_note(xyz, seen))
    middle = float(np.median(coordinates.lengths(points)))
    if not far and not _NEAREST <= middle <= _FARTHEST:
        rounded = float(f"{middle:.1g}")
        notes.append(
            f"its points lie about {rounded:g} m away; if they are in another unit, say so with --xyz_unit, or for "
            "depth images with the scale in dataset.toml"
        )
    return "; ".join(filter(None, notes))


def _frame_note(xyz: np.ndarray, valid: np.ndarray) -> str:
    """Sentence on points out of the camera frame: x rises with columns, y with rows, z is in front of the camera."""
    seen = np.argwhere(valid)
    seen = seen[:: max(1, len(seen) // 10_000)]
    if len(seen) < 2:
        return ""
    points = xyz[tuple(seen.T)].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        across = [np.corrcoef(seen[:, 1 - axis], points[:, axis])[0, 1] for axis in range(2)]
    odd = [
        f"{name} {'falls' if value < -_ALONG else 'does not rise'} from {of} to {of}"
        for name, of, value in zip("xy", ("column", "row"), across, strict=True)
        if value < _ALONG
    ]
    if np.median(points[:, 2]) < 0:
        odd.append("z points at the camera")
    if not odd:
        return ""
    return (
        f"{' and '.join(odd)}: x points right, y down and z away from the camera, row by row; turn or reorder the "
        "points (cv2.imwrite reverses channels: write xyz[..., ::-1], OpenGL's y and z change signs)"
    )


def _far_note(points: np.ndarray) -> str:
    """Sentence on many points at one depth far from all others, as programs write it where nothing was seen."""
    depths = points[:, 2]
    for value, where in ((depths.max(), "behind"), (depths.min(), "before")):
        there = depths == value
        if there.mean() < _FAR_SHARE or there.all():
            continue
        rest = points[~there]
        low, middle, high = np.percentile(rest, (5, 50, 95), axis=0)
        impossible = abs(value) > _FAR_TIMES * abs(middle[2]) or value <= 0 < middle[2]
        gap, width = max(value - high[2], low[2] - value), np.max((high - low)[:2])
        if impossible and gap > _FAR_WIDTHS * width:
            share = f"{there.mean():.0%} of its points lie at one depth, {value:.6g} m, far {where} the rest"
            return f"{share}; write (0, 0, 0) where nothing was seen"
    return ""
