"""`dataset.toml`: what the files of one's own parts do not tell, the camera and the units."""

import dataclasses
import os
import pathlib
import tomllib

from pirn_jax.data.problems import InputError
from pirn_jax.data.scans import Intrinsics

NAME = "dataset.toml"

_REQUIRED = {"depth": ("scale", "fx", "fy"), "xyz": ()}
_OPTIONAL = {"depth": ("cx", "cy"), "xyz": ("unit",)}
_ABOVE_ZERO = ("scale", "fx", "fy", "unit")
_ENDLESS = 1e9
"""Beyond any number that a camera or a unit has."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Content of a `dataset.toml`.

    Attributes:
      path: the file, whether it exists or not, for messages.
      intrinsics: camera of the depth images; None where nothing is said of it.
      scale: metres in one unit of the depth images.
      unit: metres in one unit of the xyz images and clouds.
    """

    path: pathlib.Path
    intrinsics: Intrinsics | None = None
    scale: float = 1.0
    unit: float = 1.0

    def camera(self) -> Intrinsics:
        """Camera of the depth images.

        Raises:
          InputError: with the lines to write, if nothing is said of it.
        """
        if self.intrinsics is None:
            raise InputError(
                f"{self.path}: depth images need a camera; write these lines with its numbers:\n"
                "    [depth]\n    scale = 0.001  # metres in one unit of the files\n"
                "    fx = 900.0  # focal lengths in pixels\n    fy = 900.0"
            )
        return self.intrinsics


def read(path: pathlib.Path) -> Settings:
    """Reads a `dataset.toml`; without one, what holds by default.

    Raises:
      InputError: naming the file, the key, the value and the remedy, if something in it cannot be used.
    """
    if not os.path.isfile(path):
        return Settings(path)
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({error}); correct that line") from error
    _check_names(path, "table", tables, tuple(_REQUIRED))
    depth, xyz = (_numbers(path, name, tables.get(name)) for name in ("depth", "xyz"))
    scale = depth.pop("scale", 1.0)
    return Settings(path, Intrinsics(**depth) if depth else None, scale, xyz.get("unit", 1.0))


def _numbers(path: pathlib.Path, name: str, table: object) -> dict[str, float]:
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise InputError(f"{path}: {name} = {table!r} is no table; write [{name}] and its keys below")
    _check_names(path, f"key of [{name}]", table, _REQUIRED[name] + _OPTIONAL[name])
    for key in _REQUIRED[name]:
        if key not in table:
            raise InputError(f"{path}: [{name}] has no {key}; add a line {key} = <number>")
    return {key: _number(path, f"[{name}] {key}", key, value) for key, value in table.items()}


def _number(path: pathlib.Path, label: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _ENDLESS:
        raise InputError(f"{path}: {label} = {value!r} is no number; write it as 0.001 or 900.0, without quotes")
    if key in _ABOVE_ZERO and value <= 0:
        raise InputError(f"{path}: {label} = {value!r} is not above zero; give it in metres per unit, or pixels")
    return float(value)


def _check_names(path: pathlib.Path, kind: str, found: dict[str, object], known: tuple[str, ...]) -> None:
    for name in found:
        if name not in known:
            raise InputError(f"{path}: unknown {kind} {name!r}; there are {', '.join(known)}")
