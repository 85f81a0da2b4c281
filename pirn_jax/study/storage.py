"""The output directory of a study: settings, finished groups of runs, trained parameters, checkpoints.

A study is cut into groups of runs. A group's parameters are written first and its record last, each under a
temporary name that is renamed, so that an interrupted study holds whole groups only and continues after the last one.
Within a group a training continues from its last checkpoint, which holds the optimiser's state too.
"""

import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tifffile

from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Record
from pirn_jax.scoring import Maps
from pirn_jax.training.episodes import Run


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
    obstacle = atomic.obstacle(directory)
    if obstacle:
        raise InputError(f"{obstacle}: not a folder that can be written to; choose another --output_dir")
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
      params: trained parameters with the run axis, NumPy arrays.
      arrays: histories, distances and scales of the runs.
      facts: JSON values: which runs, their metrics, timings and versions.

    Raises:
      InputError: if another study has taken the directory, or something cannot be written.
    """
    check(directory, settings)
    try:
        if not (directory / "settings.json").exists():
            write_json(directory / "settings.json", settings)
        with _checkpointer() as checkpointer:
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
    arrays = atomic.load_arrays(directory / "groups" / f"{name}.npz") or {}
    try:
        facts = dict(json.loads(str(arrays.pop("facts"))))
    except (ValueError, TypeError, KeyError, RecursionError):
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


def remove_groups(directory: pathlib.Path, but: Collection[str]) -> None:
    """Removes groups of other names: those of an earlier cut of the runs, with other processes or devices."""
    for path in (directory / "groups").glob("*.npz"):
        if path.stem not in but:
            path.unlink(missing_ok=True)
            shutil.rmtree(directory / "params" / path.stem, ignore_errors=True)


def load_histories(directory: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """Metrics of the training by number of shots and by name, (runs, steps), of all finished groups.

    Trainings of other lengths, as every good part of each category has them, are cut into as many pieces of equal
    length as the shortest has steps, and each piece is its mean.
    """
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for group, arrays, _ in load_groups(directory, settings):
        for name, values in arrays.items():
            if name.startswith("train_"):
                of_shots = found.setdefault(group.rpartition("-")[0], {})
                of_shots.setdefault(name.removeprefix("train_"), []).append(values)
    in_order = sorted(found, key=lambda shots: (not shots.isdecimal(), len(shots), shots))
    return {s: {name: np.concatenate(_of_one_length(values)) for name, values in found[s].items()} for s in in_order}


def _of_one_length(histories: Sequence[np.ndarray]) -> list[np.ndarray]:
    shortest = min(values.shape[1] for values in histories)
    if all(values.shape[1] == shortest for values in histories):
        return list(histories)
    return [
        np.stack([piece.mean(axis=1) for piece in np.array_split(values, shortest, axis=1)], axis=1)
        for values in histories
    ]


def save_maps(
    directory: pathlib.Path,
    run: Run,
    records: Sequence[Record],
    distances: np.ndarray,
    scales: np.ndarray,
    maps: Maps,
) -> None:
    """Writes a run's fused anomaly maps as float32 TIFFs of the sizes of the samples' images.

    The files lie under `maps/<shots>/<category>/seed-<seed>/` at the samples' ids.
    """
    folder = directory / "maps" / str(run.shots) / run.category / f"seed-{run.seed}"
    for record, of_sample in zip(records, distances, strict=True):
        with atomic.replacing(folder / f"{record.id}.tiff") as file:
            tifffile.imwrite(file, maps.fused(of_sample, scales, record.source.size()).astype(np.float32))


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def load_params(directory: pathlib.Path, name: str, structure: Any = None) -> Any:
    """Trained parameters of a finished group, a tree of arrays with the run axis first.

    Args:
      directory: of the study.
      name: of the group.
      structure: a tree of the wanted types; without, tuples come back as lists.
    """
    with _checkpointer() as checkpointer:
        params = checkpointer.restore(directory.resolve() / "params" / name)
    if structure is None:
        return params
    return jax.tree.unflatten(jax.tree.structure(structure), jax.tree.leaves(params))


def _checkpointer() -> ocp.Checkpointer:
    """Saves host arrays of this process alone, without a word to others."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


class GroupCheckpoint:
    """The state of a group's training, kept every few minutes; see `train.Checkpoint`.

    Attributes:
      directory: holds one folder per kept step, the last of which counts.
    """

    def __init__(self, directory: pathlib.Path, name: str, settings: Mapping[str, Any], seconds: float):
        """Prepares the checkpoints of a group.

        Args:
          directory: of the study.
          name: of the group.
          settings: of the study, and its runs; states of others are not continued.
          seconds: least time between two of them.
        """
        self.directory = directory.resolve() / "checkpoints" / name
        self._study = _digest(settings)
        self._seconds = seconds
        self._last = time.monotonic()

    def restore(self) -> tuple[int, list[np.ndarray], dict[str, np.ndarray]] | None:
        """Steps done, leaves of the state and metrics so far; None where nothing usable is kept."""
        for path in sorted(self.directory.glob("[0-9]*"), reverse=True):
            try:
                with _checkpointer() as checkpointer:
                    kept = checkpointer.restore(path)
                if kept["study"] == self._study:
                    leaves = [kept["leaves"][key] for key in sorted(kept["leaves"])]
                    return int(path.name), leaves, dict(kept["history"])
            # A folder that a killed process left half-written or half-deleted.
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def save(self, steps: int, leaves: Callable[[], list[np.ndarray]], history: Mapping[str, np.ndarray]) -> None:
        """Keeps a state if the last one is old enough.

        Raises:
          InputError: if it cannot be written.
        """
        if time.monotonic() - self._last < self._seconds:
            return
        kept = {
            "leaves": {f"{i:05d}": leaf for i, leaf in enumerate(leaves())},
            "history": dict(history),
            "study": self._study,
        }
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(self.directory / f"{steps:08d}", kept, force=True)
        # Orbax reports a full disk as a ValueError.
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.directory}: cannot be written ({reason}); make room and run again") from error
        for path in self.directory.glob("[0-9]*"):
            if path.name < f"{steps:08d}":
                shutil.rmtree(path, ignore_errors=True)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forgets all that is kept; the group has finished."""
        shutil.rmtree(self.directory, ignore_errors=True)
