"""A study from samples to results."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from pirn_jax import atomic
from pirn_jax.data.sample import Splits
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study import data, groups, results, selection, storage
from pirn_jax.study.groups import FinishedGroup
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage

CHECKPOINT_SECONDS = 120.0
"""Time between two checkpoints within a group of runs (our choice)."""


def run(
    spec: Spec,
    splits: dict[str, Splits],
    output: pathlib.Path,
    stage: Stage,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    memory: int = data.MEMORY_BYTES,
) -> tuple[dict[str, Any], list[FinishedGroup]]:
    """Runs or continues a study.

    Args:
      spec: the study.
      splits: the samples of each category.
      output: directory that finished groups are kept in.
      stage: shows progress.
      checkpoint_seconds: least time between two checkpoints within a group.
      memory: bytes for features that are read from the cache as they are needed, where runs learn from every good part.

    Returns:
      The content of `results.json`, and the groups.

    Raises:
      InputError: if a sample cannot be used, there are too few, or the directory belongs to another study, or another
        process has ended.
      FloatingPointError: if a loss is not finite.
    """
    return next(run_all({output: spec}, splits, stage, checkpoint_seconds, memory))


def run_all(
    specs: Mapping[pathlib.Path, Spec],
    splits: dict[str, Splits],
    stage: Stage,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    memory: int = data.MEMORY_BYTES,
) -> Iterator[tuple[dict[str, Any], list[FinishedGroup]]]:
    """Runs or continues several studies of the same samples, which share features and compiled programs.

    Args:
      specs: by directory; they differ in hyperparameters at most.
      splits: the samples of each category.
      stage: shows progress.
      checkpoint_seconds: see `run`.
      memory: see `run`.

    Yields:
      What `run` returns, study by study.

    Raises:
      ValueError: if specs differ in more.
      InputError: see `run`; before anything is computed.
      FloatingPointError: if a loss is not finite.
    """
    first = next(iter(specs.values()))
    chosen = selection.select(first, splits, stage)
    settings = {output: chosen.describe(spec) for output, spec in specs.items()}
    # Which of them are not the paper's follows from their values.
    free = {*first.hyperparameters(), "our_choices"}
    shared = {key: value for key, value in chosen.describe(first).items() if key not in free}
    for output, described in settings.items():
        other = [name for name, value in shared.items() if described[name] != value]
        if other:
            raise ValueError(f"studies that run together differ in {', '.join(other)}")
        storage.check(output, described)
        atomic.sweep(output)
    loaded = data.load(list(specs.values()), chosen, stage, memory)
    for output, spec in specs.items():
        method = spec.build()
        with Stopwatch() as watch:
            own = loaded.stored_in(method.precision)
            schedule = groups.Schedule(spec, method, settings[output], own, output, stage, watch, checkpoint_seconds)
            finished = groups.run_all(schedule)
        yield results.collect(spec, settings[output], own, finished), finished
