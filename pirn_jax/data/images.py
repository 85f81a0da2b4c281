"""Decoding of image and scan files; what is wrong with one is said in words, with its name and the remedy."""

import contextlib
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tifffile

from pirn_jax.data import kinds
from pirn_jax.data.problems import InputError

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_DEPTH_MODES = ("L", "I", "I;16", "I;16B")

MOST_VALUES = 150_000_000
"""Numbers in a scan beyond which a header is not believed: three times the largest scans of Real-IAD D3."""

FORMATS = ("PNG", "JPEG")
"""What Pillow may decode: among its other formats are some that start programs, such as Ghostscript."""

_ORIENTATION = 274
"""EXIF's tag of how to turn an image before it is shown."""

_TURNED = range(2, 9)
"""Its values that turn or mirror; 1 and what is none of EXIF's leave the image as it is."""

FARTHEST = 1e9
"""Largest coordinate of a point in any unit: beyond it squares leave the range of float32's precision."""

DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    ArithmeticError,
    LookupError,
    MemoryError,
    RuntimeError,
    EOFError,
    ImportError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    PIL.Image.DecompressionBombError,
)
"""What decoders let through of a damaged file; it differs with where the damage lies."""


def read_rgb(path: pathlib.Path) -> np.ndarray:
    """Reads an 8-bit RGB image as (h, w, 3) uint8.

    Raises:
      InputError: if the file cannot be read or is greyscale, 16 bit, palette or has transparency.
    """
    image = open_image(path)
    depth = png_bit_depth(path)
    if image.mode != "RGB" or depth not in (None, 8):
        found = f"{depth}-bit {image.mode}" if depth else image.mode
        raise InputError(f"{path}: a {found} image; save it as 8-bit RGB without transparency")
    with decoding(path, "image"):
        turned = image.getexif().get(_ORIENTATION, 1)
    if turned in _TURNED:
        raise InputError(f"{path}: viewers turn it, by its EXIF orientation {turned}; save it as it is to be seen")
    return np.asarray(image)


