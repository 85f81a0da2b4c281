"""Decoding of image and scan files; what is wrong with one is said in words, with its name and the remedy."""

import contextlib
import pathlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tifffile

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MASK_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16")

# What a decoder lets through of a damaged file differs with where the damage lies.
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)


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
    with _decoding(path, "image"), PIL.Image.open(path) as image:
        return image.height, image.width


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads a mask as (h, w) bool, true wherever a channel other than alpha is above zero.

    Raises:
      InputError: if the file cannot be read or holds another kind of image.
    """
    image = _open(path)
    if image.mode not in _MASK_MODES:
        raise InputError(f"{path}: a {image.mode} image; save the mask as 8-bit greyscale")
    # Not by way of luminance: it rounds a faint blue down to zero.
    pixels = np.atleast_3d(np.asarray(image.convert("RGBA") if image.mode in ("LA", "P") else image))
    return np.any(pixels[..., :3] > 0, axis=2)


def read_xyz(path: pathlib.Path) -> np.ndarray:
    """Reads an organised point cloud from a TIFF as (h, w, 3) float32; invalid points are exactly zero.

    Raises:
      InputError: if the file cannot be read, has another shape or type, holds NaN or infinity, or no valid point.
    """
    with _decoding(path, "TIFF"):
        xyz = tifffile.imread(path)
    if not xyz.size:
        raise InputError(f"{path}: not a readable TIFF (no image in it); export it again")
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype.kind != "f":
        raise InputError(f"{path}: shape {xyz.shape} of {xyz.dtype}; a scan is (height, width, 3) of float32, x y z")
    invalid = int((~np.isfinite(xyz)).any(axis=2).sum())
    if invalid:
        raise InputError(f"{path}: {invalid} points are NaN or infinite; write points that were not seen as (0, 0, 0)")
    if not xyz.any():
        raise InputError(f"{path}: every point is (0, 0, 0); the scan holds nothing, remove the part or scan it again")
    return xyz.astype(np.float32, copy=False)


def _open(path: pathlib.Path) -> PIL.Image.Image:
    with _decoding(path, "image"), PIL.Image.open(path) as image:
        image.load()
        return image


@contextlib.contextmanager
def _decoding(path: pathlib.Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise InputError(f"{path}: not a readable {kind} ({error}); export it again") from error


def _png_bit_depth(path: pathlib.Path) -> int | None:
    """Bits a channel of a PNG, None for another format: Pillow cuts 16-bit RGB down to 8 without a word."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(_PNG_SIGNATURE) else None
