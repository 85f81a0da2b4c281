"""Cache of the encoder's inputs and of features, under names that tell what made them; it may be deleted any time."""

import os
import pathlib
from typing import NamedTuple

import numpy as np

from pirn_jax import atomic


class Prepared(NamedTuple):
    """Inputs of the encoder, or features, of one sample.

    Attributes:
      values: the array.
      mask: pixels or patches of it that show the part.
      note: a sentence for the user without the sample's name; empty if there is nothing to say.
    """

    values: np.ndarray
    mask: np.ndarray
    note: str


def cache_directory() -> pathlib.Path:
    """`$PIRN_CACHE`, or `~/.cache/pirn_jax`."""
    return pathlib.Path(os.environ.get("PIRN_CACHE") or pathlib.Path.home() / ".cache" / "pirn_jax")


def path(home: pathlib.Path, kind: str, name: str) -> pathlib.Path:
    """Path of an entry of the cache in a directory."""
    return home / kind / name[:2] / f"{name}.npz"


def load(path: pathlib.Path, values: bool = True) -> Prepared | None:
    """An entry of the cache; None, which has it computed, where there is no whole and readable file.

    Without `values` these are empty and not read.
    """
    arrays = atomic.load_arrays(path, () if values else ("values",))
    if arrays is None or arrays.keys() != {"mask", "note", *["values"] * values}:
        return None
    return Prepared(arrays["values"] if values else np.zeros(0), arrays["mask"], str(arrays["note"]))


def save(path: pathlib.Path, entry: Prepared) -> None:
    """Puts an entry into the cache; where that can only be read, the entry is computed anew each time."""
    try:
        with atomic.replacing(path) as file:
            np.savez(file, values=entry.values, mask=entry.mask, note=np.array(entry.note))
    except OSError as error:
        if error.errno not in atomic.READ_ONLY:
            raise
