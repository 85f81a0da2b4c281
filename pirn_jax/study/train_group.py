"""Training of a group of runs."""

from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax.methods.base import Recipe
from pirn_jax.study.data import Stage, StudyData
from pirn_jax.training import episodes, parallel, train
from pirn_jax.training.episodes import Run


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
    programs: train.Programs,
    recipe: Recipe | None,
    stage: Stage,
    checkpoint: train.Checkpoint | None = None,
) -> tuple[train.Trained, dict[str, np.ndarray]]:
    """Trained runs of the padded group, and the metrics of the training, (runs, steps) each.

    Raises:
      FloatingPointError: if a loss is not finite.
    """
    category, chosen = data.indices(group.padded)
    steps = 1 if recipe is None else len(episodes.batches(group.runs[0], recipe.epochs, recipe.batch_size))
    title = "training" if programs.steps else "fitting"
    with stage(f"{title} {group.title}", steps) as advance:
        trained, history = train.train(
            programs, group.padded, data.train.features, category, chosen, recipe, advance, checkpoint
        )
        if programs.steps is None:
            jax.block_until_ready([parallel.pick(piece, lambda tree: tree) for piece in trained.params])
            advance(1)
    return trained, {name: values[: len(group.runs)] for name, values in history.items()}


def host_params(group: Group, trained: train.Trained) -> Any:
    """Parameters of the group's runs as NumPy arrays."""
    return jax.tree.map(lambda x: x[: len(group.runs)], parallel.collect(trained.params))
