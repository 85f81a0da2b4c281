"""Data sets by name: those of the catalogue, and any of them as tensorflow-datasets has it."""

import pathlib
from collections.abc import Sequence

from pirn_jax.data.catalogue import DATASETS, DataSet
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Splits

PREPARED = "tfds:"
"""Prefix of the names of data sets that tensorflow-datasets has prepared."""


def find(name: str) -> DataSet:
    """The data set of a name; `tfds:NAME` is one that tensorflow-datasets has prepared.

    Raises:
      InputError: if there is none of this name.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(PREPARED):
        return _prepared(name.removeprefix(PREPARED))
    raise InputError(f"--dataset={name}: unknown; choose from {', '.join(DATASETS)}, {PREPARED}NAME")


def _prepared(name: str) -> DataSet:
    # Importing it imports tensorflow-datasets where that is installed, which takes seconds.
    from pirn_jax.data import tfds

    def read(
        directory: pathlib.Path | None, categories: Sequence[str], options: Options, problems: Problems | None
    ) -> dict[str, Splits]:
        return tfds.read(name, directory, categories, options, problems)

    known = DATASETS.get(name.split("/")[0].removeprefix("pirn_"), DATASETS["folder"])
    return known._replace(read=read)
