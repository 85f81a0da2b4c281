"""What the encoder sees of parts: foreground, surface normals and resizing, kept in a content-addressed cache."""

import collections
import dataclasses
import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from pirn_jax import atomic
from pirn_jax.data import sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Sample
from pirn_jax.geometry import foreground, foreground_open3d, normal_images, normals, normals_open3d

_RECIPE = "2"
"""Changes whenever the same files and settings would give other inputs; part of every cache key."""

NORMALS = {"exact": normals.estimate, "open3d": normals_open3d.estimate}
FOREGROUND = {"plane": foreground.find, "open3d": foreground_open3d.find_open3d}

_FARTHEST, _NEAREST = 10.0, 0.01
"""Median distances in metres of a scan that no one means (our choice): a part is scanned from 10 cm to some metres."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a part becomes what the encoder sees.

    Attributes:
      size: side of the encoder's input in pixels.
      normals: "exact" (`geometry.normals`), "open3d" (the paper's recipe), or "native" (the data set's own).
      neighbours: points that a normal is fitted to; 30 in the paper.
      foreground: "plane" (`geometry.foreground`), "open3d" (the same with Open3D), or "none" to keep everything.
      plane_tolerance: distance in metres up to which points belong to the supporting plane.
      cluster_reach: distance in metres across which points off the plane belong together.
    """

    size: int = 224
    normals: str = "exact"
    neighbours: int = 30
    foreground: str = "plane"
    plane_tolerance: float = 0.005
    cluster_reach: float = 0.006

    def __post_init__(self) -> None:
        """Refuses unknown names and impossible numbers."""
        if self.normals not in (*NORMALS, "native"):
            raise ValueError(f"unknown normals {self.normals!r}: choose from {', '.join((*NORMALS, 'native'))}")
        if self.foreground not in (*FOREGROUND, "none"):
            raise ValueError(f"unknown foreground {self.foreground!r}: choose from {', '.join((*FOREGROUND, 'none'))}")
        if self.neighbours < 3:
            raise ValueError(f"neighbours={self.neighbours}: a plane needs three points")
        for name in ("plane_tolerance", "cluster_reach"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name}={getattr(self, name)}: give a distance in metres above zero")


class Geometry(NamedTuple):
    """What a part's scan says of it.

    Attributes:
      normals: (h, w, 3) float32 in the camera frame, zero where unknown and off the part.
      region: (h, w) bool, pixels that show the part; None where nothing was taken away.
      note: what the user should know, one sentence without the part's name; empty if there is nothing.
    """

    normals: np.ndarray
    region: np.ndarray | None
    note: str


class Noted(NamedTuple):
    """An array and what the user should know of it.

    Attributes:
      values: the array.
      note: one sentence without the part's name; empty if there is nothing to say.
    """

    values: np.ndarray
    note: str


def geometry(part: Sample, preparation: Preparation) -> Geometry:
    """Foreground and normals of a part at the full resolution of its scan.

    Raises:
      InputError: if the data set has no normals of its own though they are asked for, or nothing to compute them from.
    """
    field, xyz, region, notes = part.normals, part.xyz, None, []
    if xyz is not None:
        notes.append(scan_note(xyz))
        if preparation.foreground != "none":
            found = FOREGROUND[preparation.foreground](xyz, preparation.plane_tolerance, preparation.cluster_reach)
            notes.append(found.note)
            region, xyz = found.region, np.where(found.points[..., None], xyz, 0)
    if preparation.normals == "native":
        if field is None:
            raise InputError("this data set has no normals of its own; take --normals=exact")
        if region is not None:
            field = np.where(_fitted(region, field.shape)[..., None], field, 0)
    elif xyz is None:
        raise InputError("this part has no scan to compute normals from; take --normals=native")
    else:
        try:
            field = np.asarray(NORMALS[preparation.normals](xyz, preparation.neighbours))
        except ValueError as error:
            raise InputError(str(error)) from error
    return Geometry(field, region, "; ".join(filter(None, notes)))


def prepare(part: Sample, preparation: Preparation) -> Noted:
    """What the encoder sees of a part: RGB and surface normals as square images, (2, size, size, 3) uint8."""
    seen = geometry(part, preparation)
    return Noted(network_input(part.rgb, seen, preparation.size), seen.note)


