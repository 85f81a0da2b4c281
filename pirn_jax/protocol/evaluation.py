"""What is reported of the anomaly maps of one category, and under which settings, however many maps there are."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import GOOD
from pirn_jax.protocol import metrics, peer_metrics, scoring
from pirn_jax.protocol.pixels import Pixels, Regions, Stream

FORMS = ("exact", "peer")
SIZES = {"small": (0.0, 0.001), "medium": (0.001, 0.01), "large": (0.01, 1.0)}
"""Share of its image that a region covers: above the first number, up to the second (our choice)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How maps are evaluated.

    Attributes:
      form: "exact", or "peer" for AUPRO from 100 thresholds.
      limits: false positive rates up to which the PRO curve is integrated, besides 0.3.
      resolution: longer side in pixels that maps and masks are resized to; None for the image's own size.

    Raises:
      ValueError: if one is out of range.
    """

    form: str = "exact"
    limits: tuple[float, ...] = metrics.LIMITS
    resolution: int | None = None

    def __post_init__(self):
        if self.form not in FORMS:
            raise ValueError(f"form {self.form!r}: unknown; choose from {', '.join(FORMS)}")
        if not self.limits or not all(0 < limit <= 1 for limit in self.limits):
            raise ValueError(f"limits {self.limits}: give false positive rates above 0 and up to 1")
        if self.resolution is not None and self.resolution < 1:
            raise ValueError(f"resolution {self.resolution}: give a number of pixels above 0")

    @property
    def aupro_limits(self) -> tuple[float, ...]:
        """All limits; the headline's comes first."""
        return tuple(dict.fromkeys((metrics.AUPRO_LIMIT, *self.limits)))

    def describe(self) -> dict[str, Any]:
        """All that can change a number, to stand beside it."""
        exact, original = self.form == "exact", self.resolution is None
        steps = f"{peer_metrics.THRESHOLDS} scores of good pixels at equidistant ranks"
        return {
            "form": self.form,
            "resolution": "original image" if original else self.resolution,
            "resizing": "none" if original else "map bilinear, mask nearest, aspect kept",
            "image_score": "maximum of the map",
            "limits": list(self.aupro_limits),
            "thresholds": "all" if exact else f"all; of AUPRO {steps}",
            "ties": "one threshold" if exact else "one threshold; of AUPRO by rank",
            "at_limit": "linear interpolation, area divided by the limit",
            "connectivity": metrics.CONNECTIVITY,
            "false_positives": "good pixels of all test parts",
            "sizes": {name: list(edges) for name, edges in SIZES.items()},
        }


class Part(NamedTuple):
    """One test part.

    Attributes:
      name: what messages call its map.
      defect: name of its defect, or "good".
      load: gives its map, the size (height, width) of its image, and its mask of that size, None where nobody knows.
    """

    name: str
    defect: str
    load: Callable[[], tuple[np.ndarray, tuple[int, int], np.ndarray | None]]


class Group(NamedTuple):
    """What is reported of all defects of a category, of one kind, or of regions of one size.

    Attributes:
      parts: defective parts that have such regions.
      regions: 8-connected regions; None where the category has no pixel metrics.
      values: metrics by name, None where undefined.
      undefined: why, by the kind of metric: "image" or "pixel".
    """

    parts: int
    regions: int | None
    values: dict[str, float | None]
    undefined: dict[str, str]


class Evaluation(NamedTuple):
    """What is reported of a category: all defects, each kind and each size of them, always against all that is good.

    Without pixel metrics there are no sizes.
    """

    good_parts: int
    all: Group
    defects: dict[str, Group]
    sizes: dict[str, Group]

    def as_json(self) -> dict[str, Any]:
        """The same as nested dictionaries."""
        defects, sizes = ({key: of._asdict() for key, of in kind.items()} for kind in (self.defects, self.sizes))
        return {"good_parts": self.good_parts, "all": self.all._asdict(), "defects": defects, "sizes": sizes}


