"""Metrics of many runs on one category: what its masks say is worked out once."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax.protocol import evaluation, metrics, peer_metrics, pixels, ranking
from pirn_jax.protocol.evaluation import Evaluation, Settings
from pirn_jax.protocol.metrics import Ranks
from pirn_jax.protocol.pixels import Pixels, Regions


class Truth(NamedTuple):
    """Ground truth of a category's test parts.

    Attributes:
      settings: how maps are evaluated.
      defects: names of the parts' defects.
      sizes: (height, width) at which maps and masks are compared.
      regions: of all masks, or why there are no pixel metrics.
      defective: places of the defective pixels among those of all parts, in raster order.
    """

    settings: Settings
    defects: np.ndarray
    sizes: list[tuple[int, int]]
    regions: Regions | str
    defective: Int[np.ndarray, " defective"]

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return sum(height * width for height, width in self.sizes)

    def flatten(self, maps: Iterable[Float[np.ndarray, "_ _"]]) -> Float[np.ndarray, " pixels"]:
        """The float32 scores of all pixels of a run.

        Args:
          maps: one for each part, of its image's size.

        Raises:
          ValueError: if a score is NaN or infinite.
        """
        flat = np.empty(self.pixels, np.float32)
        for i, (place, size, scores) in enumerate(zip(_places(self.sizes), self.sizes, maps, strict=True)):
            bad = scores.size - np.count_nonzero(np.isfinite(scores))
            if bad:
                raise ValueError(f"map of test part {i}: {bad} of {scores.size} scores are NaN or infinite")
            flat[place] = (scores if scores.shape == size else evaluation.resize_map(scores, size)).ravel()
        return flat


def prepare(
    defects: Sequence[str],
    masks: Sequence[Bool[np.ndarray, "_ _"] | None],
    sizes: Sequence[tuple[int, int]],
    settings: Settings,
) -> Truth:
    """Works out what all runs share.

    Args:
      defects: name of every test part's defect, or "good".
      masks: of the parts, None where nobody knows which pixels are defective.
      sizes: (height, width) of the parts' images.
      settings: how maps are evaluated.
    """
    longer = settings.resolution
    compared = [size if longer is None else evaluation.scaled(size, longer) for size in sizes]
    known = [mask for mask in masks if mask is not None]
    names = np.array(defects)
    if len(known) < len(masks):
        reason = f"defective parts without a mask: {len(masks) - len(known)}"
        return Truth(settings, names, compared, reason, np.zeros(0, int))
    if longer is not None:
        known = [evaluation.resize_mask(mask, size) for mask, size in zip(known, compared, strict=True)]
    regions = pixels.find_regions(known)
    defective = np.flatnonzero(np.concatenate([mask.ravel() for mask in known]))
    lacking = metrics.lacking(len(defective), sum(mask.size for mask in known) - len(defective), "pixel")
    return Truth(settings, names, compared, lacking or regions, defective)


def evaluate(scores: Float[np.ndarray, "runs pixels"], truth: Truth) -> list[Evaluation]:
    """Evaluates runs together; the scores of each are those of `Truth.flatten`."""
    regions = truth.regions
    ranked = [regions] * len(scores) if isinstance(regions, str) else _rank(scores, truth, regions)
    found = []
    for of_run, of_pixels in zip(scores, ranked, strict=True):
        highest = np.array([of_run[place].max() for place in _places(truth.sizes)])
        found.append(evaluation.report(highest, truth.defects, of_pixels, truth.settings))
    return found


def _rank(scores: Float[np.ndarray, "runs pixels"], truth: Truth, regions: Regions) -> list[Pixels]:
    positives = scores[:, truth.defective]
    order = pixels.falling(positives)
    levels = np.take_along_axis(positives, order, axis=1)
    # Below all levels, defective pixels are not counted; leaving them out would take longer.
    good = scores.copy()
    good[:, truth.defective] = -np.inf
    hidden = positives.shape[1]
    negatives = truth.pixels - hidden
    peer = truth.settings.form == "peer"
    places = hidden + peer_metrics.positions(negatives) if peer else np.zeros(0, np.int64)
    above, reached, chosen = ranking.count(levels, good, places)
    ranks = (Ranks(*of_run, negatives) for of_run in zip(levels, above, reached, strict=True))
    return [
        Pixels(regions, of_run, regions.of_pixel[by_score], thresholds if peer else None)
        for of_run, by_score, thresholds in zip(ranks, order, chosen, strict=True)
    ]


def _places(sizes: Sequence[tuple[int, int]]) -> list[slice]:
    """Where the pixels of each part lie among those of all."""
    ends = np.cumsum([height * width for height, width in sizes])
    return [slice(end - height * width, end) for end, (height, width) in zip(ends, sizes, strict=True)]