def network_input(rgb: np.ndarray, seen: Geometry, size: int) -> np.ndarray:
    """RGB and surface normals as square images, (2, size, size, 3) uint8; pixels off the part are black in both.

    Normals come at full resolution and are resized without mixing in unknown ones; RGB is resized bicubically.
    """
    shape, field = rgb.shape[:2], seen.normals
    if seen.region is not None:
        rgb = np.where(_fitted(seen.region, shape)[..., None], rgb, 0)
    if field.shape[:2] != shape:
        field = normal_images.resize(field, shape)
    small = PIL.Image.fromarray(square(rgb)).resize((size, size), PIL.Image.Resampling.BICUBIC)
    return np.stack([np.asarray(small), normal_images.to_image(normal_images.resize(square(field), (size, size)))])


def square(image: np.ndarray) -> np.ndarray:
    """Pads (h, w, ...) with zeros to a square, the image in the middle (top and left get the smaller half)."""
    side = max(image.shape[:2])
    missing = [side - image.shape[0], side - image.shape[1]]
    padding = [(m // 2, m - m // 2) for m in missing] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, padding)


def identify(records: Sequence[Record], preparation: Preparation, problems: Problems) -> list[str]:
    """Names of the inputs of parts: SHA-256 of what they are made from and of everything that makes them.

    A part that cannot be read is a problem, and its name is empty.
    """
    recipe = hashlib.sha256(f"{_RECIPE} {preparation}".encode()).digest()
    names = []
    for record in records:
        names.append("")
        with problems.collecting():
            names[-1] = hashlib.sha256(recipe + record.source.digest()).hexdigest()
    return names


def load(record: Record, name: str, preparation: Preparation, cache: pathlib.Path) -> Noted:
    """What the encoder sees of a part, from the cache or computed and put there.

    Args:
      record: the part.
      name: of its inputs, see `identify`.
      preparation: how they are made.
      cache: directory of the cache; it may be deleted between runs and shared by processes.

    Raises:
      InputError: naming the part, if it cannot be used.
    """
    path = cached_path(cache, "inputs", name)
    found = load_cached(path)
    if found is None:
        part, seen = examine(record, preparation)
        found = Noted(network_input(part.rgb, seen, preparation.size), seen.note)
        save_cached(path, found)
    return found


def examine(record: Record, preparation: Preparation) -> tuple[Sample, Geometry]:
    """A part, and what its scan says of it.

    Raises:
      InputError: naming the part, if it cannot be used.
    """
    part = sample.load(record)
    try:
        return part, geometry(part, preparation)
    except InputError as error:
        raise InputError(f"{record.source.name}: {error}") from error


def summarise(records: Sequence[Record], notes: Sequence[str]) -> list[str]:
    """One sentence for each thing that the user should know, with the number of parts and the first of them."""
    parts = collections.defaultdict(list)
    for record, note in zip(records, notes, strict=True):
        if note:
            parts[note].append(f"{record.category}/{record.id}")
    return [
        f"{names[0]}: {note}" if len(names) == 1 else f"{len(names)} parts, the first {names[0]}: {note}"
        for note, names in parts.items()
    ]


def cached_path(cache: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    """Where the cache keeps an array."""
    return cache / kind / name[:2] / f"{name}.npz"


def load_cached(path: pathlib.Path) -> Noted | None:
    """An array from the cache; None, which has it computed, where there is no whole and readable file."""
    try:
        # NumPy leaves a file open that it opened itself and that is damaged.
        with path.open("rb") as file, np.load(file) as arrays:
            return Noted(arrays["values"], str(arrays["note"]))
    except (OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return None


def save_cached(path: pathlib.Path, noted: Noted) -> None:
    """Puts an array into the cache."""
    with atomic.replacing(path) as file:
        np.savez(file, values=noted.values, note=np.array(noted.note))


def scan_note(xyz: np.ndarray) -> str:
    """What is odd about points (h, w, 3) if they are places in metres; empty if nothing is."""
    points = xyz[np.any(xyz != 0, axis=-1)]
    if not points.size:
        return ""
    notes = []
    if np.ptp(points[:, :2], axis=0).min() == 0 and min(xyz.shape[:2]) > 1:
        notes.append("all its points have one x or one y, so its normals mean nothing; take --normals=native if it can")
    middle = float(np.median(np.linalg.norm(points, axis=-1)))
    if not _NEAREST <= middle <= _FARTHEST:
        rounded = float(f"{middle:.1g}")
        notes.append(
            f"its points lie about {rounded:g} m away; if they are in another unit, say so with --xyz_unit, or for "
            "depth images with the scale in dataset.toml"
        )
    return "; ".join(notes)


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at the size of an image (h, w, ...) that shows the same field."""
    if mask.shape == shape[:2]:
        return mask
    return np.asarray(PIL.Image.fromarray(mask).resize((shape[1], shape[0]), PIL.Image.Resampling.NEAREST))
