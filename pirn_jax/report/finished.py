"""Finished runs on disk, and their pages made again without the data set."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pirn_jax.data.problems import InputError
from pirn_jax.report import archive, page, pictures
from pirn_jax.report.pictures import Gallery

SCHEMA = 1
GALLERY = "gallery.npz"
RESULTS = "results.json"
_KEYS = {"dataset", "method", "encoder", "settings", "results", "mean", "episodes", "timings", "versions"}


class Finished(NamedTuple):
    """A finished run.

    Attributes:
      results: the content of `results.json`.
      galleries: its pictures, none if they were not kept.
      histories: by number of shots and by name, what training measured, (runs, steps).
    """

    results: dict[str, Any]
    galleries: list[Gallery]
    histories: Mapping[str, Mapping[str, np.ndarray]]


def read_results(directory: pathlib.Path) -> dict[str, Any]:
    """The content of `results.json` of a finished run.

    Raises:
      InputError: if the directory is no run, is unfinished or was written by a version with another schema.
    """
    path = directory / RESULTS
    if not path.is_file():
        if (directory / "settings.json").is_file():
            raise InputError(f"{directory}: unfinished; run the command of the study again, which continues it")
        raise InputError(f"{directory}: no run, it holds no results.json; give an --output_dir of experiments.fewshot")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the command of the study again") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: has schema {schema!r}, not {SCHEMA}; use the version of pirn_jax that wrote it")
    missing = sorted(_KEYS - set(results))
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; run the command of the study again")
    return results


def read(directory: pathlib.Path) -> Finished:
    """A finished run.

    Raises:
      InputError: if the directory is no finished run, or its pictures cannot be read.
    """
    results = read_results(directory)
    path = directory / GALLERY
    return Finished(results, pictures.load(path) if path.is_file() else [], _histories(directory, results))


def _histories(directory: pathlib.Path, results: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Groups of other studies and damaged ones are left out."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for group, arrays, _ in archive.load_groups(directory, results["settings"]):
        for name, values in arrays.items():
            if name.startswith("train_"):
                shots = found.setdefault(group.rpartition("-")[0], {})
                shots.setdefault(name.removeprefix("train_"), []).append(values)
    in_order = sorted(found, key=lambda shots: (len(shots), shots))
    return {s: {name: np.concatenate(values) for name, values in found[s].items()} for s in in_order}


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
