"""Study data: episodes and features shared by all runs."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pirn_jax import cache, features, inputs
from pirn_jax.data import sample
from pirn_jax.data.sample import Record
from pirn_jax.metrics import ground_truth
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.metrics.ground_truth import GroundTruth
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study import packing, streaming
from pirn_jax.study.memory import GIB, require
from pirn_jax.study.placement import Placed, place, taken
from pirn_jax.study.selection import Draw, Selection
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage
from pirn_jax.study.streaming import Reader, Streams
from pirn_jax.training import cluster
from pirn_jax.training.episodes import ALL, Run

MEMORY_BYTES = 4 * GIB
"""For features that are read as they are needed: so many stay in memory (our choice)."""


class StudyData(NamedTuple):
    """Episodes and features shared by all runs of studies of the same samples.

    Attributes:
      drawn: the samples and episodes.
      train: the good parts that any run draws.
      position: per category, from index in the train split to index in `train`.
      test: the test samples.
      truth: `(category, settings) -> GroundTruth`, preprocessed once.
      notes: sentences for the user on the samples.
      seconds: spent, by stage.
      streams: per category all its samples, where a run takes every good part.
      validation: of a single category, see `of`.
    """

    drawn: Draw
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
            return np.zeros(len(runs), int), np.stack([self.drawn.episodes[run] for run in runs])
        categories = list(self.drawn.splits)
        category = np.array([categories.index(run.category) for run in runs])
        chosen = [[self.position[run.category][int(i)] for i in self.drawn.episodes[run]] for run in runs]
        return category, np.array(chosen)

    def unpad(self, runs: Sequence[Run], values: np.ndarray) -> list[np.ndarray]:
        """Of values for each run and padded test sample, those of the samples that its category has."""
        lengths = [len(self.drawn.splits[run.category].test) for run in runs]
        return [of_run[:length] for of_run, length in zip(values, lengths, strict=True)]


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
    drawn, records = selection.drawn, selection.records
    splits = drawn.splits
    row = {record: i for i, record in enumerate(records)}
    good = [[row[splits[c].train[i]] for i in indices] for c, indices in drawn.good.items()]
    few = any(shots != ALL for shots in spec.shots)
    test = [[row[record] for record in split.test] if few else [] for split in splits.values()]
    placed = sorted({i for of_category in (*good, *test) for i in of_category})
    require(
        # Once as they are read, once placed on the device.
        2 * len(placed) * spec.sample_bytes,
        f"features of {len(placed)} samples",
        "lower --shots, --seeds or --grid, or take fewer --categories at a time",
    )
    with Stopwatch() as watch:
        found = _extract(spec, selection, placed, stage, watch)
    values, masks = taken(spec, found)
    kept = packing.order(masks)
    position = {i: at for at, i in enumerate(placed)}
    device = [
        place([[position[i] for i in of_category] for of_category in rows], values, masks[placed], kept[placed], dtype)
        for rows in (good, test)
    ]
    names = dict(zip(records, selection.names, strict=True))
    marked = [sample.mask_note(None if mask is None else mask.share) for mask in selection.masks]
    return StudyData(
        drawn,
        device[0],
        {c: {index: i for i, index in enumerate(indices)} for c, indices in drawn.good.items()},
        device[1],
        functools.cache(functools.partial(_truth, selection, row)),
        inputs.summarise(records, found.notes) + inputs.summarise(records, marked),
        dict(watch.seconds),
        streaming.streams(spec, splits, names, kept, masks, dtype, memory) if ALL in spec.shots else {},
    )


def _extract(
    spec: Spec, selection: Selection, wanted: Sequence[int], stage: Stage, watch: Stopwatch
) -> features.Extracted:
    """Features of all samples into the cache, this process's share first; those of the wanted ones are returned."""

    def extract(share: slice, title: str, wanted: Sequence[int]) -> features.Extracted:
        records, names = selection.records[share], selection.names[share]
        with stage(title, len(records)) as advance:
            given = records, names, spec.encoder, spec.grid, spec.preparation, cache.cache_directory()
            return features.extract(*given, watch, advance, wanted)

    index, count = cluster.process()
    if count > 1:
        extract(slice(index, None, count), "normals and features of this process", ())
        cluster.barrier("features")
    return extract(slice(None), "normals and features", wanted)


def _truth(selection: Selection, row: Mapping[Record, int], category: str, settings: MetricSettings) -> GroundTruth:
    """Ground truth of a category's test samples; `row` is a sample's place among the selected ones."""
    tests = selection.drawn.splits[category].test
    packed = [selection.masks[row[record]] for record in tests]
    unpacked = (None if mask is None else mask.unpack() for mask in packed)
    sizes = [record.source.size() if mask is None else mask.size for record, mask in zip(tests, packed, strict=True)]
    return ground_truth.prepare([record.defect for record in tests], unpacked, sizes, settings)
