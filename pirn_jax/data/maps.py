"""Anomaly maps that others have saved: finding the file of each part, and reading it."""

import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from pirn_jax.data import images
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record

SUFFIXES = (".npy", ".npz", ".tiff", ".tif", ".png")


def find(
    directory: pathlib.Path, category: str, records: Sequence[Record], seed: int | None, problems: Problems
) -> list[pathlib.Path]:
    """The map of every part: `<directory>/<category>/<id>.<suffix>`, or the same below `seed-<seed>/`.

    Args:
      directory: folder with one folder for each category.
      category: name.
      records: the category's test parts.
      seed: whose maps to take where there are folders of several; None where there is one or none.
      problems: where parts without a map, with two, and maps of no part are noted.

    Returns:
      One path a part; none at all if a problem was noted.

    Raises:
      InputError: if the folder is missing, or the seed.
    """
    folder = _of_seed(directory / category, seed)
    found: dict[str, list[pathlib.Path]] = {record.id: [] for record in records}
    before = len(problems.found)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            found[key].append(path)
        else:
            problems.add(f"{path}: no test part of {category!r} has the id {key!r}; rename or remove the map")
    for key, paths in found.items():
        if not paths:
            problems.add(f"{folder / key}: no map ({', '.join(SUFFIXES)}) of this test part; save one")
        elif len(paths) > 1:
            problems.add(f"{paths[1]}: a second map beside {paths[0].name}; remove one of them")
    return [] if len(problems.found) > before else [paths[0] for paths in found.values()]


def read(path: pathlib.Path) -> np.ndarray:
    """Reads an anomaly map, (h, w) numbers: NPY, NPZ with one array, TIFF, or greyscale PNG of 16 bits.

    Raises:
      InputError: naming the file, if it cannot be read or holds something else.
    """
    kind = path.suffix.lower().strip(".").upper()
    with images.decoding(path, kind):
        scores = {"NPY": images.read_npy, "NPZ": _read_npz, "PNG": _read_png}.get(kind, images.read_tiff)(path)
    if scores.ndim != 2 or scores.dtype.kind not in "uif" or not scores.size:
        raise InputError(f"{path}: shape {scores.shape} of {scores.dtype}; save a map as (height, width) of numbers")
    return scores


def _of_seed(folder: pathlib.Path, seed: int | None) -> pathlib.Path:
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder; save the maps of each category in a folder of its name")
    seeds = sorted(path.name for path in folder.glob("seed-*") if os.path.isdir(path))
    if seed is None and len(seeds) > 1:
        raise InputError(f"{folder}: maps of {len(seeds)} seeds, {', '.join(seeds)}; choose one with --seed")
    if seed is not None and f"seed-{seed}" not in seeds:
        raise InputError(f"{folder}: no folder seed-{seed}; leave --seed out or save maps of that seed")
    if not seeds:
        return folder
    return folder / (seeds[0] if seed is None else f"seed-{seed}")


def _read_npz(path: pathlib.Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        images.check_claim(path, sum(info.file_size for info in archive.infolist()) // 8)
    with np.load(path, allow_pickle=False) as arrays:
        if len(arrays.files) != 1:
            raise InputError(f"{path}: {len(arrays.files)} arrays; save the map alone")
        return arrays[arrays.files[0]]


def _read_png(path: pathlib.Path) -> np.ndarray:
    image = images.open_image(path)
    if not image.mode.startswith("I"):
        raise InputError(f"{path}: a PNG of mode {image.mode}; save 16-bit greyscale, 8 bits merge scores")
    return np.asarray(image)
