"""Evaluation settings, and the metrics reported of the anomaly maps of one category."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pirn_jax import scoring
from pirn_jax.data.sample import GOOD
from pirn_jax.metrics import exact, peer, regions
from pirn_jax.metrics.pixels import Pixels
from pirn_jax.metrics.regions import Regions

FORMS = ("exact", "peer")
NORMALISATIONS = ("none", "means")
SIZES = {"small": (0.0, 0.001), "medium": (0.001, 0.01), "large": (0.01, 1.0)}
"""Share of its image that a region covers: above the first number, up to the second (our choice)."""


@dataclasses.dataclass(frozen=True)
class MetricSettings:
    """Settings of an evaluation.

    Attributes:
      form: "exact", or "peer" for AUPRO from 100 thresholds.
      limits: false positive rates up to which the PRO curve is integrated, besides 0.3.
      resolution: longer side in pixels that maps and masks are resized to; None for the image's own size.
      top_share: the image score is the mean of this top share of a map's pixels; 0 for its maximum.
      normalisation: "none"; or "means", each map divided by the mean of its pixels that are not zero for AUPRO, and by
        the root of that mean for all other metrics, as the public code of CFM and CFR has it. Each part is then
        judged by itself, so a part that is odd everywhere looks good.

    Raises:
      ValueError: if one is out of range.
    """

    form: str = "exact"
    limits: tuple[float, ...] = exact.LIMITS
    resolution: int | None = None
    top_share: float = 0.0
    normalisation: str = "none"

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form {self.form!r}: unknown; choose from {', '.join(FORMS)}")
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(f"normalisation {self.normalisation!r}: unknown; choose from {', '.join(NORMALISATIONS)}")
        if not self.limits or not all(0 < limit <= 1 for limit in self.limits):
            raise ValueError(f"limits {self.limits}: give false positive rates above 0 and up to 1")
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution {self.resolution}: give a number of pixels above 0")
        if not 0 <= self.top_share <= 1:
            raise ValueError(f"image score {self.top_share}: give max, or a share of pixels above 0 and up to 1")

    @property
    def aupro_limits(self) -> tuple[float, ...]:
        """All limits; the headline's comes first."""
        return tuple(dict.fromkeys((exact.AUPRO_LIMIT, *self.limits)))

    def describe(self) -> dict[str, Any]:
        """Evaluation settings and constants, stored with the results."""
        whole, original = self.form == "exact", self.resolution is None
        steps = f"{peer.THRESHOLDS} scores of good pixels at equidistant ranks"
        top = f"mean of the top {100 * self.top_share:g} % of the map's pixels"
        return {
            "form": self.form,
            "resolution": "original image" if original else self.resolution,
            "resizing": "none" if original else "map bilinear, mask nearest, aspect kept",
            "image_score": top if self.top_share else "maximum of the map",
            "top_share": self.top_share,
            "normalisation": self.normalisation,
            "limits": list(self.aupro_limits),
            "thresholds": "all" if whole else f"all; of AUPRO {steps}",
            "ties": "one threshold" if whole else "one threshold; of AUPRO by rank",
            "at_limit": "linear interpolation, area divided by the limit",
            "connectivity": regions.CONNECTIVITY,
            "false_positives": "good pixels of all test parts",
            "sizes": {name: list(edges) for name, edges in SIZES.items()},
        }


class Breakdown(NamedTuple):
    """Metrics of all defects of a category, of one kind, or of regions of one size.

    Attributes:
      parts: defective samples that have such regions.
      regions: 8-connected regions; None where the category has no pixel metrics.
      values: metrics by name, None where undefined.
      undefined: why, by the kind of metric: "image" or "pixel".
    """

    parts: int
    regions: int | None
    values: dict[str, float | None]
    undefined: dict[str, str]


class Evaluation(NamedTuple):
    """Metrics of a category: all defects, each kind and each size of them, always against all that is good.

    Without pixel metrics there are no sizes.
    """

    good_parts: int
    all: Breakdown
    defects: dict[str, Breakdown]
    sizes: dict[str, Breakdown]

    def as_json(self) -> dict[str, Any]:
        """The same as nested dictionaries."""
        defects, sizes = ({key: of._asdict() for key, of in kind.items()} for kind in (self.defects, self.sizes))
        return {"good_parts": self.good_parts, "all": self.all._asdict(), "defects": defects, "sizes": sizes}


