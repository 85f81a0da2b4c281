"""Samples of a study: the episodes of its runs, and what identifies the files that they need."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pirn_jax import inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.data.views import ORIGINAL
from pirn_jax.study.spec import Spec, describe
from pirn_jax.study.stages import Stage
from pirn_jax.training import episodes
from pirn_jax.training.episodes import ALL, Run


class Mask(NamedTuple):
    """A packed ground-truth mask.

    Attributes:
      bits: eight pixels a byte.
      size: (height, width).
    """

    bits: np.ndarray
    size: tuple[int, int]

    @property
    def share(self) -> float:
        """Of the image that it marks."""
        return int(np.bitwise_count(self.bits).sum()) / (self.size[0] * self.size[1])

    def unpack(self) -> np.ndarray:
        """The mask, (h, w) bool."""
        return np.unpackbits(self.bits, count=self.size[0] * self.size[1]).reshape(self.size).astype(bool)


class Draw(NamedTuple):
    """Good parts of a study, in all their views.

    Attributes:
      splits: all samples of each category; in the train split, all views of each good part one behind the other.
      episodes: per run, its good parts in all views as indices into the train split.
      good: per category, in rising order the indices that any run of a number of shots draws.
      learned: per category, the good parts whose features are needed, and with them the validation samples where a run
        takes every good part.
      views: of each good part.
    """

    splits: dict[str, Splits]
    episodes: dict[Run, np.ndarray]
    good: dict[str, list[int]]
    learned: dict[str, list[Record]]
    views: int = 1


class Selection(NamedTuple):
    """Samples of a study, each of them found to be usable.

    Attributes:
      drawn: the episodes.
      records: samples whose features are needed, category by category: those to learn from and the test samples.
      names: of the samples' inputs.
      masks: ground truth of each sample, None where nobody knows it.
      digests: of all bytes that can change a number.
    """

    drawn: Draw
    records: list[Record]
    names: list[str]
    masks: list[Mask | None]
    digests: list[str]

    def describe(self, spec: Spec) -> dict[str, Any]:
        """The settings of a study of these samples."""
        return describe(spec, list(self.drawn.splits), self.digests)


def seen(parts: Sequence[Record], spec: Spec) -> list[Record]:
    """All views of each good part, one behind the other."""
    return [dataclasses.replace(part, view=view) for part in parts for view in spec.views]


def draw(spec: Spec, splits: Mapping[str, Splits]) -> Draw:
    """Draws the episodes of all runs.

    Raises:
      InputError: if there are too few good parts.
    """
    runs = [Run(category, shots, seed) for shots in spec.shots for category in splits for seed in range(spec.seeds)]
    views = np.arange(len(spec.views))
    parts = {run: episodes.draw(run, len(splits[run.category].train)) for run in runs}
    drawn = {run: (len(views) * chosen[:, None] + views).ravel() for run, chosen in parts.items()}
    viewed = {c: dataclasses.replace(split, train=seen(split.train, spec)) for c, split in splits.items()}
    few = [run for run in runs if run.shots != ALL]
    good = {c: sorted({int(i) for run in few if run.category == c for i in drawn[run]}) for c in viewed}
    learned = {
        c: [*split.train, *split.validation] if ALL in spec.shots else [split.train[i] for i in good[c]]
        for c, split in viewed.items()
    }
    return Draw(viewed, drawn, good, learned, len(views))


def select(spec: Spec, splits: Mapping[str, Splits], stage: Stage) -> Selection:
    """Draws the episodes of all runs and identifies the samples that they need.

    Raises:
      InputError: if there are too few good parts; if samples cannot be used, with all of them.
    """
    drawn = draw(spec, splits)
    records = [part for c, split in drawn.splits.items() for part in (*drawn.learned[c], *split.test)]
    originals = [part for part in records if part.view == ORIGINAL]
    with stage("reading files", len(originals)) as advance:
        found, marked = _identify(spec, originals, advance)
    # All views of a part have its files.
    place = {part: i for i, part in enumerate(originals)}
    places = [place[dataclasses.replace(part, view=ORIGINAL)] for part in records]
    names, masks = [found[i] for i in places], [marked[i] for i in places]
    contents = ["none" if mask is None else hashlib.sha256(mask.bits.tobytes()).hexdigest() for mask in masks]
    ids = [
        f"{run} {[drawn.splits[run.category].train[i].id for i in chosen]}" for run, chosen in drawn.episodes.items()
    ]
    return Selection(drawn, records, names, masks, [*names, *contents, *ids])


def _identify(
    spec: Spec, records: Sequence[Record], advance: Callable[[int], None]
) -> tuple[list[str], list[Mask | None]]:
    """Names of the samples' inputs, and their ground truth; all problems are told at once."""
    problems, names, masks = Problems(), [], []
    for record in records:
        names += inputs.identify([record], spec.preparation, problems)
        mask = None
        with problems.collecting():
            mask = sample.load_gt(record)
        masks.append(None if mask is None else Mask(np.packbits(mask), mask.shape))
        advance(1)
    if problems.found:
        sample.tell_all((record for record, name in zip(records, names, strict=True) if name), problems)
    return names, masks
