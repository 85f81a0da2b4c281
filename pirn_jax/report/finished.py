"""Pages of finished runs, made again without the data set."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pirn_jax.report import page, pictures
from pirn_jax.report.pictures import Gallery
from pirn_jax.study import results, storage

GALLERY = "gallery.npz"


class Finished(NamedTuple):
    """A finished run.

    Attributes:
      results: the content of `results.json`.
      galleries: its pictures, none if they were not kept.
      histories: metrics of the training by number of shots and by name, (runs, steps).
    """

    results: dict[str, Any]
    galleries: list[Gallery]
    histories: Mapping[str, Mapping[str, np.ndarray]]


def read(directory: pathlib.Path) -> Finished:
    """A finished run.

    Raises:
      InputError: if the directory is no finished run, or its pictures cannot be read.
    """
    found = results.read(directory)
    path = directory / GALLERY
    histories = storage.load_histories(directory, found["settings"])
    return Finished(found, pictures.load(path) if path.is_file() else [], histories)


def write_page(directory: pathlib.Path, path: pathlib.Path | None = None) -> pathlib.Path:
    """Writes the page of a finished run from what its directory holds.

    Args:
      directory: of the run.
      path: the HTML file, by default `report.html` in the directory.

    Returns:
      The path of the page.

    Raises:
      InputError: if the directory is no finished run.
    """
    run = read(directory)
    path = path or directory / "report.html"
    page.write_page(path, run.results, run.galleries, run.histories)
    return path
