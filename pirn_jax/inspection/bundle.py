"""A model as one file that may come from a stranger: an uncompressed zip of JSON and NumPy arrays, never of code.

`manifest.json` holds the format's version and the SHA-256 of every other member. Nothing is compressed, so no member is
larger than the file; nothing is unpacked to the disk, so no name leads anywhere; arrays of objects are refused.
"""

import hashlib
import io
import json
import math
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax import __version__, atomic
from pirn_jax.data.problems import InputError
from pirn_jax.inspection import inspector
from pirn_jax.inspection.fitting import Fitted
from pirn_jax.inspection.inspector import Inspector
from pirn_jax.methods import base
from pirn_jax.study.spec import Spec
from pirn_jax.training.episodes import Run

FORMAT = (1, 2)
"""Major and minor version: programs read files of their own major version, whatever the minor one."""

_MANIFEST, _SETTINGS, _GOOD, _PICTURE = "manifest.json", "settings.json", "good.json", "good.jpg"
_SCALES = "scales.npy"
_NEEDED = {
    "categories": list,
    "encoder": str,
    "false_alarms": int | float,
    "light": int,
    "members": int,
    "method": str,
    "pirn_jax": str,
    "scan_unit": int | float,
}
"""Settings that those who use a model rely on, besides those of its `Spec`."""

_KINDS = "fiub"
"""Kinds of numbers that arrays may hold."""


class Good(NamedTuple):
    """The good parts of a model.

    Attributes:
      parts: their names.
      scores: image scores under models that had not learned from them; empty where there is a single part.
      highest: maxima of their maps; likewise.
      size: height and width of the first one's image.
    """

    parts: list[str]
    scores: np.ndarray
    highest: np.ndarray
    size: tuple[int, int]


class Sample(NamedTuple):
    """A good part as two files.

    Attributes:
      rgb: PNG of its image.
      scan: TIFF of its points, (h, w, 3) float32 in the unit that the model's scans have.
    """

    rgb: bytes
    scan: bytes


class Bundle(NamedTuple):
    """A model with what it was made from.

    Attributes:
      ready: to inspect parts.
      good: the good parts.
      picture: a JPEG of them.
      samples: some of them, to try the model with.
    """

    ready: Inspector
    good: Good
    picture: bytes
    samples: list[Sample]


def write(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    fitted: Fitted,
    good: Good,
    picture: bytes,
    samples: Sequence[Sample] = (),
) -> None:
    """Writes a model whole or not at all.

    Args:
      path: of the file.
      settings: of its study, see `spec.describe`; with `false_alarms` that are wished for, `members` of the ensemble,
        and `scan_unit`, metres in one unit of the scans.
      fitted: the ensemble.
      good: what it learned from.
      picture: a JPEG of the good parts, to look at.
      samples: some of them, to try the model with.
    """
    told = good._asdict() | {"scores": good.scores.tolist(), "highest": good.highest.tolist()}
    members = {
        _SETTINGS: json.dumps(settings, indent=1).encode(),
        _GOOD: json.dumps(told, indent=1, allow_nan=False).encode(),
        _PICTURE: picture,
        _SCALES: _npy(fitted.scales),
    }
    members |= {f"params/{i:05d}.npy": _npy(leaf) for i, leaf in enumerate(jax.tree.leaves(fitted.params))}
    for i, sample in enumerate(samples):
        members |= dict(zip(_sample_names(i), sample, strict=True))
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    manifest = {"format": FORMAT, "pirn_jax": __version__, "sha256": hashes}
    with atomic.replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {_MANIFEST: json.dumps(manifest, indent=1).encode(), **members}.items():
            # A fixed date: equal models are equal files.
            archive.writestr(zipfile.ZipInfo(name), content)


def read(path: pathlib.Path, encoder: str | None = None) -> Bundle:
    """Reads a model.

    Args:
      path: of the file.
      encoder: name or file of its encoder; by default what the model calls it.

    Raises:
      InputError: if the file is missing, damaged, altered, of another major version, or its encoder is not there.
    """
    members, version = _members(path)
    settings, told = (_json(path, name, members[name]) for name in (_SETTINGS, _GOOD))
    try:
        good = Good(
            [str(name) for name in told["parts"]],
            np.array(told["scores"], float),
            np.array(told["highest"], float),
            (int(told["size"][0]), int(told["size"][1])),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path}: {_GOOD} in it is not understood ({error}); fit the model again") from error
    for name, kind in _NEEDED.items():
        if not isinstance(settings.get(name), kind):
            raise InputError(f"{path}: {_SETTINGS} in it has no {name!r} of use; fit the model again")
    spec = inspector.spec_of(settings, path, encoder)
    leaves = [_array(path, name, members[name]) for name in sorted(members) if name.startswith("params/")]
    scales = _array(path, _SCALES, members[_SCALES])
    if scales.shape[1:] != (len(spec.build().maps),) or not settings["categories"]:
        raise InputError(f"{path}: no scale for each map in it, or no category; fit the model again")
    params = _params(path, spec, len(good.parts), leaves, len(scales), version)
    run = Run(settings["categories"][0], len(good.parts), 0)
    given = params, jnp.asarray(scales), inspector.compile_inspection(spec)
    pairs = (_sample_names(i) for i in range(len(good.parts)))
    samples = [Sample(*(members[name] for name in pair)) for pair in pairs if members.keys() >= {*pair}]
    return Bundle(Inspector(run, settings, spec, *given), good, members[_PICTURE], samples)