def read_size(path: pathlib.Path) -> tuple[int, int]:
    """Height and width of an image, from its header.

    Raises:
      InputError: if the file cannot be read.
    """
    with decoding(path, "image"), PIL.Image.open(path, formats=FORMATS) as image:
        return image.height, image.width


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads a mask as (h, w) bool, true wherever a channel other than alpha is above zero.

    Raises:
      InputError: if the file cannot be read or is no PNG.
    """
    image = open_image(path)
    if image.format != "PNG":
        raise InputError(f"{path}: a {image.format}, which blurs edges, so more would be marked; save the mask as PNG")
    with decoding(path, "image"):
        # Not by way of luminance: it rounds a faint blue down to zero.
        pixels = np.atleast_3d(np.asarray(image.convert("RGBA") if image.mode in ("LA", "P") else image))
        return np.any(pixels[..., :3] > 0, axis=2)


def read_xyz(path: pathlib.Path, nan_is_unseen: bool = False) -> np.ndarray:
    """Reads an organised point cloud from a TIFF as (h, w, 3) float32; points that were not seen are exactly zero.

    Args:
      path: the file.
      nan_is_unseen: takes NaN and infinity for points that were not seen.

    Raises:
      InputError: if the file cannot be read, has another shape or type, holds NaN or infinity that is not allowed for,
        or no valid point.
    """
    xyz = read_tiff(path)
    if xyz.ndim != 3 or xyz.shape[2] != 3 or xyz.dtype.kind != "f":
        raise InputError(f"{path}: shape {xyz.shape} of {xyz.dtype}; a scan is (height, width, 3) of float32, x y z")
    return check_points(path, xyz, nan_is_unseen)


def check_points(path: pathlib.Path, xyz: np.ndarray, nan_is_unseen: bool) -> np.ndarray:
    """Points (h, w, 3) as float32, exactly zero where nothing was seen.

    Args:
      path: the file that they come from, for messages.
      xyz: points as the file holds them.
      nan_is_unseen: takes NaN and infinity for points that were not seen.

    Raises:
      InputError: if there is NaN or infinity that is not allowed for, or no valid point.
    """
    xyz = _as_float32(xyz)
    invalid = ~np.isfinite(xyz).all(axis=2, keepdims=True)
    if invalid.any() and not nan_is_unseen:
        raise InputError(
            f"{path}: {invalid.sum()} points are NaN or infinite; write points that were not seen as (0, 0, 0)"
        )
    xyz = np.where(invalid, np.float32(0), xyz) if invalid.any() else xyz
    if np.abs(xyz).max(initial=0.0) > FARTHEST:
        raise InputError(
            f"{path}: coordinates up to {np.abs(xyz).max():.0e}; write points that were not seen as (0, 0, 0)"
        )
    if not xyz.any():
        raise InputError(f"{path}: no point was seen; the scan holds nothing, remove the part or scan it again")
    return xyz


def read_depth(path: pathlib.Path) -> np.ndarray:
    """Reads a depth image, PNG, TIFF, EXR or NPY by its suffix, as (h, w) float32 in the file's own unit.

    Raises:
      InputError: if the file cannot be read or has more than one channel; an EXR may have others beside Z.
    """
    readers = {".png": _read_grey_png, ".exr": _read_exr, ".npy": read_npy}
    depth = readers.get(path.suffix.lower(), read_tiff)(path)
    if depth.ndim != 2 or depth.dtype.kind not in "uif" or not depth.size:
        raise InputError(f"{path}: shape {depth.shape} of {depth.dtype}; a depth image is (height, width) of numbers")
    return _as_float32(depth)


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # What float32 cannot hold becomes infinite.
        return array.astype(np.float32, copy=False)


def _read_grey_png(path: pathlib.Path) -> np.ndarray:
    image = open_image(path)
    bits = png_bit_depth(path)
    # Pillow stretches 2 and 4 bits to 8, and a palette holds numbers of colours: both would be other depths.
    if image.mode not in _DEPTH_MODES or bits not in (8, 16):
        kind = f"{bits}-bit {image.mode} image" if bits else f"{image.format} under the name of a PNG"
        raise InputError(f"{path}: a {kind}; save depth as a 16-bit greyscale PNG")
    return np.asarray(image)


def read_npy(path: pathlib.Path) -> np.ndarray:
    """Reads an array of any type but objects.

    Raises:
      InputError: if the file cannot be read.
    """
    # As a memory map what the header claims is compared with the file's size; their product may overflow on the way.
    with decoding(path, "NPY"), np.errstate(over="raise"):
        return np.array(np.lib.format.open_memmap(path, mode="r"))


def _read_exr(path: pathlib.Path) -> np.ndarray:
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError(f'{path}: reading EXR needs a package; pip install "pirn_jax[exr]"') from error
    with decoding(path, "EXR"):
        with OpenEXR.File(str(path), header_only=True) as file:
            header = file.header()
            low, high = (corner.astype(float) for corner in header["dataWindow"])
            check_claim(path, int(np.prod(high - low + 1)) * len(header["channels"]))
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = file.channels()
            name = next(iter(channels)) if len(channels) == 1 else "Z"
            if name not in channels:
                raise InputError(f"{path}: channels {', '.join(sorted(channels))}; save one channel, or name depth Z")
            return np.array(channels[name].pixels)


def read_tiff(path: pathlib.Path) -> np.ndarray:
    """Reads the one image of a TIFF.

    Raises:
      InputError: if the file cannot be read, or holds no image or several.
    """
    # As OME-TIFF a file could name others, which would be read as well.
    with decoding(path, "TIFF"), tifffile.TiffFile(path, is_ome=False) as file:
        if len(file.series) != 1:
            raise ValueError(f"{len(file.series)} images in it, not one")
        series = file.series[0]
        check_claim(path, series.size)
        plain = series.keyframe.compression == tifffile.COMPRESSION.NONE
        if plain and series.nbytes > path.stat().st_size:
            raise ValueError(f"{series.nbytes:,} bytes are claimed, the file has {path.stat().st_size:,}")
        array = file.asarray()
    if not array.size:
        raise InputError(f"{path}: not a readable TIFF (no image in it); export it again")
    return array


def check_claim(path: pathlib.Path, count: int) -> None:
    """Refuses a file whose header claims more numbers than any scan has.

    Raises:
      InputError: if it does.
    """
    if count > MOST_VALUES:
        raise InputError(
            f"{path}: its header claims {count:,} numbers, more than the {MOST_VALUES:,} that any scan needs; "
            "export it again"
        )


def open_image(path: pathlib.Path) -> PIL.Image.Image:
    """A PNG or JPEG, decoded.

    Raises:
      InputError: if the file cannot be read.
    """
    with decoding(path, "image"), PIL.Image.open(path, formats=FORMATS) as image:
        image.load()
        return image


@contextlib.contextmanager
def decoding(path: pathlib.Path, kind: str) -> Iterator[None]:
    """Turns what a decoder raises on a damaged file into an `InputError` that names the file and its kind."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        head = kinds.first_bytes(path)
        if told := kinds.stranger(head):
            raise InputError(f"{path}: {told}") from error
        reason, remedy = _cause(error, kind, kinds.image(head))
        raise InputError(f"{path}: not a readable {kind} ({reason}); {remedy}") from error


def _cause(error: Exception, kind: str, found: str) -> tuple[str, str]:
    """Reason why a file cannot be read as a kind, and the remedy; `found` is the format that its first bytes tell."""
    # What tifffile lacks for a compression it says in one way or another.
    if isinstance(error, ImportError) or "imagecodecs" in str(error):
        remedy = 'pip install "pirn_jax[codecs]", or save it uncompressed'
        return "its compression needs the package imagecodecs", remedy
    if found and found not in (FORMATS if kind == "image" else (kind,)):
        return f"it is a {found}", f"save it as {' or '.join(FORMATS) if kind == 'image' else kind}"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is", "save it smaller"
    return " ".join(str(error).split()) or type(error).__name__, "export it again"


def png_bit_depth(path: pathlib.Path) -> int | None:
    """Bits a channel of a PNG, None for another format: Pillow cuts 16-bit RGB down to 8 without a word."""
    with path.open("rb") as file:
        header = file.read(25)
    return header[24] if header.startswith(_PNG_SIGNATURE) else None
