"""A grid of hyperparameters: one study per cell, each in a folder of one output directory."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pirn_jax.data.problems import InputError
from pirn_jax.study import results, storage

PLAN = "sweep.json"
_SCHEMA = 1


class Grid(NamedTuple):
    """A grid, as far as it is finished.

    Attributes:
      parameters: values of the hyperparameters that change, by name.
      finished: content of `results.json` by the name of the cell, None where it is not finished.
    """

    parameters: dict[str, list]
    finished: dict[str, dict[str, Any] | None]


def cells(parameters: Mapping[str, Sequence]) -> dict[str, dict[str, Any]]:
    """All combinations of values, by a name such as "num_prototypes=6,epsilon=0.05", which is that of its folder."""
    grid = [dict(zip(parameters, values, strict=True)) for values in itertools.product(*parameters.values())]
    return {",".join(f"{name}={value}" for name, value in cell.items()): cell for cell in grid}


def write_plan(directory: pathlib.Path, parameters: Mapping[str, Sequence]) -> None:
    """Writes `sweep.json`: which hyperparameters change, and their values.

    Raises:
      InputError: if the directory holds another grid.
    """
    plan = {"schema": _SCHEMA, "parameters": {name: list(values) for name, values in parameters.items()}}
    path = directory / PLAN
    if path.exists() and _read_plan(path) != plan["parameters"]:
        raise InputError(f"{path}: holds a sweep over other values; choose another --output_dir")
    storage.write_json(path, plan)


def _read_plan(path: pathlib.Path) -> dict[str, list]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["schema"] == _SCHEMA:
            return dict(plan["parameters"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the command of the sweep again elsewhere") from error
    raise InputError(f"{path}: has schema {plan['schema']!r}, not {_SCHEMA}; use the version of pirn_jax that wrote it")


def read(directory: pathlib.Path) -> Grid:
    """The grid in a directory.

    Raises:
      InputError: if there is none, or a finished cell cannot be read.
    """
    parameters = _read_plan(directory / PLAN)
    paths = {name: directory / name for name in cells(parameters)}
    done = {name: (path / results.RESULTS).is_file() for name, path in paths.items()}
    return Grid(parameters, {name: results.read(paths[name]) if done[name] else None for name in paths})