def _sample_names(i: int) -> tuple[str, str]:
    """Names of the members of a sample."""
    return f"samples/{i:03d}/rgb.png", f"samples/{i:03d}/xyz.tiff"


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return buffer.getvalue()


def _members(path: pathlib.Path) -> tuple[dict[str, bytes], str]:
    """All members of a file whose hashes are right, and the version of the program that wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if compressed:
                raise InputError(f"{path}: {compressed[0]!r} in it is compressed, which no model is; fit it again")
            found = {info.filename: archive.read(info) for info in archive.infolist()}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); name a model of pirn fit") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, RuntimeError) as error:
        raise InputError(f"{path}: no model, or a damaged one ({error}); copy it again, or fit it again") from error
    manifest = _json(path, _MANIFEST, found.pop(_MANIFEST, b""))
    try:
        (major, minor), version, hashes = manifest["format"], str(manifest["pirn_jax"]), dict(manifest["sha256"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {_MANIFEST} in it is not understood ({error}); fit the model again") from error
    if major != FORMAT[0]:
        raise InputError(
            f"{path}: format {major}.{minor} of pirn_jax {version}, this program reads {FORMAT[0]}.x; use that version "
            "or fit the model again"
        )
    altered = [
        name for name in {*found, *hashes} if hashlib.sha256(found.get(name, b"")).hexdigest() != hashes.get(name)
    ]
    if altered:
        raise InputError(f"{path}: {min(altered)!r} in it was altered or is damaged; copy the file again")
    lacking = {_SETTINGS, _GOOD, _PICTURE, _SCALES} - found.keys()
    if lacking:
        raise InputError(f"{path}: lacks {min(lacking)!r}; fit the model again")
    return found, version


def _json(path: pathlib.Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: {name} in it is no JSON ({error}); copy the file again") from error


def _array(path: pathlib.Path, name: str, content: bytes) -> np.ndarray:
    buffer = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(buffer) != (1, 0):
            raise ValueError("another version of the format")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(buffer)
        # The header is believed only as far as there are bytes for it.
        if (
            dtype.kind not in _KINDS
            or columns_first
            or math.prod(shape) * dtype.itemsize != len(content) - buffer.tell()
        ):
            raise ValueError(f"{shape} of {dtype} in {len(content)} bytes")
    except (ValueError, TypeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: {name} in it is no array of numbers ({reason}); copy the file again") from error
    return np.frombuffer(content, dtype, offset=buffer.tell()).reshape(shape)


def _params(path: pathlib.Path, spec: Spec, parts: int, leaves: list[np.ndarray], members: int, version: str) -> Any:
    """Parameters as the method has them; sizes that grow with the patches of a part are free, all others are known."""
    method, parts = spec.build(), parts * len(spec.views)
    modalities, groups, width = len(spec.modalities), len(spec.encoder.groups), spec.encoder.config.width
    all_patches, fewer = (
        base.params_shapes(method, base.shapes(parts, modalities, groups, patches, width))
        for patches in (spec.grid**2, spec.grid**2 // 2)
    )
    expected, tree = jax.tree.flatten(all_patches)
    free = {size for a, b in zip(expected, jax.tree.leaves(fewer), strict=True) for size in {*a.shape} - {*b.shape}}
    taken: dict[int, int] = {}

    def fits(leaf: np.ndarray, shape: jax.ShapeDtypeStruct) -> bool:
        if leaf.ndim != len(shape.shape) + 1 or len(leaf) != members or leaf.dtype != shape.dtype:
            return False
        pairs = zip(leaf.shape[1:], shape.shape, strict=True)
        return all(
            taken.setdefault(wanted, size) == size if wanted in free else size == wanted for size, wanted in pairs
        )

    if len(leaves) != len(expected) or not all(map(fits, leaves, expected)):
        raise InputError(
            f"{path}: its parameters are not those that {spec.method} has in pirn_jax {__version__}; it was written by "
            f"{version}; use that version, or fit the model again"
        )
    return jax.tree.unflatten(tree, [jnp.asarray(leaf) for leaf in leaves])
