"""One part: where its files lie, what they hold, and whether they fit together."""

import dataclasses
import pathlib

import numpy as np

from pirn_jax.data import images
from pirn_jax.data.images import InputError

GOOD = "good"


@dataclasses.dataclass(frozen=True)
class Record:
    """Where one part lies on disk.

    Attributes:
      category: kind of part.
      split: "train", "validation" or "test".
      defect: name of the defect, or "good".
      id: name of the part within its category, such as "test/dent/003".
      rgb: colour image.
      xyz: organised point cloud.
      gt: mask of the defect, None where there is none to read.
    """

    category: str
    split: str
    defect: str
    id: str
    rgb: pathlib.Path
    xyz: pathlib.Path
    gt: pathlib.Path | None = None

    @property
    def defective(self) -> bool:
        """Whether the part has a defect."""
        return self.defect != GOOD


@dataclasses.dataclass(frozen=True)
class Splits:
    """The records of one category, each list sorted by id."""

    train: list[Record]
    validation: list[Record]
    test: list[Record]


@dataclasses.dataclass(frozen=True)
class Sample:
    """One part as arrays of one size.

    Attributes:
      rgb: (h, w, 3) uint8.
      xyz: (h, w, 3) float32, metres in the camera frame; exactly zero where the scanner saw nothing.
      gt: (h, w) bool, true on the defect.
    """

    rgb: np.ndarray
    xyz: np.ndarray
    gt: np.ndarray


def load(record: Record) -> Sample:
    """Reads the files of one part and checks that they fit together.

    Raises:
      InputError: naming the file, if one cannot be used or sizes disagree.
    """
    rgb = images.read_rgb(record.rgb)
    xyz = images.read_xyz(record.xyz)
    _check_size(record.xyz, xyz, record.rgb, rgb)
    return Sample(rgb, xyz, load_gt(record, rgb.shape[:2]))


def load_gt(record: Record, size: tuple[int, int]) -> np.ndarray:
    """Reads the ground truth of one part, (h, w) bool; all false for a good part without a file.

    Raises:
      InputError: naming the file, if it cannot be read, its size disagrees, or its content contradicts its folder.
    """
    if record.gt is None:
        return np.zeros(size, bool)
    gt = images.read_mask(record.gt)
    if gt.shape != size:
        raise InputError(
            f"{record.gt}: {gt.shape[1]}x{gt.shape[0]} pixels, but {record.rgb} has {size[1]}x{size[0]}; "
            "the files of one part need one size"
        )
    if record.defective and not gt.any():
        raise InputError(f"{record.gt}: no pixel is marked, but the folder says {record.defect!r}; draw the defect")
    if not record.defective and gt.any():
        raise InputError(
            f"{record.gt}: pixels are marked on a part in the folder {GOOD!r}; move the part or clear them"
        )
    return gt


def _check_size(path: pathlib.Path, array: np.ndarray, other_path: pathlib.Path, other: np.ndarray) -> None:
    if array.shape[:2] != other.shape[:2]:
        raise InputError(
            f"{path}: {array.shape[1]}x{array.shape[0]} points, but {other_path} has "
            f"{other.shape[1]}x{other.shape[0]} pixels; the files of one part need one size"
        )
