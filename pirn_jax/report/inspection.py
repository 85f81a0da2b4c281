"""The page of an inspection: verdicts, scores and maps of new parts, one file that needs nothing but itself."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pirn_jax import atomic
from pirn_jax.inspection.regions import Region
from pirn_jax.inspection.verdicts import Limits, Verdict
from pirn_jax.report import figures, page, tables

PICTURES = 40
"""Parts that are shown with pictures, those with the highest scores."""

_SIDE = 320
"""Longer side of a picture in pixels."""


class Shown(NamedTuple):
    """Arrays of a part for its pictures.

    Attributes:
      rgb: (h, w, 3) uint8.
      geometry: the image of its second modality, (s, s, 3) uint8.
      values: anomaly map (h, w).
    """

    rgb: np.ndarray
    geometry: np.ndarray
    values: np.ndarray


def overlay(rgb: np.ndarray, values: np.ndarray, limit: Limits) -> np.ndarray:
    """The map over the photo, with the regions above the threshold outlined; (h, w, 3) uint8."""
    drawn = figures.overlay(rgb, values, 0.0, limit.highest)
    return figures.outline(drawn, values > limit.values.value)


def region_text(region: Region) -> str:
    """A region in words."""
    words = [
        f"{region.pixels} pixels around row {region.row:.0f}, column {region.column:.0f}, up to {region.highest:.3f}"
    ]
    if region.area_mm2 is not None:
        words.append(f"{region.area_mm2:.3g} mm²")
    if region.centre_mm is not None:
        words.append("at x {:.1f}, y {:.1f}, z {:.1f} mm".format(*region.centre_mm))
    if region.height_mm is not None:
        kind = "rises" if region.height_mm >= 0 else "sinks"
        words.append(f"{kind} {abs(region.height_mm):.2f} mm against its neighbourhood")
    return "; ".join(words)


def write_page(
    path: str | os.PathLike[str],
    model: str,
    found: Sequence[tuple[Verdict, Shown | None]],
    limit: Limits,
    notes: Sequence[str],
) -> None:
    """Writes the page, or replaces it in one step.

    Args:
      path: of the HTML file.
      model: name of the model.
      found: the parts, the highest score first, with what is shown of them.
      limit: where good parts end.
      notes: sentences for the user.
    """
    counts = {word: sum(one.verdict == word for one, _ in found) for word in ("defective", "good", "unknown")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    hidden = sum(shown is None for _, shown in found)
    text = page.render(
        "inspection.html.jinja",
        model=model,
        summary=f"{len(found)} parts: {told}.",
        threshold="none" if limit.score.kind == "none" else f"{limit.score.value:.4g}",
        promise=limit.score.text,
        notes=list(notes),
        highest=f"{limit.highest:.3g}",
        gradient=figures.heat_gradient(),
        hidden=f"{hidden} parts with lower scores are not shown; their maps lie beside this page." if hidden else "",
        rows=[_row(one, shown, limit) for one, shown in found],
    )
    atomic.write_text(path, text)


def _row(one: Verdict, shown: Shown | None, limit: Limits) -> dict:
    pictures = {}
    if shown is not None:
        step = max(1, max(shown.values.shape) // _SIDE)
        small = shown._replace(rgb=shown.rgb[::step, ::step], values=shown.values[::step, ::step])
        images = {
            "RGB": small.rgb,
            "Surface": shown.geometry,
            "Map over the photo": overlay(small.rgb, small.values, limit),
        }
        pictures = {name: figures.data_uri(np.ascontiguousarray(image)) for name, image in images.items()}
    return {
        "part": one.part,
        "verdict": one.verdict,
        "defective": one.verdict == "defective",
        "score": f"{one.score:.4g}",
        "p_value": tables.UNDEFINED if one.p_value is None else f"{one.p_value:.3f}",
        "regions": [region_text(region) for region in one.regions],
        "pictures": pictures,
    }
