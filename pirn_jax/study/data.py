"""Study data: episodes and features shared by all runs."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pirn_jax import cache, features, inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.data.views import ORIGINAL
from pirn_jax.methods.base import Features
from pirn_jax.metrics import ground_truth
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.metrics.ground_truth import GroundTruth
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study import packing, streaming
from pirn_jax.study.memory import GIB, require
from pirn_jax.study.spec import MODALITIES, Spec, describe
from pirn_jax.study.streaming import Reader, Streams
from pirn_jax.training import cluster, episodes, parallel
from pirn_jax.training.episodes import ALL, Run

MEMORY_BYTES = 4 * GIB
"""For features that are read as they are needed: so many stay in memory (our choice)."""

Stage = Callable[[str, int], contextlib.AbstractContextManager[Callable[..., None]]]
"""`with stage(title, total) as advance: advance(count, text)` shows progress."""


def hidden(title: str, total: int) -> contextlib.AbstractContextManager[Callable[..., None]]:
    """A stage that shows nothing."""
    del title, total
    return contextlib.nullcontext(lambda *done: None)


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


class Selection(NamedTuple):
    """Samples of a study, each of them found to be usable.

    Attributes:
      splits: all samples of each category; in the train split, all views of each good part one behind the other.
      episodes: per run, its good parts in all views as indices into the train split.
      good: per category, in rising order the indices that any run of a number of shots draws.
      records: samples whose features are needed, category by category: those good ones and the test samples; where a
        run takes every good part, these and the validation samples besides.
      names: of the samples' inputs.
      masks: ground truth of each sample, None where nobody knows it.
      digests: of all bytes that can change a number.
      views: of each good part.
    """

    splits: dict[str, Splits]
    episodes: dict[Run, np.ndarray]
    good: dict[str, list[int]]
    records: list[Record]
    names: list[str]
    masks: list[Mask | None]
    digests: list[str]
    views: int = 1

    def describe(self, spec: Spec) -> dict[str, Any]:
        """The settings of a study of these samples."""
        return describe(spec, list(self.splits), self.digests)


class Placed(NamedTuple):
    """Features of some samples of each category on all devices, packed, and padded with zeros to one number of samples.

    Attributes:
      features: leading axes are categories and samples; or a reader of one category's samples.
      kept: the patches' places in their grids, see `packing.order`.
      patches: of a grid.
    """

    features: Features | Reader
    kept: Int[np.ndarray, "c s p"]
    patches: int

    @property
    def whole(self) -> Features:
        """The features where all are on the devices."""
        assert isinstance(self.features, Features)
        return self.features

    def stored_in(self, precision: str) -> "Placed":
        """The same with features of this precision; nothing is copied where they have it."""
        if isinstance(self.features, Reader):
            return self._replace(features=dataclasses.replace(self.features, dtype=jnp.dtype(precision), memory={}))
        return self._replace(features=self.features._replace(values=self.features.values.astype(precision)))

    def spread(self, distances: np.ndarray, *index: Any) -> np.ndarray:
        """Distances on whole grids; `index` says of which categories and samples they are."""
        return packing.spread(distances, self.kept[index], self.patches)


class StudyData(NamedTuple):
    """Episodes and features shared by all runs of studies of the same samples.

    Attributes:
      selection: the samples.
      train: the good parts that any run draws.
      position: per category, from index in the train split to index in `train`.
      test: the test samples.
      truth: `(category, settings) -> GroundTruth`, preprocessed once.
      notes: sentences for the user on the samples.
      seconds: spent, by stage.
      streams: per category all its samples, where a run takes every good part.
      validation: of a single category, see `of`.
    """

    selection: Selection
    train: Placed
    position: dict[str, dict[int, int]]
    test: Placed
    truth: Callable[[str, MetricSettings], GroundTruth]
    notes: list[str]
    seconds: dict[str, float]
    streams: Mapping[str, Streams] = MappingProxyType({})
    validation: Reader | None = None

    def stored_in(self, precision: str) -> "StudyData":
        """The same with features of this precision; nothing is copied where they have it."""
        return self._replace(train=self.train.stored_in(precision), test=self.test.stored_in(precision))

    def of(self, run: Run, precision: str) -> "StudyData":
        """The data of a run: these, or those of its category alone, read as they are needed, if it takes every part."""
        if run.shots != ALL:
            return self
        found = self.streams[run.category]

        def placed(reader: Reader) -> Placed:
            return Placed(reader, reader.kept[None], self.test.patches).stored_in(precision)

        validation = placed(found.validation).features
        return self._replace(
            train=placed(found.train), test=placed(found.test), streams={run.category: found}, validation=validation
        )

    def indices(self, runs: Sequence[Run]) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, "r s"]]:
        """Each run's category, and its episode as indices into the category's features in `train`."""
        if isinstance(self.train.features, Reader):
            return np.zeros(len(runs), int), np.stack([self.selection.episodes[run] for run in runs])
        categories = list(self.selection.splits)
        category = np.array([categories.index(run.category) for run in runs])
        chosen = [[self.position[run.category][int(i)] for i in self.selection.episodes[run]] for run in runs]
        return category, np.array(chosen)

    def unpad(self, runs: Sequence[Run], values: np.ndarray) -> list[np.ndarray]:
        """Of values for each run and padded test sample, those of the samples that its category has."""
        lengths = [len(self.selection.splits[run.category].test) for run in runs]
        return [of_run[:length] for of_run, length in zip(values, lengths, strict=True)]


def select(spec: Spec, splits: dict[str, Splits], stage: Stage) -> Selection:
    """Draws the episodes of all runs and identifies the samples that they need.

    Raises:
      InputError: if there are too few good parts; if samples cannot be used, with all of them.
    """
    runs = [Run(category, shots, seed) for shots in spec.shots for category in splits for seed in range(spec.seeds)]
    views = len(spec.views)
    parts = {run: episodes.draw(run, len(splits[run.category].train)) for run in runs}
    drawn = {run: (views * chosen[:, None] + np.arange(views)).ravel() for run, chosen in parts.items()}
    splits = {category: _viewed(split, spec) for category, split in splits.items()}
    few = [run for run in runs if run.shots != ALL]
    good = {c: sorted({int(i) for run in few if run.category == c for i in drawn[run]}) for c in splits}
    learned = {
        c: [*split.train, *split.validation] if ALL in spec.shots else [split.train[i] for i in good[c]]
        for c, split in splits.items()
    }
    records = [part for c, split in splits.items() for part in (*learned[c], *split.test)]
    originals = [part for part in records if part.view == ORIGINAL]
    with stage("reading files", len(originals)) as advance:
        found, marked = _identify(spec, originals, advance)
    # All views of a part have its files.
    place = {part: i for i, part in enumerate(originals)}
    places = [place[dataclasses.replace(part, view=ORIGINAL)] for part in records]
    names, masks = [found[i] for i in places], [marked[i] for i in places]
    contents = ["none" if mask is None else hashlib.sha256(mask.bits.tobytes()).hexdigest() for mask in masks]
    ids = [f"{run} {[splits[run.category].train[i].id for i in chosen]}" for run, chosen in drawn.items()]
    return Selection(splits, drawn, good, records, names, masks, [*names, *contents, *ids], views)


def _viewed(split: Splits, spec: Spec) -> Splits:
    """The split with all views of each good part."""
    train = [dataclasses.replace(part, view=view) for part in split.train for view in spec.views]
    return dataclasses.replace(split, train=train)


def load(specs: Sequence[Spec], selection: Selection, stage: Stage, memory: int = MEMORY_BYTES) -> StudyData:
    """Computes the samples' features, or reads them from the cache, and puts them on the device.

    Where a run takes every good part, its samples' stay in the cache. Several processes compute a share each and
    exchange it through the cache.

    Args:
      specs: of studies that differ in config and recipe at most. Features are stored as narrow as all of them allow.
      selection: the samples.
      stage: shows progress.
      memory: bytes for features that are read as they are needed.

    Raises:
      InputError: if samples cannot be used, with all of them; if features need more memory than there is.
    """
    spec, dtype = specs[0], jnp.result_type(*(spec.build().precision for spec in specs))
    records, names, splits = selection.records, selection.names, selection.splits
    row = {record: i for i, record in enumerate(records)}
    good = [[row[splits[c].train[i]] for i in indices] for c, indices in selection.good.items()]
    few = any(shots != ALL for shots in spec.shots)
    test = [[row[record] for record in split.test] if few else [] for split in splits.values()]
    placed = sorted({i for of_category in (*good, *test) for i in of_category})
    require(
        # Once as they are read, once placed on the device.
        2 * len(placed) * spec.sample_bytes,
        f"features of {len(placed)} samples",
        "lower --shots, --seeds or --grid, or take fewer --categories at a time",
    )
    index, count = cluster.process()

    def extract(share: slice, title: str, wanted: Sequence[int] | None) -> features.Extracted:
        with stage(title, len(records[share])) as advance:
            given = records[share], names[share], spec.encoder, spec.grid, spec.preparation, cache.cache_directory()
            return features.extract(*given, watch, advance, wanted)

    with Stopwatch() as watch:
        if count > 1:
            extract(slice(index, None, count), "normals and features of this process", ())
            cluster.barrier("features")
        found = extract(slice(None), "normals and features", placed)
    values, masks = _taken(spec, found)
    kept = packing.order(masks)
    position = {i: place for place, i in enumerate(placed)}
    device = [
        place([[position[i] for i in of_category] for of_category in rows], values, masks[placed], kept[placed], dtype)
        for rows in (good, test)
    ]
    marked = [sample.mask_note(None if mask is None else mask.share) for mask in selection.masks]

    @functools.cache
    def truth(category: str, settings: MetricSettings) -> GroundTruth:
        tests = splits[category].test
        packed = [selection.masks[row[record]] for record in tests]
        unpacked = (None if mask is None else mask.unpack() for mask in packed)
        sizes = [
            record.source.size() if mask is None else mask.size for record, mask in zip(tests, packed, strict=True)
        ]
        return ground_truth.prepare([record.defect for record in tests], unpacked, sizes, settings)

    return StudyData(
        selection,
        device[0],
        {c: {index: i for i, index in enumerate(indices)} for c, indices in selection.good.items()},
        device[1],
        truth,
        inputs.summarise(records, found.notes) + inputs.summarise(records, marked),
        dict(watch.seconds),
        streaming.streams(spec, splits, dict(zip(records, names, strict=True)), kept, masks, dtype, memory)
        if ALL in spec.shots
        else {},
    )


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


def _taken(spec: Spec, found: features.Extracted) -> tuple[np.ndarray, np.ndarray]:
    """Features of the modalities that a study takes, and the patches that count in it."""
    chosen = [MODALITIES.index(name) for name in spec.modalities]
    return found.values[:, chosen], found.mask if spec.background == "ignore" else np.ones_like(found.mask)


def place_all(spec: Spec, found: features.Extracted) -> Placed:
    """All samples as those of a single category, on all devices."""
    values, masks = _taken(spec, found)
    rows = [list(range(len(values)))]
    return place(rows, values, masks, packing.order(masks), jnp.dtype(spec.build().precision))


def place(
    rows: Sequence[Sequence[int]], values: np.ndarray, masks: np.ndarray, kept: np.ndarray, dtype: np.dtype
) -> Placed:
    """Some samples of each category, on all devices.

    Args:
      rows: of each category, the places of its samples in what follows.
      values: features of all samples, (samples, m, g, n, c).
      masks: patches that show the part, (samples, n).
      kept: patches that are kept, see `packing.order`.
      dtype: that features are stored in.
    """
    longest = max(map(len, rows))
    shown = np.take_along_axis(masks, kept, axis=1)

    def padded(of_sample: Callable[[Sequence[int]], np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        array = np.zeros((len(rows), longest, *shape), dtype)
        for i, of_category in enumerate(rows):
            if of_category:
                array[i, : len(of_category)] = of_sample(of_category)
        return array

    *front, patches, channels = values.shape[1:]
    packed = padded(lambda chosen: packing.pack(values[chosen], kept[chosen]), (*front, kept.shape[1], channels), dtype)
    features = Features(*jax.device_put((packed, padded(lambda chosen: shown[chosen], shown.shape[1:], bool))))
    places = padded(lambda chosen: kept[chosen], kept.shape[1:], int)
    return Placed(parallel.everywhere(features), places, patches)
