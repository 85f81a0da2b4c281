"""The output directory of a study: settings, finished groups of runs, trained parameters, anomaly maps, results.

A study is cut into groups of runs. A group's parameters are written first and its record last, each under a
temporary name that is renamed, so that an interrupted study holds whole groups only and continues after the last one.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tifffile

from pirn_jax import atomic
from pirn_jax.data import images
from pirn_jax.data.images import InputError
from pirn_jax.data.sample import Record
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.scoring import Maps


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN is refused, an undefined number is null."""
    atomic.write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def check(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes sure that a directory is free, or holds a study with the same settings.

    Args:
      directory: may not exist yet.
      settings: everything that can change a number, as JSON values.

    Raises:
      InputError: if the directory belongs to a study with other settings, or cannot be read.
    """
    path = directory / "settings.json"
    try:
        if not path.exists():
            return
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); choose another --output_dir") from error
    different = [key for key in sorted({*found, *settings}) if found.get(key) != settings.get(key)]
    if different:
        key, more = different[0], ", and more" if len(different) > 1 else ""
        raise InputError(
            f"{directory}: holds a study with other settings ({key}: {found.get(key)!r} there, {settings.get(key)!r} "
            f"now{more}); choose another --output_dir"
        )


def claim(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes a free directory that of a study with these settings.

    Raises:
      InputError: if the directory cannot be written.
    """
    try:
        write_json(directory / "settings.json", settings)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written ({error.strerror}); choose another --output_dir") from error


def save_group(directory: pathlib.Path, name: str, params: Any, arrays: Mapping[str, np.ndarray], facts: Any) -> None:
    """Saves one finished group of runs.

    Args:
      directory: of the study.
      name: of the group, such as "10-000".
      params: trained parameters with the run axis.
      arrays: what scoring produced.
      facts: JSON values: which runs, their metrics, timings.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory.resolve() / "params" / name, params, force=True)
    with atomic.replacing(directory / "groups" / f"{name}.npz") as file:
        np.savez(file, **{"facts": np.array(json.dumps(facts, allow_nan=False)), **arrays})  # pyright: ignore


def load_group(directory: pathlib.Path, name: str) -> tuple[dict[str, np.ndarray], Any] | None:
    """Arrays and facts of a finished group, None if it is not finished."""
    path = directory / "groups" / f"{name}.npz"
    if not path.exists():
        return None
    with np.load(path) as stored:
        arrays = {key: stored[key] for key in stored.files}
    return arrays, json.loads(str(arrays.pop("facts")))


def load_params(directory: pathlib.Path, name: str) -> Any:
    """Trained parameters of a finished group, a tree of arrays with the run axis first."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory.resolve() / "params" / name)


def save_maps(directory: pathlib.Path, run: Run, records: Sequence[Record], distances: np.ndarray, maps: Maps) -> None:
    """Writes a run's fused anomaly maps as float32 TIFFs of the sizes of the parts' images.

    The files lie under `maps/<shots>/<category>/seed-<seed>/` at the parts' ids.
    """
    folder = directory / "maps" / str(run.shots) / run.category / f"seed-{run.seed}"
    for record, part in zip(records, distances, strict=False):
        path = folder / f"{record.id}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, maps.fused(part, images.read_size(record.rgb)).astype(np.float32))
