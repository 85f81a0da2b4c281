"""Inputs of the encoder: foreground, surface normals or depth, resizing."""

import collections
import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

from pirn_jax import cache
from pirn_jax.cache import Prepared
from pirn_jax.data import sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Sample
from pirn_jax.data.views import View
from pirn_jax.geometry import (
    depth_images,
    foreground,
    foreground_open3d,
    gaps,
    normal_images,
    normals,
    normals_open3d,
    plausibility,
    viewing,
)

_CACHE_VERSION = "6"
"""Part of every cache key; changes whenever the same files and settings would give other inputs."""

NORMALS = {"exact": normals.estimate, "open3d": normals_open3d.estimate}
FOREGROUND = {"plane": foreground.find, "open3d": foreground_open3d.find_open3d}
GEOMETRIES = ("normals", "depth")
"""Choices of the second modality; the first is RGB."""


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Settings by which a sample becomes the encoder's input.

    Attributes:
      size: side of the encoder's input in pixels.
      geometry: the second modality, one of `GEOMETRIES`.
      normals: "exact" (`geometry.normals`), "open3d" (the paper's recipe), or "native" (the data set's own).
      neighbours: points that a normal is fitted to; 30 in the paper.
      foreground: "plane" (`geometry.foreground`), "open3d" (the same with Open3D), or "none" to keep everything.
      plane_tolerance: distance in metres up to which points belong to the supporting plane.
      cluster_reach: distance in metres across which points off the plane belong together.
    """

    size: int = 224
    geometry: str = "normals"
    normals: str = "exact"
    neighbours: int = 30
    foreground: str = "plane"
    plane_tolerance: float = 0.005
    cluster_reach: float = 0.006

    def __post_init__(self) -> None:
        """Refuses unknown names and impossible numbers."""
        if self.geometry not in GEOMETRIES:
            raise ValueError(f"unknown geometry {self.geometry!r}: choose from {', '.join(GEOMETRIES)}")
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
    """Geometry of a sample at the full resolution of its scan.

    Attributes:
      field: zero where unknown and off the part: normals (h, w, 3) in the camera frame, or depth (h, w, 1) in metres.
      region: (h, w) bool, pixels that show the part; None where nothing was taken away.
      note: a sentence for the user without the sample's name; empty if there is nothing to say.
    """

    field: np.ndarray
    region: np.ndarray | None
    note: str

    @property
    def _is_depth(self) -> bool:
        return self.field.shape[-1] == 1

    def image(self, size: tuple[int, int], padded: bool = False) -> np.ndarray:
        """The field as (height, width, 3) uint8, of a square around it if `padded`; black is off the part.

        Where the part is not known, unknown pixels are black, too.
        """
        images = depth_images if self._is_depth else normal_images
        field = images.resize(square(self.field) if padded else self.field, size)
        if self.region is not None:
            field = gaps.fill(field, _fitted(square(self.region) if padded else self.region, size))
        return images.to_image(field)


def geometry(part: Sample, preparation: Preparation) -> Geometry:
    """Foreground and normals or depth of a sample at the full resolution of its scan.

    Raises:
      InputError: if the data set has no normals of its own though they are asked for, or nothing to compute them from.
    """
    xyz, region, notes = part.xyz, None, []
    if xyz is not None:
        notes.append(plausibility.scan_note(xyz))
        if preparation.foreground != "none":
            found = FOREGROUND[preparation.foreground](xyz, preparation.plane_tolerance, preparation.cluster_reach)
            notes.append(found.note)
            region, xyz = found.region, np.where(found.points[..., None], xyz, 0)
    if preparation.geometry == "depth":
        field = _depth(xyz)
    elif preparation.normals == "native":
        field = _native_normals(part.normals, region)
    else:
        field = _computed_normals(xyz, preparation)
    return Geometry(field, region, "; ".join(filter(None, notes)))


def _depth(xyz: np.ndarray | None) -> np.ndarray:
    if xyz is None:
        raise InputError("this part has no scan to take depth from; take --geometry=normals --normals=native")
    return np.asarray(xyz[..., 2:], np.float32)


def _native_normals(field: np.ndarray | None, region: np.ndarray | None) -> np.ndarray:
    if field is None:
        raise InputError("this data set has no normals of its own; take --normals=exact")
    return field if region is None else np.where(_fitted(region, field.shape)[..., None], field, 0)


def _computed_normals(xyz: np.ndarray | None, preparation: Preparation) -> np.ndarray:
    if xyz is None:
        raise InputError("this part has no scan to compute normals from; take --normals=native")
    try:
        return np.asarray(NORMALS[preparation.normals](xyz, preparation.neighbours))
    except ValueError as error:
        raise InputError(str(error)) from error


def prepare(part: Sample, preparation: Preparation) -> Prepared:
    """RGB and geometry of a sample as square images, (2, size, size, 3) uint8, and the pixels that show the part."""
    return network_input(part.rgb, geometry(part, preparation), preparation.size)


def network_input(rgb: np.ndarray, seen: Geometry, size: int) -> Prepared:
    """RGB and geometry as square images, (2, size, size, 3) uint8; pixels off the part are black in both.

    Geometry comes at full resolution and is resized without mixing in unknown points; RGB is resized bicubically.
    """
    shape = rgb.shape[:2]
    region = np.ones(shape, bool) if seen.region is None else _fitted(seen.region, shape)
    if seen.region is not None:
        rgb = np.where(region[..., None], rgb, 0)
    if seen.field.shape[:2] != shape:
        resize = depth_images.resize if seen.field.shape[-1] == 1 else normal_images.resize
        seen = seen._replace(field=resize(seen.field, shape), region=None if seen.region is None else region)
    small = PIL.Image.fromarray(square(rgb)).resize((size, size), PIL.Image.Resampling.BICUBIC)
    images = np.stack([np.asarray(small), seen.image((size, size), padded=True)])
    return Prepared(images, _fitted(square(region), (size, size)), seen.note)


def require(preparation: Preparation) -> None:
    """Checks that Open3D is there if samples are prepared by it.

    Raises:
      InputError: saying what to install, if it cannot be imported.
    """
    if "open3d" in (preparation.normals, preparation.foreground):
        try:
            normals_open3d.require()
        except ImportError as error:
            raise InputError(str(error)) from error


def viewed(found: Prepared, view: View, geometry: str) -> Prepared:
    """Inputs of the encoder as another view shows them; `geometry` is the second modality."""
    rgb, field = found.values
    turn = viewing.view_normals if geometry == "normals" else viewing.view_depth
    images = np.stack([viewing.view_rgb(rgb, view), turn(field, view)])
    # What there is to say of a part is said of its original.
    return Prepared(images, viewing.view_mask(found.mask, view), "")


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
    settings = hashlib.sha256(f"{_CACHE_VERSION} {preparation}".encode()).digest()
    names = []
    for record in records:
        names.append("")
        with problems.collecting():
            names[-1] = hashlib.sha256(settings + record.source.digest()).hexdigest()
    return names


def load(record: Record, name: str, preparation: Preparation, home: pathlib.Path) -> Prepared:
    """Inputs of the encoder of a sample, its view left out, from the cache or computed and put there.

    Args:
      record: the sample.
      name: of its inputs, see `identify`.
      preparation: settings.
      home: directory of the cache; it may be deleted between runs and shared by processes.

    Raises:
      InputError: naming the sample, if it cannot be used.
    """
    path = cache.path(home, "inputs", name)
    found = cache.load(path)
    if found is None:
        part, seen = examine(record, preparation)
        found = network_input(part.rgb, seen, preparation.size)
        cache.save(path, found)
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


def _fitted(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask at the size of an image (h, w, ...) that shows the same field."""
    if mask.shape == shape[:2]:
        return mask
    return np.asarray(PIL.Image.fromarray(mask).resize((shape[1], shape[0]), PIL.Image.Resampling.NEAREST))
