"""Features of all parts of a category, read from the cache as steps and scores need them: memory has a bound."""

import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax import cache, features, scoring
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Record, Splits
from pirn_jax.methods.base import Features
from pirn_jax.study import packing
from pirn_jax.study.spec import MODALITIES, Spec
from pirn_jax.training import windows

_SCORED = 16
"""Test samples in one window."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Some samples of a category, see `windows.Source`; packed as those of the whole study.

    Attributes:
      paths: their entries in the cache.
      kept: patches that are kept, see `packing.order`.
      shown: which of these show the part.
      modalities: those that are taken, by place in the entries.
      shape: of a sample's packed values.
      dtype: that they are converted to.
      most: samples of the largest category.
      room: of them stay in memory once they are read.
      memory: those that stay.
    """

    paths: Sequence[pathlib.Path]
    kept: Int[np.ndarray, "s p"]
    shown: Bool[np.ndarray, "s p"]
    modalities: Sequence[int]
    shape: tuple[int, ...]
    dtype: np.dtype
    most: int
    room: int
    memory: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    _lock: Any = dataclasses.field(default_factory=threading.Lock)

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def read(self, samples: Int[np.ndarray, " w"]) -> Features:
        """Their features, NumPy arrays with leading axes (1, w).

        Raises:
          InputError: if an entry of the cache is gone or damaged.
        """
        values = np.empty((1, len(samples), *self.shape), self.dtype)
        for row, i in enumerate(samples.tolist()):
            values[0, row] = values[0, row - 1] if row and i == samples[row - 1] else self._read(i)
        return Features(values, self.shown[samples][None])  # pyright: ignore

    def _read(self, i: int) -> np.ndarray:
        if (found := self.memory.get(i)) is not None:
            return found
        entry = cache.load(self.paths[i])
        if entry is None:
            raise InputError(
                f"{self.paths[i]}: gone from the cache or damaged while the study ran; run the same command again, "
                "which makes it anew"
            )
        packed = packing.pack(entry.values[None, list(self.modalities)], self.kept[i : i + 1])[0].astype(self.dtype)
        with self._lock:
            if len(self.memory) < self.room:
                self.memory[i] = packed
        return packed


class Streams(NamedTuple):
    """The samples of a category.

    Attributes:
      train: all good parts.
      validation: the data set's validation split.
      test: test samples.
    """

    train: Reader
    validation: Reader
    test: Reader


def streams(
    spec: Spec,
    splits: Mapping[str, Splits],
    names: Mapping[Record, str],
    kept: Int[np.ndarray, "s p"],
    masks: Bool[np.ndarray, "s n"],
    dtype: np.dtype,
    memory: int,
) -> dict[str, Streams]:
    """Readers of all samples of each category.

    Args:
      spec: the study.
      splits: the samples.
      names: of their inputs.
      kept: patches that are kept of each of these, see `packing.order`.
      masks: patches that show the part.
      dtype: that features are converted to.
      memory: bytes for good parts that stay in memory. Other samples are read once.
    """
    shown, row = np.take_along_axis(masks, kept, axis=1), {record: i for i, record in enumerate(names)}
    chosen = [MODALITIES.index(name) for name in spec.modalities]
    shape = len(chosen), len(spec.encoder.groups), kept.shape[1], spec.encoder.config.width
    room = memory // (int(np.prod(shape)) * np.dtype(dtype).itemsize)

    def path(record: Record) -> pathlib.Path:
        name = features.identify(names[record], spec.encoder, spec.grid)
        return cache.path(cache.cache_directory(), "features", name)

    def reader(split: Splits, part: str, room: int) -> Reader:
        records = getattr(split, part)
        rows, most = [row[record] for record in records], max(len(getattr(of, part)) for of in splits.values())
        return Reader(list(map(path, records)), kept[rows], shown[rows], chosen, shape, dtype, most, room)

    return {
        name: Streams(*(reader(of, part, room if part == "train" else 0) for part in Streams._fields))
        for name, of in splits.items()
    }


def score(
    program: Callable,
    params: Sequence[Any],
    found: Features | Reader,
    category: Int[np.ndarray, " r"],
    progress: Callable[[int], None],
) -> Float[np.ndarray, "r d k n"]:
    """`scoring.score`, window by window where features are read as they are needed."""
    if isinstance(found, Features):
        return scoring.score(program, params, found, category, progress)
    count, distances = len(found.paths), []

    def window(samples: np.ndarray) -> tuple[Features, np.ndarray]:
        return windows.window(found, samples)

    for held, places in windows.ahead(window, _cut(count)):
        progress(min(_SCORED, count - _SCORED * len(distances)))
        distances.append(scoring.score(program, params, held, category)[:, places])
    return np.concatenate(distances, axis=1)[:, :count]


def _cut(count: int) -> Iterator[np.ndarray]:
    """Indices in pieces of one size, the last one filled with the last index."""
    for start in range(0, count, _SCORED):
        yield np.minimum(np.arange(start, start + _SCORED), count - 1)
