"""One part: where it lies, what it holds, and whether that fits together."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np

from pirn_jax.data import images
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.scans import NormalMap, Scan
from pirn_jax.data.views import ORIGINAL, View

GOOD = "good"

UNMARKED = "defective, but no mask says where: no pixel metrics for its category"
"""What the user should know of such a part."""

_MOST_MARKED = 0.6
"""Share of an image beyond which a mask is probably inverted (our choice)."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One part as arrays.

    Attributes:
      rgb: (h, w, 3) uint8.
      xyz: (h', w', 3) float32, metres in the camera frame (x right, y down, z away from the camera); exactly zero
        where the scanner saw nothing. None where the part has normals only.
      normals: (h', w', 3) float32, the data set's own normals in the camera frame, zero where unknown; None where they
        are to be computed from `xyz`.
      gt: (h, w) bool, true on the defect; None where a defective part has no mask.

    The geometry may have another size than the image where a data set's cameras differ; both show the same field.
    """

    rgb: np.ndarray
    xyz: np.ndarray | None
    normals: np.ndarray | None
    gt: np.ndarray | None


@runtime_checkable
class Source(Protocol):
    """Source of a sample: files, or a prepared data set."""

    @property
    def name(self) -> str:
        """Name used in messages."""
        ...

    def size(self) -> tuple[int, int]:
        """Height and width of the image, without reading all of it."""
        ...

    def digest(self) -> bytes:
        """SHA-256 of the bytes that image and geometry are made from, and of how they are read."""
        ...

    def mask(self) -> tuple[str, np.ndarray] | None:
        """Name and (h, w) bool of the ground truth; None where there is none to read."""
        ...

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """`rgb`, `xyz` and `normals` of a `Sample`."""
        ...


@dataclasses.dataclass(frozen=True)
class Files:
    """A part that lies in files of its own.

    Attributes:
      rgb: colour image.
      scan: its geometry; None where only `normals` are there.
      gt: mask of the defect; None where there is none to read.
      normals: the data set's own normals, used instead of computed ones; None to compute them.
      one_size: whether image and geometry need one size; otherwise both show the same field.
    """

    rgb: pathlib.Path
    scan: Scan | None
    gt: pathlib.Path | None = None
    normals: NormalMap | None = None
    one_size: bool = True

    @property
    def name(self) -> str:
        """Name used in messages."""
        return str(self.rgb)

    def size(self) -> tuple[int, int]:
        """Height and width of the image, from its header.

        Raises:
          InputError: naming the file, if it cannot be read.
        """
        return images.read_size(self.rgb)

    def digest(self) -> bytes:
        """SHA-256 of the files' bytes and of how they are read.

        Raises:
          InputError: naming the file, if one cannot be read.
        """
        parts = [part for part in (self.scan, self.normals) if part is not None]
        total = hashlib.sha256(_digest(self.rgb))
        for part in parts:
            how = dataclasses.replace(part, path=pathlib.Path())
            total.update(_digest(part.path) + hashlib.sha256(repr(how).encode()).digest())
        return total.digest()

    def mask(self) -> tuple[str, np.ndarray] | None:
        """Name and (h, w) bool of the ground truth.

        Raises:
          InputError: naming the file, if it cannot be used.
        """
        return None if self.gt is None else (str(self.gt), images.read_mask(self.gt))

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Reads image and geometry.

        Raises:
          InputError: naming the file, if one cannot be used or sizes disagree.
        """
        rgb = images.read_rgb(self.rgb)
        return rgb, self._field(self.scan, rgb), self._field(self.normals, rgb)

    def _field(self, part: Scan | NormalMap | None, rgb: np.ndarray) -> np.ndarray | None:
        if part is None:
            return None
        field = part.read()
        if self.one_size:
            _check_size(str(part.path), field.shape, self.name, rgb.shape)
        return field


@dataclasses.dataclass(frozen=True)
class Record:
    """One part of a data set.

    Attributes:
      category: kind of part.
      split: "train", "validation" or "test".
      defect: name of the defect, or "good".
      id: name of the part within its category, such as "test/dent/003".
      source: where it comes from.
      view: how its images are seen, see `inputs.seen`.
    """

    category: str
    split: str
    defect: str
    id: str
    source: Source
    view: View = ORIGINAL

    @property
    def defective(self) -> bool:
        """True if the sample has a defect."""
        return self.defect != GOOD


@dataclasses.dataclass(frozen=True)
class Splits:
    """The records of one category, each list sorted by id."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]


def tell_all(records: Iterable[Record], problems: Problems) -> NoReturn:
    """Opens every part after something was found to be wrong, so that one run tells all that is.

    Raises:
      InputError: with all problems.
    """
    for record in records:
        with problems.collecting():
            load(record)
    problems.check()
    raise AssertionError("called without a problem")


def load(record: Record) -> Sample:
    """Reads one part and checks that what it holds fits together.

    Raises:
      InputError: naming the file, if one cannot be used or sizes disagree.
    """
    rgb, xyz, normals = record.source.arrays()
    return Sample(rgb, xyz, normals, load_gt(record, rgb.shape[:2]))


def load_gt(record: Record, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """Reads the ground truth of one part, (h, w) bool.

    Without a mask it is all false for a good part, and None, unknown, for a defective one.

    Args:
      record: the part.
      size: height and width of its image; by default they are looked up.

    Raises:
      InputError: naming the file, if it cannot be read, its size disagrees, or its content contradicts its folder.
    """
    size = size or record.source.size()
    found = record.source.mask()
    if found is None:
        return None if record.defective else np.zeros(size, bool)
    name, gt = found
    _check_size(name, gt.shape, record.source.name, size)
    if record.defective and not gt.any():
        raise InputError(f"{name}: no pixel is marked, but the folder says {record.defect!r}; draw the defect")
    if not record.defective and gt.any():
        raise InputError(f"{name}: pixels are marked on a part in the folder {GOOD!r}; move the part or clear them")
    return gt


def mask_note(share: float | None) -> str:
    """Sentence for the user on a mask that marks a share of its image, None without one; empty if nothing is odd."""
    if share is None:
        return UNMARKED
    if share <= _MOST_MARKED:
        return ""
    return f"its mask marks {share:.0%} of the image; defects are above zero on black, so it may be inverted"


def _digest(path: pathlib.Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _check_size(name: str, shape: tuple[int, ...], other_name: str, other: tuple[int, ...]) -> None:
    if shape[:2] != other[:2]:
        raise InputError(
            f"{name}: {shape[1]}x{shape[0]} pixels, but {other_name} has {other[1]}x{other[0]}; "
            "the files of one part need one size"
        )