def evaluate(
    parts: Sequence[Part], settings: Settings, problems: Problems, advance: Callable[[int], None] = lambda count: None
) -> Evaluation | None:
    """Evaluates the maps of one category.

    Args:
      parts: its test parts; each is loaded twice, and one at a time is kept.
      settings: how.
      problems: where parts are noted that cannot be used.
      advance: told how many more parts were loaded, `2 * len(parts)` in all if there are pixel metrics.

    Returns:
      None if a problem was noted: numbers without these parts would not be those of the category.
    """
    before = len(problems.found)
    stream, highest, unmasked = Stream(peer=settings.form == "peer"), [], []
    for part in parts:
        with problems.collecting():
            scores, mask = load(part, settings)
            highest.append(scores.max())
            if mask is None:
                unmasked.append(part.name)
            else:
                stream.collect(scores, mask)
        advance(1)
    if len(problems.found) > before:
        return None
    if unmasked:
        lacking = f"defective parts without a mask: {len(unmasked)}, such as that of {unmasked[0]}"
    else:
        lacking = metrics.lacking(len(stream.turn().part), stream.good, "pixel")
    for part in parts if lacking is None else ():
        scores, mask = load(part, settings)
        if mask is not None:
            stream.count(scores, mask)
        advance(1)
    return report(np.array(highest), np.array([part.defect for part in parts]), lacking or stream.pixels(), settings)


def load(part: Part, settings: Settings) -> tuple[Float[np.ndarray, "h w"], Bool[np.ndarray, "h w"] | None]:
    """Map, as float32, and mask of a part at the size at which they are compared.

    Raises:
      InputError: naming the part, if a file cannot be used, the map's size does not fit, or a score is not finite.
    """
    scores, image, mask = part.load()
    with np.errstate(over="ignore"):  # What float32 cannot hold becomes infinite.
        scores = scores.astype(np.float32, copy=False)
    bad = scores.size - np.count_nonzero(np.isfinite(scores))
    if bad:
        raise InputError(f"{part.name}: {bad} of {scores.size} scores are NaN or infinite; write finite numbers")
    longer = settings.resolution
    size, own = (image, scores.shape) if longer is None else (scaled(image, longer), scaled(scores.shape, longer))
    # Of maps to be resized one pixel is what rounding the shorter side may have cost.
    if max(abs(a - b) for a, b in zip(size, own, strict=True)) > (longer is not None):
        found, wanted = (f"{width}x{height}" for height, width in (scores.shape, image))
        what = "size" if longer is None else "aspect"
        raise InputError(f"{part.name}: {found} pixels, but its image has {wanted}; save the map with the same {what}")
    if longer is None:
        return scores, mask
    return resize_map(scores, size), None if mask is None else resize_mask(mask, size)


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
    highest: Float[np.ndarray, " m"], defects: np.ndarray, pixels: Pixels | str, settings: Settings
) -> Evaluation:
    """Puts together what is reported of a category.

    Args:
      highest: score of every test part.
      defects: name of its defect, or "good".
      pixels: their ranks, or why there are no pixel metrics.
      settings: how maps are evaluated.
    """
    good = defects == GOOD
    limits = settings.aupro_limits
    undefined = dict.fromkeys((*metrics.PIXEL_NAMES, *map(metrics.aupro_name, limits)))

    def of_pixels(chosen: Callable[[Regions], Bool[np.ndarray, " regions"]]) -> Group:
        """Of some regions; `parts` counts those that have such a region."""
        if isinstance(pixels, str):
            return Group(0, None, undefined, {"pixel": pixels})
        some = chosen(pixels.regions)
        if not some.any():
            return Group(0, 0, undefined, {"pixel": "no region of this kind"})
        return Group(len(np.unique(pixels.regions.part[some])), int(some.sum()), pixels.measure(some, limits), {})

    def of_both(parts: Bool[np.ndarray, " m"]) -> Group:
        found = of_pixels(lambda regions: parts[regions.part])
        some = parts | good
        reason = metrics.lacking(int(parts.sum()), int(good.sum()), "part")
        values = {**metrics.of_parts(highest[some], parts[some]), **found.values}
        return Group(
            int(parts.sum()), found.regions, values, {**({"image": reason} if reason else {}), **found.undefined}
        )

    def of_size(low: float, high: float) -> Group:
        return of_pixels(lambda regions: (regions.share > low) & (regions.share <= high))

    kinds = {str(name): of_both(defects == name) for name in np.unique(defects[~good])}
    sizes = {} if isinstance(pixels, str) else {name: of_size(*edges) for name, edges in SIZES.items()}
    return Evaluation(int(good.sum()), of_both(~good), kinds, sizes)
