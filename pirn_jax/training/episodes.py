"""Episodes: the good parts of each run, and the order of its batches."""

import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pirn_jax.data.problems import InputError

ALL = "all"
"""In place of a number of shots: every good part of a category."""

Shots = int | str
"""A number of good parts, or `ALL`."""


class Run(NamedTuple):
    """One training: a category, a number of good parts or `ALL`, a seed."""

    category: str
    shots: Shots
    seed: int


def most(shots: Iterable[Shots]) -> Shots:
    """The largest of some numbers of shots; `ALL` exceeds them."""
    return max(shots, key=lambda some: (some == ALL, 0 if some == ALL else some))


def generator(run: Run, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the run's category and seed and on the purpose, and on nothing else."""
    names = [zlib.crc32(text.encode("utf-8", "surrogateescape")) for text in (run.category, purpose)]
    return np.random.default_rng([run.seed, *names])


def draw(run: Run, available: int) -> np.ndarray:
    """Draws the good parts of a run without replacement, as indices into the sorted train split.

    With one seed, fewer shots are a subset of more: the parts are the first of one shuffled order, which is the episode
    of `ALL`.

    Raises:
      InputError: if fewer parts are available than shots asked for, or none.
    """
    if run.shots == ALL and available:
        return generator(run, "episode").permutation(available)
    if run.shots == ALL or int(run.shots) > available:
        raise InputError(
            f"{run.category}: {run.shots} shots asked for, but only {available} good parts to draw from; "
            "lower --shots or add parts"
        )
    return generator(run, "episode").permutation(available)[: int(run.shots)]


def count_steps(parts: int, epochs: int, batch_size: int) -> int:
    """Steps of a training on an episode of so many parts."""
    return -(-epochs * parts // batch_size)


def batches(run: Run, epochs: int, batch_size: int, parts: int | None = None) -> np.ndarray:
    """Order in which a run sees the parts of its episode, (steps, batch_size) of positions in the episode.

    Every epoch is a new permutation; permutations follow one another without a gap and are cut into batches, so each
    part is seen `epochs` times; the last batch is filled from further ones.

    Args:
      run: the run.
      epochs: passes over the episode.
      batch_size: samples a step.
      parts: of the episode, by default the run's number of shots.
    """
    parts = int(run.shots) if parts is None else parts
    steps = count_steps(parts, epochs, batch_size)
    rng = generator(run, "batches")
    rounds = max(1, -(-steps * batch_size // parts))
    order = np.concatenate([rng.permutation(parts) for _ in range(rounds)])
    return order[: steps * batch_size].reshape(steps, batch_size)
