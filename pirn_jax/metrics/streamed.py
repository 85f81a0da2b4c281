"""Streamed evaluation: metrics of one set of maps on one category, more maps than fit into memory.

Every map is loaded twice: first the scores of the defective pixels are collected; then good pixels are counted between
these, batch by batch. So memory grows with the number of defective pixels and hardly with that of good ones.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pirn_jax import scoring
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.metrics import evaluation, exact, peer, pixels
from pirn_jax.metrics.evaluation import Evaluation
from pirn_jax.metrics.exact import Ranks
from pirn_jax.metrics.ground_truth import GroundTruth
from pirn_jax.metrics.pixels import Pixels
from pirn_jax.metrics.regions import Regions

_BATCH = 1 << 24
"""Good pixels that are sorted at a time."""


class StoredMap(NamedTuple):
    """The map of a test sample.

    Attributes:
      name: used in messages.
      image: size (height, width) of the sample's image.
      load: reads the map.
    """

    name: str
    image: tuple[int, int]
    load: Callable[[], np.ndarray]


def evaluate(
    maps: Sequence[StoredMap],
    truth: GroundTruth,
    problems: Problems,
    advance: Callable[[int], None] = lambda count: None,
) -> Evaluation | None:
    """Evaluates the maps of one category.

    Args:
      maps: one for each of its test samples; one at a time is kept.
      truth: ground truth.
      problems: where maps are noted that cannot be used.
      advance: told how many more maps were loaded, `2 * len(maps)` in all if there are pixel metrics.

    Returns:
      None if a problem was noted: numbers without these maps would not be those of the category.
    """

    def evaluate(exponent: float) -> list[Evaluation]:
        # Another pass over maps that were all fine is not worth another bar of progress.
        return _evaluate(maps, truth, exponent, problems, advance if exponent < 1 else lambda count: None)

    return next(iter(evaluation.normalised(evaluate, truth.settings)), None)


def _evaluate(
    maps: Sequence[StoredMap],
    truth: GroundTruth,
    exponent: float,
    problems: Problems,
    advance: Callable[[int], None],
) -> list[Evaluation]:
    """The evaluation of maps divided by a power of their means; none if a problem was noted."""
    before = len(problems.found)

    def fitted(i: int) -> Float[np.ndarray, "h w"]:
        return evaluation.normalise(truth.fit(i, load(maps[i], truth.settings.resolution)), exponent)

    ranker = _Ranker(truth) if not isinstance(truth.regions, str) else None
    scores = []
    for i in range(len(maps)):
        with problems.collecting():
            values = fitted(i)
            scores.append(scoring.image_score(values, truth.settings.top_share))
            if ranker:
                ranker.collect(i, values)
        advance(1)
    if len(problems.found) > before:
        return []
    if ranker:
        ranker.sort_positives()
        for i in range(len(maps)):
            ranker.count(i, fitted(i))
            advance(1)
    ranked = ranker.pixels() if ranker else str(truth.regions)
    return [evaluation.report(np.array(scores), truth.defects, ranked, truth.settings)]


def load(stored: StoredMap, longer: int | None) -> Float[np.ndarray, "h w"]:
    """A map as float32, checked.

    Args:
      stored: the map.
      longer: longer side to which maps are resized; None for the image's own size.

    Raises:
      InputError: naming the map, if it cannot be read, its size does not fit, or a score is not finite.
    """
    scores, image = stored.load(), stored.image
    with np.errstate(over="ignore"):  # A number beyond float32 becomes infinite.
        scores = scores.astype(np.float32, copy=False)
    bad = scores.size - np.count_nonzero(np.isfinite(scores))
    if bad:
        raise InputError(f"{stored.name}: {bad} of {scores.size} scores are NaN or infinite; write finite numbers")
    size, own = (
        (image, scores.shape)
        if longer is None
        else (evaluation.scaled(image, longer), evaluation.scaled(scores.shape, longer))
    )
    # Rounding the shorter side may cost a map to be resized one pixel.
    if max(abs(a - b) for a, b in zip(size, own, strict=True)) > (longer is not None):
        found, wanted = (f"{width}x{height}" for height, width in (scores.shape, image))
        noun = "size" if longer is None else "aspect"
        raise InputError(
            f"{stored.name}: {found} pixels, but its image has {wanted}; save the map with the same {noun}"
        )
    return scores


class _Ranker:
    """Ranks pixels: `collect` each map, `sort_positives`, `count` each map again, then `pixels`."""

    def __init__(self, truth: GroundTruth) -> None:
        assert isinstance(truth.regions, Regions)
        self._truth, self._regions = truth, truth.regions
        self._good = truth.pixels - len(truth.defective)
        self._statistics = peer.OrderStatistics() if truth.settings.form == "peer" else None
        self._collected: list[np.ndarray] = []
        self._batch: list[np.ndarray] = []

    def collect(self, sample: int, scores: Float[np.ndarray, "h w"]) -> None:
        """First pass."""
        defective, good = self._cut(sample, scores)
        self._collected.append(defective)
        if self._statistics:
            self._statistics.count(good)

    def sort_positives(self) -> None:
        """Ends the first pass."""
        positives = np.concatenate(self._collected)
        self._collected = []
        order = pixels.falling(positives)
        self._scores, self._region = positives[order], self._regions.of_pixel[order]
        # Counts take most of the memory.
        self._above, self._reached = np.zeros((2, len(positives)), np.int32 if self._good < 2**31 else np.int64)
        if self._statistics:
            self._statistics.choose(peer.positions(self._good))

    def count(self, sample: int, scores: Float[np.ndarray, "h w"]) -> None:
        """Second pass: the same maps."""
        self._batch.append(self._cut(sample, scores)[1])
        if sum(map(len, self._batch)) >= _BATCH:
            self._count_batch()

    def pixels(self) -> Pixels:
        """Ends the second pass."""
        self._count_batch()
        ranks = Ranks(self._scores, self._above, self._reached, self._good)
        return Pixels(self._regions, ranks, self._region, self._statistics.values() if self._statistics else None)

    def _cut(self, sample: int, scores: Float[np.ndarray, "h w"]) -> tuple[np.ndarray, np.ndarray]:
        """Scores of a map's defective pixels and of its good ones."""
        place, defective = self._truth.places[sample], self._truth.defective
        first, last = np.searchsorted(defective, [place.start, place.stop])
        chosen = defective[first:last] - place.start
        flat = scores.ravel()
        return flat[chosen], np.delete(flat, chosen)

    def _count_batch(self) -> None:
        """Counts the good pixels that wait."""
        if not self._batch:
            return
        good = np.sort(np.concatenate(self._batch))
        self._batch = []
        ranks = exact.rank(self._scores, good)
        self._above += ranks.above
        self._reached += ranks.reached
        if self._statistics:
            self._statistics.refine(good)
