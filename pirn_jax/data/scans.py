"""The kinds of files that hold a part's geometry, and how each becomes points in the camera frame."""

import dataclasses
import pathlib

import numpy as np

from pirn_jax.data import clouds, images
from pirn_jax.data.problems import InputError


@dataclasses.dataclass(frozen=True)
class Cloud:
    """An organised cloud: x, y, z of every pixel.

    Attributes:
      path: TIFF of (h, w, 3) floats, PLY or PCD, told apart by the suffix.
      unit: metres in one unit of the file.
      nan_is_unseen: whether NaN stands for a point that was not seen; otherwise it is refused.
      like: an image with one pixel for each point, for a PLY or PCD that does not tell its rows and columns.
    """

    path: pathlib.Path
    unit: float = 1.0
    nan_is_unseen: bool = False
    # Left out of repr, which is part of a sample's digest: where the image lies does not change the points.
    like: pathlib.Path | None = dataclasses.field(default=None, repr=False)

    def read(self) -> np.ndarray:
        """Points (h, w, 3) float32 in metres, exactly zero where nothing was seen.

        Raises:
          InputError: if the file cannot be used.
        """
        if self.path.suffix.lower() in clouds.SUFFIXES:
            return scaled(clouds.read(self.path, self.nan_is_unseen, self.like), self.unit)
        return scaled(images.read_xyz(self.path, self.nan_is_unseen), self.unit)


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera: pixel (column u, row v) looks along ((u - cx) / fx, (v - cy) / fy, 1).

    Attributes:
      fx: focal length along rows, in pixels.
      fy: focal length along columns, in pixels.
      cx: column of the principal point; None for the image's centre, (width - 1) / 2.
      cy: row of the principal point; None for the image's centre, (height - 1) / 2.
    """

    fx: float
    fy: float
    cx: float | None = None
    cy: float | None = None


_FOCAL_LENGTHS, _CENTRES = (0.1, 100.0), (-1.0, 2.0)
"""Least and most of a camera's numbers, in sides of the image: fields of view from half a degree to 157 degrees, and
centres of images that were cut out of larger ones (our choice)."""


@dataclasses.dataclass(frozen=True)
class Depth:
    """A depth image: z of every pixel, as `offset + scale * value` metres.

    Attributes:
      path: image of one channel.
      intrinsics: the camera that took it.
      scale: metres in one unit of the file.
      offset: metres at the value zero.
      zero_is_unseen: whether the value zero stands for a point that was not seen.
    """

    path: pathlib.Path
    intrinsics: Intrinsics
    scale: float = 1.0
    offset: float = 0.0
    zero_is_unseen: bool = True

    def read(self) -> np.ndarray:
        """Points (h, w, 3) float32 in metres, exactly zero where nothing was seen.

        Raises:
          InputError: if the file cannot be used, holds a depth behind the camera, or nothing in it was seen.
        """
        values = images.read_depth(self.path)
        seen = np.isfinite(values) & ((values != 0) | (not self.zero_is_unseen))
        z = np.where(seen, self.offset + self.scale * np.where(seen, values, 0.0), 0.0)
        if (z < 0).any():
            raise InputError(f"{self.path}: {(z < 0).sum()} depths are negative; write 0 where nothing was seen")
        if not z.any():
            raise InputError(f"{self.path}: no pixel holds a depth; remove the part or scan it again")
        farthest = np.abs(values[seen]).max()
        if farthest > images.FARTHEST:
            raise InputError(f"{self.path}: depths up to {farthest:.0e}; write 0 where nothing was seen")
        k = self.intrinsics
        height, width = z.shape
        self._check_camera(height, width)
        cx = (width - 1) / 2 if k.cx is None else k.cx
        cy = (height - 1) / 2 if k.cy is None else k.cy
        x = (np.arange(width) - cx) / k.fx * z
        y = ((np.arange(height) - cy) / k.fy)[:, None] * z
        return np.stack([x, y, z], axis=-1).astype(np.float32)

    def _check_camera(self, height: int, width: int) -> None:
        k = self.intrinsics
        for name, value, side, least, most in (
            ("fx", k.fx, width, *_FOCAL_LENGTHS),
            ("fy", k.fy, height, *_FOCAL_LENGTHS),
            ("cx", k.cx, width, *_CENTRES),
            ("cy", k.cy, height, *_CENTRES),
        ):
            if value is not None and not least <= value / side <= most:
                raise InputError(
                    f"{self.path}: {name} = {value:g} for an image of {width}x{height}; it is measured in pixels of "
                    "this image, correct it"
                )


Scan = Cloud | Depth


@dataclasses.dataclass(frozen=True)
class NormalMap:
    """Surface normals as the data set's authors computed them: an image of `(n * axes + 1) * 127.5`.

    Attributes:
      path: 8-bit RGB image.
      axes: what turns the image's components into the camera frame's (x right, y down, z away from the camera).
    """

    path: pathlib.Path
    axes: tuple[int, int, int] = (1, -1, -1)

    def read(self) -> np.ndarray:
        """Unit normals (h, w, 3) float32 in the camera frame, exactly zero where the image is black.

        Raises:
          InputError: if the file cannot be used.
        """
        colours = images.read_rgb(self.path)
        normals = (colours / np.float32(127.5) - 1) * np.array(self.axes, np.float32)
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        known = colours.any(axis=-1, keepdims=True) & (length > 0)
        return np.where(known, normals / np.where(known, length, 1), 0).astype(np.float32)


def scaled(xyz: np.ndarray, unit: float) -> np.ndarray:
    """Points in metres of points in another unit."""
    return xyz if unit == 1.0 else xyz * np.float32(unit)
