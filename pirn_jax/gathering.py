"""What the runs of a study stand on: which parts they draw, and the features of these and of the test parts."""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax import cache, features, inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.protocol import episodes, parallel
from pirn_jax.protocol.episodes import Run
from pirn_jax.spec import Spec, describe
from pirn_jax.stopwatch import Stopwatch

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""`with stage(title, total) as advance: advance(count, text)`: how progress is shown."""


class Drawn(NamedTuple):
    """The parts of a study, each of them found to be usable.

    Attributes:
      splits: all parts of each category.
      episodes: per run, the good parts that it learns from, as indices into the train split.
      good: per category, in rising order the indices that any run draws.
      records: the parts that features are needed of: those good ones and the test parts, category by category.
      names: of the parts' inputs.
      digest_of: what stands for all bytes that can change a number, a text for each thing.
      unmarked: what there is to say of each part's ground truth.
    """

    splits: dict[str, Splits]
    episodes: dict[Run, np.ndarray]
    good: dict[str, list[int]]
    records: list[Record]
    names: list[str]
    digest_of: list[str]
    unmarked: list[str]

    def describe(self, spec: Spec) -> dict[str, Any]:
        """The settings of a study of these parts."""
        return describe(spec, list(self.splits), self.digest_of)


class Gathered(NamedTuple):
    """What studies of the same parts share.

    Attributes:
      drawn: the parts.
      train: (categories, parts, 2, n, c) features of the good parts that any run draws, filled up with zeros.
      position: per category, from index in the train split to index in `train`.
      test: (categories, parts, 2, n, c) features of the test parts, filled up with zeros.
      notes: what the user should know of the parts.
      seconds: by stage, what gathering took.
    """

    drawn: Drawn
    train: jax.Array
    position: dict[str, dict[int, int]]
    test: jax.Array
    notes: list[str]
    seconds: dict[str, float]

    def stored_in(self, precision: str) -> "Gathered":
        """The same with features of this precision; nothing is copied where they have it."""
        return self._replace(train=self.train.astype(precision), test=self.test.astype(precision))


def draw(spec: Spec, splits: dict[str, Splits], stage: Stage) -> Drawn:
    """Draws the episodes of all runs and identifies the parts that they need.

    Raises:
      InputError: if there are too few good parts; if parts cannot be used, with all of them.
    """
    runs = [Run(category, shots, seed) for shots in spec.shots for category in splits for seed in range(spec.seeds)]
    drawn = {run: episodes.draw(run, len(splits[run.category].train)) for run in runs}
    good = {c: sorted({int(i) for run in runs if run.category == c for i in drawn[run]}) for c in splits}
    records = [part for c, split in splits.items() for part in (*(split.train[i] for i in good[c]), *split.test)]
    with stage("reading files", len(records)) as advance:
        names, masks, unmarked = _identify(spec, records, advance)
    ids = [f"{run} {[splits[run.category].train[i].id for i in chosen]}" for run, chosen in drawn.items()]
    return Drawn(splits, drawn, good, records, names, [*names, *masks, *ids], unmarked)


def gather(specs: Sequence[Spec], drawn: Drawn, stage: Stage) -> Gathered:
    """Computes the parts' features, or reads them from the cache, and puts them on the device.

    Args:
      specs: of studies that differ in config and recipe at most. Features are stored as narrow as all of them allow.
      drawn: the parts.
      stage: how to show progress.

    Raises:
      InputError: if parts cannot be used, with all of them.
    """
    spec, dtype = specs[0], jnp.result_type(*(spec.config.precision for spec in specs))
    with Stopwatch() as watch, stage("normals and features", len(drawn.records)) as advance:
        values, notes = features.extract(
            drawn.records, drawn.names, spec.encoder, spec.preparation, cache.cache_directory(), watch, advance
        )
    by_record = dict(zip(drawn.records, values, strict=True))
    good = [[by_record[drawn.splits[c].train[i]] for i in indices] for c, indices in drawn.good.items()]
    test = [[by_record[part] for part in split.test] for split in drawn.splits.values()]
    told = inputs.summarise(drawn.records, notes) + inputs.summarise(drawn.records, drawn.unmarked)
    return Gathered(
        drawn,
        parallel.everywhere(jax.device_put(_fill_up(good, dtype))),
        {c: {index: i for i, index in enumerate(indices)} for c, indices in drawn.good.items()},
        parallel.everywhere(jax.device_put(_fill_up(test, dtype))),
        told,
        dict(watch.seconds),
    )


def _identify(
    spec: Spec, records: Sequence[Record], advance: Callable[[int], None]
) -> tuple[list[str], list[str], list[str]]:
    """Names of the parts' inputs, digests of their ground truth, and what the user should know of that.

    What cannot be used is found before anything is computed, and all of it is told at once.
    """
    problems, names, masks, notes = Problems(), [], [], []
    for part in records:
        names += inputs.identify([part], spec.preparation, problems)
        mask = None
        with problems.collecting():
            mask = sample.load_gt(part)
        masks.append("none" if mask is None else hashlib.sha256(np.packbits(mask).tobytes()).hexdigest())
        notes.append(sample.UNMARKED if mask is None else "")
        advance(1)
    if problems.found:
        sample.tell_all((part for part, name in zip(records, names, strict=True) if name), problems)
    return names, masks, notes


def _fill_up(lists: Sequence[Sequence[np.ndarray]], dtype: np.dtype) -> np.ndarray:
    """(lists, longest, ...) of arrays of one shape, zeros where a list is shorter."""
    filled = np.zeros((len(lists), max(map(len, lists)), *lists[0][0].shape), dtype)
    for row, arrays in zip(filled, lists, strict=True):
        row[: len(arrays)] = arrays
    return filled
