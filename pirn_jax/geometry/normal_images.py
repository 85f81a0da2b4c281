"""Fields of normals as images: resized without mixing in what is unknown, and coloured for an encoder."""

import numpy as np
import PIL.Image

from pirn_jax.geometry import coordinates


def resize(normals: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a field of normals, averaging valid ones only, and makes them unit again.

    Args:
      normals: (h, w, 3) float32, zero where invalid.
      size: (height, width) of the result.

    Returns:
      (height, width, 3) float32, zero where less than half of the area was valid.
    """
    valid = coordinates.nonzero(normals).astype(np.float32)
    channels = [*np.moveaxis(normals.astype(np.float32), -1, 0), valid]
    shape = (size[1], size[0])
    resized = [np.asarray(PIL.Image.fromarray(c).resize(shape, PIL.Image.Resampling.BILINEAR)) for c in channels]
    field = np.stack(resized[:3], axis=-1)
    length = np.linalg.norm(field, axis=-1)
    usable = (resized[3] >= 0.5) & (length > 1e-6)
    return np.where(usable[..., None], field / np.where(usable, length, 1.0)[..., None], 0.0).astype(np.float32)


def from_image(image: np.ndarray) -> np.ndarray:
    """The inverse of `to_image`, to its eight bits: (h, w, 3) in the camera frame, zero where invalid."""
    return np.where(np.any(image != 0, axis=-1, keepdims=True), (image / 127.5 - 1) * np.array([1, -1, -1]), 0)


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
    shown[~coordinates.nonzero(normals)] = 0
    return shown
