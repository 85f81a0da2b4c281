"""Ground truth of a category, preprocessed once for all maps that are compared with it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from pirn_jax.metrics import evaluation, exact, regions
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.metrics.regions import Regions


class GroundTruth(NamedTuple):
    """Ground truth of a category's test samples.

    Attributes:
      settings: evaluation settings.
      defects: name of every sample's defect, or "good".
      sizes: (height, width) at which maps and masks are compared.
      regions: of all masks, or why there are no pixel metrics.
      defective: indices of the defective pixels among those of all samples, in raster order.
      places: of each sample's pixels among those of all.
    """

    settings: MetricSettings
    defects: np.ndarray
    sizes: list[tuple[int, int]]
    regions: Regions | str
    defective: Int[np.ndarray, " defective"]
    places: list[slice]

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.places[-1].stop if self.places else 0

    def fit(self, sample: int, scores: Float[np.ndarray, "_ _"]) -> Float[np.ndarray, "_ _"]:
        """A sample's map as float32, resized to the size at which maps are compared."""
        scores = scores.astype(np.float32, copy=False)
        size = self.sizes[sample]
        return scores if scores.shape == size else evaluation.resize_map(scores, size)


def prepare(
    defects: Sequence[str],
    masks: Iterable[Bool[np.ndarray, "_ _"] | None],
    sizes: Sequence[tuple[int, int]],
    settings: MetricSettings,
) -> GroundTruth:
    """Preprocesses ground truth; masks are looked at once, one after the other.

    Args:
      defects: name of every test sample's defect, or "good".
      masks: of the samples, None where nobody knows which pixels are defective.
      sizes: (height, width) of the samples' images.
      settings: evaluation settings.
    """
    longer, unknown = settings.resolution, 0
    compared = [size if longer is None else evaluation.scaled(size, longer) for size in sizes]
    ends = np.cumsum([height * width for height, width in compared]).tolist()
    places = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def known() -> Iterable[Bool[np.ndarray, "_ _"]]:
        nonlocal unknown
        for mask, size in zip(masks, compared, strict=True):
            if mask is None:
                unknown += 1
            else:
                yield mask if mask.shape == size else evaluation.resize_mask(mask, size)

    found, defective = regions.find(known())
    names = np.array(defects)
    if unknown or not sizes:
        reason = f"defective parts without a mask: {unknown}" if unknown else "no part in the test set"
        return GroundTruth(settings, names, compared, reason, np.zeros(0, int), places)
    lacking = exact.lacking(len(defective), ends[-1] - len(defective), "pixel")
    return GroundTruth(settings, names, compared, lacking or found, defective, places)
