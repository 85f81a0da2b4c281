"""Plausibility of scans: what can be read but hardly means what it says becomes a note for the user."""

import numpy as np

_ALONG = 0.3
"""Correlation of x with columns, and of y with rows, from which points count as in order (our choice)."""

_FAR_SHARE, _FAR_TIMES = 0.01, 3.0
"""Share of the points at one depth, and times of the others' median, that count as far (our choice)."""

_FARTHEST, _NEAREST = 10.0, 0.01
"""Median distances in metres of a scan that no one means (our choice): a part is scanned from 10 cm to some metres."""


def scan_note(xyz: np.ndarray) -> str:
    """Implausible properties of points (h, w, 3) in metres, a sentence; empty if there are none."""
    points = xyz[np.any(xyz != 0, axis=-1)]
    if not points.size:
        return ""
    far = _far_note(points[:, 2])
    notes = [far]
    if np.ptp(points[:, :2], axis=0).min() == 0 and min(xyz.shape[:2]) > 1:
        notes.append("all its points have one x or one y, so its normals mean nothing; take --normals=native if it can")
    elif not far:
        notes.append(_frame_note(xyz))
    middle = float(np.median(np.linalg.norm(points, axis=-1)))
    if not far and not _NEAREST <= middle <= _FARTHEST:
        rounded = float(f"{middle:.1g}")
        notes.append(
            f"its points lie about {rounded:g} m away; if they are in another unit, say so with --xyz_unit, or for "
            "depth images with the scale in dataset.toml"
        )
    return "; ".join(filter(None, notes))


def _frame_note(xyz: np.ndarray) -> str:
    """Sentence on points out of the camera frame: x rises with columns, y with rows, z is in front of the camera."""
    seen = np.argwhere(np.any(xyz != 0, axis=-1))
    seen = seen[:: max(1, len(seen) // 10_000)]
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


def _far_note(depths: np.ndarray) -> str:
    """Sentence on many points at one depth far behind all others, as programs write it where nothing was seen."""
    last = float(depths.max())
    there = depths == last
    rest = depths[~there]
    middle = float(np.median(rest)) if rest.size else 0.0
    if there.mean() < _FAR_SHARE or not 0 < _FAR_TIMES * middle < last:
        return ""
    share = f"{there.mean():.0%} of its points lie at one depth, {last:.6g} m, far behind the rest"
    return f"{share}; write 0 where nothing was seen"
