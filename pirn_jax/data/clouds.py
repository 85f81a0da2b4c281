"""Organised clouds from PLY and PCD: points row by row, one for each pixel."""

import pathlib

import numpy as np

from pirn_jax.data import clouds_pcd, clouds_ply, images
from pirn_jax.data.problems import InputError

_PARSERS = {".ply": clouds_ply.parse, ".pcd": clouds_pcd.parse}

SUFFIXES = tuple(_PARSERS)


def read(path: pathlib.Path, nan_is_unseen: bool = False, like: pathlib.Path | None = None) -> np.ndarray:
    """Reads a PLY or PCD as (h, w, 3) float32; points that were not seen are exactly zero.

    Args:
      path: the file.
      nan_is_unseen: takes NaN and infinity for points that were not seen.
      like: an image with one pixel for each point, whose size counts where the file does not tell rows and columns.

    Raises:
      InputError: if the file cannot be read, is not organised, holds NaN or infinity that is not allowed for, or no
        valid point.
    """
    with images.decoding(path, path.suffix[1:].upper()):
        points, size = _PARSERS[path.suffix.lower()](path.read_bytes())
    sizes = [] if size is None else [size]
    if like is not None:
        sizes.append(images.read_size(like))
    for height, width in sizes:
        if height * width == len(points):
            return images.check_points(path, points.reshape(height, width, 3), nan_is_unseen)
    expected = " or ".join(f"{width}x{height}" for height, width in sizes) or "known rows and columns"
    raise InputError(
        f"{path}: {len(points)} points, not a grid of {expected}; export the cloud organised: row by row, a point for "
        "every pixel, NaN where nothing was seen"
    )
