"""Loss of parts that no step has seen. It is told, and chooses nothing."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from pirn_jax import threads
from pirn_jax.methods import base
from pirn_jax.methods.base import Features
from pirn_jax.training import parallel, train, windows
from pirn_jax.training.episodes import Run
from pirn_jax.training.windows import Source

_BATCH = 16
"""Parts in one call of the program."""


@functools.lru_cache
def _compile(loss: Callable) -> parallel.Program:
    """Builds `(learned, fixed, features, category, samples (b,), keys (runs,)) -> losses (runs, b)`."""

    def losses(learned: Any, fixed: Any, features: Features, category: Array, samples: Int[Array, " b"], key: Array):
        def of_part(i: Array) -> Float[Array, ""]:
            return loss(learned, fixed, base.take(features, category, i[None]), jax.random.fold_in(key, i))[0]

        return jax.lax.map(of_part, samples)

    return parallel.Program(losses, (0, 0, None, 0, None, 0), (None,) * 6)


def loss_of(
    loss: Callable,
    trained: train.Trained,
    runs: Sequence[Run],
    features: Features | Source,
    category: Int[np.ndarray, " r"],
    count: int,
) -> Float[np.ndarray, " r"]:
    """Mean over parts of each run's loss of the part alone, as the training takes it, dropout included.

    Args:
      loss: see `Method.loss`.
      trained: the runs' parameters.
      runs: the runs.
      features: of the parts.
      category: index of each run's category in `features`.
      count: of the parts.
    """
    program, keys, found = _compile(loss), train.run_keys(runs, "validation"), []
    for start in range(0, count, _BATCH):
        samples = np.minimum(np.arange(start, start + _BATCH), count - 1)
        held, places = windows.window(features, samples)

        def losses(learned: Any, fixed: Any, share: slice, held=held, places=places) -> np.ndarray:
            return parallel.collect([program(learned, fixed, held, category[share], places, keys[share])])

        shares = parallel.shares(len(runs))
        found.append(np.concatenate(threads.each(losses, trained.learned, trained.fixed, shares)))
    return np.concatenate(found, axis=1)[:, :count].mean(1)
