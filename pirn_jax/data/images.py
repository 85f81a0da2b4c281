"""Decoding of image and scan files; what is wrong with one is said in words, with its name and the remedy."""

import pathlib
import struct
import zlib

import numpy as np
import PIL.Image
import tifffile

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class InputError(ValueError):
    """Something is wrong with what the user gave; the message is one sentence that names it and the remedy."""


def read_rgb(path: pathlib.Path) -> np.ndarray:
    """Reads an 8-bit RGB image as (h, w, 3) uint8.

    Raises:
      InputError: if the file cannot be read or is greyscale, 16 bit, palette or has transparency.
    """
    image = _open(path)
    depth = _png_bit_depth(path)
    if image.mode != "RGB" or depth not in (None, 8):
        found = f"{depth}-bit {image.mode}" if depth else image.mode
        raise InputError(f"{path}: a {found} image; save it as 8-bit RGB without transparency")
    return np.asarray(image)


def read_size(path: pathlib.Path) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
      InputError: if the file cannot be read.
    """
    width, height = _open(path).size
    return height, width


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads a mask as (h, w) bool, true wherever a pixel is above zero.

    Raises:
      InputError: if the file cannot be read.
    """
    return np.asarray(_open(path).convert("L")) > 0


def read_xyz(path: pathlib.Path) -> np.ndarray:
    """Reads an organised point cloud from a TIFF as (h, w, 3) float32; invalid points are exactly zero.

    Raises:
      InputError: if the file cannot be read, has another shape or type, holds NaN or infinity, or no valid point.
    """
    try:
        xyz = tifffile.imread(path)
    # What tifffile lets through of a damaged file differs with where the damage lies.
    except (tifffile.TiffFileError, OSError, ValueError, RuntimeError, IndexError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: not a readable TIFF ({error}); export the scan again") from error
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype.kind != "f":
        raise InputError(f"{path}: shape {xyz.shape} of {xyz.dtype}; a scan is (height, width, 3) of float32, x y z")
    invalid = int((~np.isfinite(xyz)).any(axis=2).sum())
    if invalid:
        raise InputError(f"{path}: {invalid} points are NaN or infinite; write points that were not seen as (0, 0, 0)")
    if not xyz.any():
        raise InputError(f"{path}: every point is (0, 0, 0); the scan holds nothing, remove the part or scan it again")
    return xyz.astype(np.float32, copy=False)


def _open(path: pathlib.Path) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(path)
        image.load()
    except (OSError, ValueError, SyntaxError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: not a readable image ({error}); export it again") from error
    return image


def _png_bit_depth(path: pathlib.Path) -> int | None:
    """Bits a channel of a PNG, None for another format: Pillow cuts 16-bit RGB down to 8 without a word."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(_PNG_SIGNATURE) else None
