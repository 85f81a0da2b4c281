"""Episodes: the good parts of each run, and the order of its batches."""

import zlib
from typing import NamedTuple

import numpy as np

from pirn_jax.data.problems import InputError


class Run(NamedTuple):
    """One training: a category, a number of good parts, a seed."""

    category: str
    shots: int
    seed: int


def generator(run: Run, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the run's category and seed and on the purpose, and on nothing else."""
    names = [zlib.crc32(text.encode("utf-8", "surrogateescape")) for text in (run.category, purpose)]
    return np.random.default_rng([run.seed, *names])


def draw(run: Run, available: int) -> np.ndarray:
    """Draws the good parts of a run without replacement, as indices into the sorted train split.

    With one seed, fewer shots are a subset of more: the parts are the first of one shuffled order.

    Raises:
      InputError: if fewer parts are available than shots asked for.
    """
    if run.shots > available:
        raise InputError(
            f"{run.category}: {run.shots} shots asked for, but only {available} good parts to draw from; "
            "lower --shots or add parts"
        )
    return generator(run, "episode").permutation(available)[: run.shots]


def batches(run: Run, epochs: int, batch_size: int) -> np.ndarray:
    """Order in which a run sees the parts of its episode, (steps, batch_size) of positions in the episode.

    Every epoch is a new permutation; permutations follow one another without a gap and are cut into batches, so each
    part is seen `epochs` times; the last batch is filled from further ones.
    """
    steps = -(-epochs * run.shots // batch_size)
    rng = generator(run, "batches")
    rounds = max(1, -(-steps * batch_size // run.shots))
    order = np.concatenate([rng.permutation(run.shots) for _ in range(rounds)])
    return order[: steps * batch_size].reshape(steps, batch_size)
