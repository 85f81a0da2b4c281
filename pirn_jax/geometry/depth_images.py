"""Depth as images for an encoder: resized without mixing in unknown points, brighter where nearer."""

import numpy as np
import PIL.Image

_TAILS = (0.5, 99.5)
"""Percentiles of a part's depth that become the ends of the grey scale (our choice): a stray point must not set it."""

_FINEST = 1e-4
"""Least range in metres of the grey scale (our choice): below it lie rounding and scanners' noise, not shape."""


def resize(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes depth bilinearly, averaging known points only.

    Args:
      depth: (h, w, 1) float32 in metres, zero where unknown.
      size: (height, width) of the result.

    Returns:
      (height, width, 1) float32, zero where less than half of the area was known.
    """
    values, known = depth[..., 0].astype(np.float32), (depth[..., 0] != 0).astype(np.float32)
    resized, share = (
        np.asarray(PIL.Image.fromarray(x).resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR))
        for x in (values, known)
    )
    return np.where(share >= 0.5, resized / np.maximum(share, 0.5), 0.0)[..., None].astype(np.float32)


def to_image(depth: np.ndarray) -> np.ndarray:
    """Shows depth as grey values from 255 (near) to 1 (far), linear over the range of this part; black is unknown.

    Args:
      depth: (h, w, 1) in metres, zero where unknown.

    Returns:
      (h, w, 3) uint8.
    """
    values = depth[..., 0]
    known = values != 0
    if not known.any():
        return np.zeros((*values.shape, 3), np.uint8)
    near, far = np.percentile(values[known], _TAILS)
    nearness = np.clip((far - values) / max(far - near, _FINEST), 0.0, 1.0)
    grey = np.where(known, np.rint(1 + 254 * nearness), 0).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
