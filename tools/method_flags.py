"""Flags of methods and presets: every field of a method's Config, with one value or several; several make a grid."""

import dataclasses
import re
from typing import Any

from absl import flags

from pirn_jax import methods
from pirn_jax.data.problems import InputError
from pirn_jax.methods import METHODS
from pirn_jax.methods.base import Preset, Recipe
from pirn_jax.study import grid as grids

_PARSERS = {int: flags.IntegerParser, float: flags.FloatParser, str: flags.ArgumentParser, bool: flags.BooleanParser}
_OPTIMISER = "optimiser"
_PRESETS = list(dict.fromkeys(preset for entry in METHODS.values() for preset in entry.presets))


class _Values(flags.ArgumentParser):
    """Values of one type, separated by commas."""

    def __init__(self, of: type):
        self._of = of
        self.syntactic_help = f"{of.__name__}, or several separated by commas"

    def parse(self, argument: Any) -> tuple:
        if isinstance(argument, tuple):
            return argument
        values = tuple(_PARSERS[self._of]().parse(text.strip()) for text in str(argument).split(","))
        if len(set(values)) < len(values):
            raise ValueError("a value is given twice")
        return values

    def flag_type(self) -> str:
        return self.syntactic_help


flags.DEFINE_string("method", "pirn", f"Method: {', '.join(METHODS)}.")
flags.DEFINE_string(
    "preset", "default", f"Where settings that no flag gives come from; by method one of {', '.join(_PRESETS)}."
)
_OWNERS: dict[str, list[str]] = {}
"""Methods that have a hyperparameter, or `_OPTIMISER`, by its name."""


def _documented(config: type) -> dict[str, str]:
    """The attributes of a docstring by name."""
    text = (config.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^\s{4,6}(\w+): (.+?)(?=^\s{4,6}\w+: |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: " ".join(words.split()) for name, words in found}


def _define() -> None:
    configs = {name: entry.presets["default"].config for name, entry in METHODS.items()} | {_OPTIMISER: Recipe()}
    texts: dict[str, list[str]] = {}
    kinds: dict[str, type] = {}
    for owner, config in configs.items():
        documented = _documented(type(config))
        for field in dataclasses.fields(config):
            _OWNERS.setdefault(field.name, []).append(owner)
            kinds[field.name] = type(getattr(config, field.name))
            default = "" if owner == _OPTIMISER else f" (default {getattr(config, field.name)})"
            texts.setdefault(field.name, []).append(f"{owner}: {documented.get(field.name, '')}{default}")
    for name, owners in _OWNERS.items():
        parser, kind = _Values(kinds[name]), kinds[name]
        text = texts[name][0].partition(": ")[2] if len(owners) == 1 else " ".join(texts[name])
        flag = flags.Flag(parser, flags.CsvListSerializer(","), name, None, text, boolean=kind is bool)
        flags.DEFINE_flag(flag, module_name=help_group(owners))


def help_group(owners: list[str]) -> str:
    """Heading of flags in `--help`."""
    return "optimiser, of methods that learn by gradient descent" if owners == [_OPTIMISER] else " and ".join(owners)


_define()
FLAGS = flags.FLAGS


def help_groups() -> list[str]:
    """Headings of all hyperparameters in `--help`."""
    return list(dict.fromkeys(map(help_group, _OWNERS.values())))


def preset() -> Preset:
    """The preset that is asked for.

    Raises:
      InputError: listing the choices, if there is no such method or preset.
    """
    try:
        return methods.choose(FLAGS.method, FLAGS.preset)
    except ValueError as error:
        raise InputError(str(error)) from error


def apply_preset() -> None:
    """Gives flags that the preset fixes its values, where the command has them and they are not given."""
    for name, value in preset().flags.items():
        if name in FLAGS and not FLAGS[name].present:
            FLAGS[name].value = value


def _given() -> dict[str, tuple]:
    """Values of the hyperparameters that are given.

    Raises:
      InputError: if one belongs to another method.
    """
    values = {name: value for name in _OWNERS if (value := FLAGS[name].value) is not None}
    mine = preset()
    owners = {FLAGS.method} | ({_OPTIMISER} if mine.recipe is not None else set())
    for name in values:
        if not owners & set(_OWNERS[name]):
            reason = (
                f"{FLAGS.method} learns nothing by gradient descent"
                if _OWNERS[name] == [_OPTIMISER]
                else f"a hyperparameter of {' and '.join(_OWNERS[name])}, not of {FLAGS.method}"
            )
            raise InputError(f"--{name}: {reason}; leave it out")
    return values


def grid() -> dict[str, tuple]:
    """Values of the hyperparameters that were given several, by name."""
    return {name: values for name, values in _given().items() if len(values) > 1}


def single() -> tuple[Any, Recipe | None]:
    """Config and recipe where each hyperparameter has one value.

    Raises:
      InputError: if one was given several, or values cannot go together.
    """
    for name in grid():
        raise InputError(f"--{name}: give a single value")
    return cells()[""]


def cells() -> dict[str, tuple[Any, Recipe | None]]:
    """Config and recipe of each cell of the grid by its name; without a grid there is one cell, named "".

    Raises:
      InputError: if values cannot go together.
    """
    fixed = {name: values[0] for name, values in _given().items()}
    found, mine = {}, preset()
    for name, chosen in grids.cells(grid()).items():
        try:
            config = _replace(mine.config, fixed | chosen)
            recipe = None if mine.recipe is None else _replace(mine.recipe, fixed | chosen)
        except ValueError as error:
            raise InputError(": ".join(filter(None, [name, str(error)]))) from error
        found[name] = config, recipe
    return found


def _replace(part: Any, values: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: value for name, value in values.items() if name in names})
