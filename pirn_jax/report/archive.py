"""The output directory of a study: settings, finished groups of runs, trained parameters, anomaly maps, results.

A study is cut into groups of runs. A group's parameters are written first and its record last, each under a
temporary name that is renamed, so that an interrupted study holds whole groups only and continues after the last one.
"""

import hashlib
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tifffile

from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Record
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.scoring import Maps


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN is refused, an undefined number is null."""
    atomic.write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def check(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Makes sure that a directory can be written and is free, or holds a study with the same settings.

    Args:
      directory: may not exist yet.
      settings: everything that can change a number, as JSON values.

    Raises:
      InputError: if the directory belongs to a study with other settings, or cannot be used.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"{existing}: not a folder that can be written to; choose another --output_dir")
    path = directory / "settings.json"
    if not path.exists():
        return
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); choose another --output_dir") from error
    different = [key for key in sorted({*found, *settings}) if found.get(key) != settings.get(key)]
    if different:
        key, more = different[0], ", and more" if len(different) > 1 else ""
        raise InputError(
            f"{directory}: holds a study with other settings ({key}: {found.get(key)!r} there, {settings.get(key)!r} "
            f"now{more}); choose another --output_dir"
        )


def save_group(
    directory: pathlib.Path,
    name: str,
    settings: Mapping[str, Any],
    params: Any,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
) -> None:
    """Saves one finished group of runs; the first one makes the directory that of the study.

    Args:
      directory: of the study.
      name: of the group, such as "10-000".
      settings: of the study.
      params: trained parameters with the run axis.
      arrays: what training and scoring produced.
      facts: JSON values: which runs, their metrics, timings and versions.

    Raises:
      InputError: if another study has taken the directory, or something cannot be written.
    """
    check(directory, settings)
    try:
        if not (directory / "settings.json").exists():
            write_json(directory / "settings.json", settings)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(directory.resolve() / "params" / name, params, force=True)
        text = json.dumps({**facts, "study": _digest(settings)}, allow_nan=False)
        with atomic.replacing(directory / "groups" / f"{name}.npz") as file:
            np.savez(file, **{"facts": np.array(text), **arrays})  # pyright: ignore
    # Orbax reports a full disk as a ValueError.
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{directory}: group {name} cannot be saved ({reason}); make room or choose another --output_dir"
        ) from error


def load_group(
    directory: pathlib.Path, name: str, settings: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and facts of a group that this study has finished, None where there is none or it is damaged."""
    try:
        with np.load(directory / "groups" / f"{name}.npz") as stored:
            arrays = {key: stored[key] for key in stored.files}
        facts = json.loads(str(arrays.pop("facts")))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return (arrays, facts) if facts.get("study") == _digest(settings) else None


def load_groups(
    directory: pathlib.Path, settings: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, np.ndarray], dict[str, Any]]]:
    """Name, arrays and facts of every group that this study has finished; damaged ones are left out."""
    for path in sorted((directory / "groups").glob("*.npz")):
        group = load_group(directory, path.stem, settings)
        if group is not None:
            yield path.stem, *group


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_params(directory: pathlib.Path, name: str) -> Any:
    """Trained parameters of a finished group, a tree of arrays with the run axis first."""
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(directory.resolve() / "params" / name)


def save_maps(directory: pathlib.Path, run: Run, records: Sequence[Record], distances: np.ndarray, maps: Maps) -> None:
    """Writes a run's fused anomaly maps as float32 TIFFs of the sizes of the parts' images.

    The files lie under `maps/<shots>/<category>/seed-<seed>/` at the parts' ids.
    """
    folder = directory / "maps" / str(run.shots) / run.category / f"seed-{run.seed}"
    for record, part in zip(records, distances, strict=True):
        with atomic.replacing(folder / f"{record.id}.tiff") as file:
            tifffile.imwrite(file, maps.fused(part, record.source.size()).astype(np.float32))
