"""Training of a group of runs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax.methods.base import Method, Recipe
from pirn_jax.study.data import StudyData
from pirn_jax.study.stages import Stage
from pirn_jax.training import episodes, parallel, train, validation
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import Programs

_LONG_EPOCH = 1.0
"""Seconds from which an epoch's time is told."""


class Group(NamedTuple):
    """Runs of one number of shots that train together.

    Attributes:
      name: of its files.
      runs: the runs.
      size: of all groups with this number of shots; a short one is padded to it.
      title: shown with its progress.
    """

    name: str
    runs: list[Run]
    size: int
    title: str

    @property
    def padded(self) -> list[Run]:
        """The runs, the last one repeated, so that all groups have one shape and share one program."""
        return (self.runs + self.runs[-1:] * self.size)[: self.size]


def train_group(
    group: Group,
    data: StudyData,
    programs: Programs,
    recipe: Recipe | None,
    stage: Stage,
    checkpoint: train.Checkpoint | None = None,
    support: int | None = None,
) -> tuple[train.Trained, dict[str, np.ndarray]]:
    """Trained runs of the padded group, and the metrics of the training, (runs, steps) each; see `train.train`.

    Raises:
      FloatingPointError: if a loss is not finite.
    """
    category, chosen = data.indices(group.padded)
    parts = chosen.shape[1]
    steps = 1 if recipe is None else episodes.count_steps(parts, recipe.epochs, recipe.batch_size)
    title = "training" if programs.steps else "fitting"
    with stage(f"{title} {group.title}", steps) as advance:
        progress = advance if recipe is None else _with_epochs(advance, parts / recipe.batch_size)
        trained, history = train.train(
            programs, group.padded, data.train.features, category, chosen, recipe, progress, checkpoint, support
        )
        if programs.steps is None:
            jax.block_until_ready([parallel.pick(piece, lambda tree: tree) for piece in trained.params])
            advance(1)
    return trained, {name: values[: len(group.runs)] for name, values in history.items()}


def _with_epochs(advance: Callable[..., None], steps: float) -> Callable[[int, float], None]:
    """Progress that tells the seconds an epoch of so many steps takes, where they are worth a word.

    The first call is left out, which compiles.
    """
    begin, done = None, 0

    def told(count: int, loss: float) -> None:
        nonlocal begin, done
        now = time.monotonic()
        if begin is None:
            begin = now
            advance(count, loss)
            return
        done += count
        seconds = (now - begin) * steps / done
        advance(count, loss, f"{seconds:.1f} s an epoch" if seconds >= _LONG_EPOCH else "")

    return told


def validate_group(group: Group, trained: train.Trained, data: StudyData, method: Method) -> list[float]:
    """Each run's loss on the validation split, see `validation.loss_of`; empty where there is none to take."""
    count = 0 if data.validation is None else len(data.validation.paths)
    if data.validation is None or method.loss is None or not count:
        return []
    category, _ = data.indices(group.padded)
    found = validation.loss_of(method.loss, trained, group.padded, data.validation, category, count)
    return found[: len(group.runs)].tolist()


def host_params(group: Group, trained: train.Trained) -> Any:
    """Parameters of the group's runs as NumPy arrays."""
    return jax.tree.map(lambda x: x[: len(group.runs)], parallel.collect(trained.params))
