"""Flags of the hyperparameters, each with one value or several; several make a grid of settings."""

import dataclasses
from typing import Any

from absl import flags

from pirn_jax import pirn
from pirn_jax.data.problems import InputError
from pirn_jax.protocol.training import Recipe
from pirn_jax.report import sweep

PRESETS = {
    # Our choice for the built-in parts, within the minutes of a laptop: fewer and larger steps than the paper's.
    "default": (pirn.Config(), Recipe(epochs=40, learning_rate=1e-3, batch_size=4)),
    # The paper where it speaks: Sec. 4 for K, L, epochs and learning rate, Eq. 5 for the injection. Rows of the plan
    # are normalised: together with this injection, Eq. 2 as printed makes the decoder an identity map.
    "paper": (pirn.Config(injection="paper"), Recipe()),
}

_PARSERS = {int: flags.IntegerParser, float: flags.FloatParser, str: flags.ArgumentParser, bool: flags.BooleanParser}


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


flags.DEFINE_enum("preset", "default", list(PRESETS), "Where hyperparameters that no flag sets come from.")
_FIELDS = [(part, field) for part in PRESETS["default"] for field in dataclasses.fields(part)]
for _part, _field in _FIELDS:
    _default = getattr(_part, _field.name)
    _parser, _serializer = _Values(type(_default)), flags.CsvListSerializer(",")
    _help = f"See {type(_part).__name__}; default {_default}."
    flags.DEFINE_flag(flags.Flag(_parser, _serializer, _field.name, None, _help, boolean=type(_default) is bool))
"""Hyperparameters are flags of the same name; None is the preset's value."""

FLAGS = flags.FLAGS


def _given() -> dict[str, tuple]:
    values = {field.name: FLAGS[field.name].value for _, field in _FIELDS}
    return {name: some for name, some in values.items() if some is not None}


def grid() -> dict[str, tuple]:
    """Values of the hyperparameters that were given several, by name."""
    return {name: values for name, values in _given().items() if len(values) > 1}


def cells() -> dict[str, tuple[pirn.Config, Recipe]]:
    """Settings of each cell of the grid by its name; without a grid there is one cell, named "".

    Raises:
      InputError: if values cannot go together.
    """
    fixed = {name: values[0] for name, values in _given().items()}
    found = {}
    for name, chosen in sweep.cells(grid()).items():
        try:
            config, recipe = (_replace(part, fixed | chosen) for part in PRESETS[FLAGS.preset])
        except ValueError as error:
            raise InputError(": ".join(filter(None, [name, str(error)]))) from error
        found[name] = config, recipe
    return found


def _replace(part: Any, values: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: value for name, value in values.items() if name in names})
