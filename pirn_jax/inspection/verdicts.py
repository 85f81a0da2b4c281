"""Verdicts on new parts: what a model says of a part, beside what good parts score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pirn_jax import inputs
from pirn_jax.cache import Prepared
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Record, Sample
from pirn_jax.inspection import regions, thresholds
from pirn_jax.inspection.bundle import Bundle
from pirn_jax.inspection.regions import Region
from pirn_jax.inspection.thresholds import Threshold

_BRIGHTEST = 2.0
"""Value of a map with the brightest colour, in units of the threshold (our choice)."""


class Limits(NamedTuple):
    """Thresholds of a model.

    Attributes:
      score: threshold of image scores.
      values: threshold of maps' maxima.
      highest: value of maps that gets the brightest colour.
    """

    score: Threshold
    values: Threshold
    highest: float


class Verdict(NamedTuple):
    """Judgement of a part.

    Attributes:
      part: its name.
      verdict: "good", "defective", or "unknown" without a threshold.
      score: its image score.
      p_value: see `thresholds.p_values`; None without scores of good parts.
      regions: of its map above the threshold.
    """

    part: str
    verdict: str
    score: float
    p_value: float | None
    regions: list[Region]


class Ready(NamedTuple):
    """A part as a model takes it.

    Attributes:
      part: its arrays.
      prepared: the encoder's input, with a sentence for the user.
    """

    part: Sample
    prepared: Prepared


def limits(model: Bundle, false_alarms: float | None = None) -> Limits:
    """The thresholds of a model for a wished share of false alarms, by default the one that it was fitted with.

    Raises:
      InputError: if the wish is no share.
    """
    wish = model.ready.settings["false_alarms"] if false_alarms is None else false_alarms
    try:
        score, values = (thresholds.threshold(of, wish) for of in (model.good.scores, model.good.highest))
    except ValueError as error:
        raise InputError(f"--false_alarms: {error}") from error
    middle = values.value if np.isfinite(values.value) else max(np.max(model.good.highest, initial=0.0), 1.0)
    return Limits(score, values, _BRIGHTEST * float(middle))


def prepare(model: Bundle, record: Record) -> Ready:
    """Reads a part and prepares it.

    Raises:
      InputError: if the part cannot be used.
    """
    part, seen = inputs.examine(record, model.ready.spec.preparation)
    prepared = inputs.network_input(part.rgb, seen, model.ready.spec.preparation.size)
    size = part.rgb.shape[:2]
    notes = [prepared.note]
    if size != model.good.size:
        ours, theirs = (f"{width}x{height} pixels" for height, width in (size, model.good.size))
        notes.append(f"its image has {ours}, those of the good parts have {theirs}; is it the same camera?")
    return Ready(part, prepared._replace(note="; ".join(filter(None, notes))))


def judge(
    model: Bundle, limit: Limits, names: Sequence[str], parts: Sequence[Ready]
) -> list[tuple[Verdict, np.ndarray]]:
    """Verdicts on parts whose images are of one size, and their maps (h, w)."""
    images, masks = (np.stack([getattr(of.prepared, name) for of in parts]) for name in ("values", "mask"))
    size = parts[0].part.rgb.shape[:2]
    found = model.ready(images, masks, size)
    judged = zip(names, parts, np.asarray(found.maps), np.asarray(found.scores), strict=True)
    return [(_verdict(model, limit, name, of.part, values, float(score)), values) for name, of, values, score in judged]


def _verdict(model: Bundle, limit: Limits, name: str, part: Sample, values: np.ndarray, score: float) -> Verdict:
    good = model.good.scores
    p_value = float(thresholds.p_values(np.array([score]), good)[0]) if len(good) else None
    word = "unknown" if limit.score.kind == "none" else "defective" if score > limit.score.value else "good"
    xyz = part.xyz if part.xyz is not None and part.xyz.shape[:2] == values.shape else None
    return Verdict(name, word, score, p_value, regions.find(values, limit.values.value, xyz))