def normalise(scores: Float[np.ndarray, "*size"], exponent: float) -> Float[np.ndarray, "*size"]:
    """A map divided by a power of the mean magnitude of its pixels that are not zero; as it is if all are."""
    if not exponent:
        return scores
    shown = np.abs(scores[scores != 0])
    return scores / np.float32(shown.mean(dtype=float) ** exponent) if shown.size else scores


def normalised(evaluate: Callable[[float], Sequence[Evaluation]], settings: MetricSettings) -> list[Evaluation]:
    """Evaluations of maps as `settings.normalisation` has them for each kind of metric.

    Args:
      evaluate: evaluations of maps that are divided by this power of their means, see `normalise`.
      settings: evaluation settings.
    """
    if settings.normalisation == "none":
        return list(evaluate(0.0))
    found = evaluate(0.5)
    return [_with_aupro(of, other) for of, other in zip(found, evaluate(1.0), strict=True)] if found else []


def _with_aupro(of_all: Evaluation, of_aupro: Evaluation) -> Evaluation:
    """An evaluation with the AUPROs of another one of the same category."""

    def joined(breakdown: Breakdown, other: Breakdown) -> Breakdown:
        aupro = {name: value for name, value in other.values.items() if name.startswith("aupro")}
        return breakdown._replace(values={**breakdown.values, **aupro})

    return Evaluation(
        of_all.good_parts,
        joined(of_all.all, of_aupro.all),
        {name: joined(of, of_aupro.defects[name]) for name, of in of_all.defects.items()},
        {name: joined(of, of_aupro.sizes[name]) for name, of in of_all.sizes.items()},
    )


def scaled(size: tuple[int, ...], longer: int) -> tuple[int, int]:
    """Size (height, width) whose longer side is given, the aspect kept."""
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    return height, width


def resize_map(scores: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "_ _"]:
    """Bilinear: pixel centres at half integers, edges repeated, no antialias."""
    rows, columns = (scoring.bilinear(out, side) for out, side in zip(size, scores.shape, strict=True))
    return (rows @ scores @ columns.T).astype(np.float32)


def resize_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "_ _"]:
    """Nearest: the pixel in which the centre of the new one lies."""
    rows, columns = (
        ((np.arange(out) + 0.5) * side / out).astype(int) for out, side in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def report(
    scores: Float[np.ndarray, " m"], defects: np.ndarray, pixels: Pixels | str, settings: MetricSettings
) -> Evaluation:
    """Metrics of a category.

    Args:
      scores: image score of every test sample.
      defects: name of its defect, or "good".
      pixels: ranked pixels, or why there are no pixel metrics.
      settings: evaluation settings.
    """
    good = defects == GOOD
    limits = settings.aupro_limits
    undefined = dict.fromkeys((*exact.PIXEL_NAMES, *map(exact.aupro_name, limits)))

    def of_pixels(chosen: Callable[[Regions], Bool[np.ndarray, " regions"]]) -> Breakdown:
        """Pixel metrics of some regions; `parts` counts the samples that have such a region."""
        if isinstance(pixels, str):
            return Breakdown(0, None, undefined, {"pixel": pixels})
        some = chosen(pixels.regions)
        if not some.any():
            return Breakdown(0, 0, undefined, {"pixel": "no region of this kind"})
        return Breakdown(len(np.unique(pixels.regions.sample[some])), int(some.sum()), pixels.measure(some, limits), {})

    def of_both(parts: Bool[np.ndarray, " m"]) -> Breakdown:
        found = of_pixels(lambda regions: parts[regions.sample])
        some = parts | good
        reason = exact.lacking(int(parts.sum()), int(good.sum()), "part")
        values = {**exact.of_parts(scores[some], parts[some]), **found.values}
        return Breakdown(
            int(parts.sum()), found.regions, values, {**({"image": reason} if reason else {}), **found.undefined}
        )

    def of_size(low: float, high: float) -> Breakdown:
        return of_pixels(lambda regions: (regions.share > low) & (regions.share <= high))

    kinds = {str(name): of_both(defects == name) for name in np.unique(defects[~good])}
    sizes = {} if isinstance(pixels, str) else {name: of_size(*edges) for name, edges in SIZES.items()}
    return Evaluation(int(good.sum()), of_both(~good), kinds, sizes)
