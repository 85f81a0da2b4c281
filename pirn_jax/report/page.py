"""The result of a run as one HTML file that needs nothing but itself: no network, no script, no second file."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from pirn_jax import atomic
from pirn_jax.report import figures, tables

KINDS = ("best detected", "worst detected", "false alarm")
_SUMMARY = (
    "With {count} good part{plural} per category, the mean over {categories} and {seeds} is "
    "{image} image AUROC, {pixel} pixel AUROC and {aupro} AUPRO@30%."
)


@dataclass(frozen=True)
class Picture:
    """One test part as the method saw it; all arrays share height and width.

    Attributes:
      kind: "best detected", "worst detected" or "false alarm".
      sample_id: the part's name in the data set.
      defect: the name of its defect, "good" for a good part.
      score: its anomaly score, the larger the more anomalous.
      rgb: the photo.
      normals: surface normals drawn as colours.
      maps: an anomaly map per modality under the name to show, such as "RGB map".
      fused: the anomaly map of all modalities together.
      gt: where the defect is, None where nobody marked it.
    """

    kind: str
    sample_id: str
    defect: str
    score: float
    rgb: UInt8[np.ndarray, "h w 3"]
    normals: UInt8[np.ndarray, "h w 3"]
    maps: dict[str, Float[np.ndarray, "h w"]]
    fused: Float[np.ndarray, "h w"]
    gt: Bool[np.ndarray, "h w"] | None

    def __post_init__(self) -> None:
        """Refuses an unknown kind."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of picture {self.kind!r}: choose from {', '.join(KINDS)}")


@dataclass(frozen=True)
class Gallery:
    """Telling test parts of one run (category, shots, seed), with the scores of all its test parts.

    Attributes:
      shots: a key of `results["results"]`.
      category: a key below it.
      seed: which repeat, from 0.
      pictures: the parts to show, in order.
      good_scores: scores of the good test parts.
      defect_scores: scores of the defective test parts.
      scale: anomaly shown darkest and brightest in every fused map of the category.
    """

    shots: str
    category: str
    seed: int
    pictures: list[Picture]
    good_scores: Float[np.ndarray, " n"]
    defect_scores: Float[np.ndarray, " m"]
    scale: tuple[float, float]


@dataclass(frozen=True)
class _Panel:
    """One image of a row: its heading, a `data:` address (None if there is nothing to show) and its text in words."""

    name: str
    uri: str | None
    alt: str


def write_page(path: str | os.PathLike[str], results: dict[str, Any], galleries: Sequence[Gallery]) -> None:
    """Writes the page, or replaces it in one step.

    Args:
      path: the HTML file.
      results: the dictionary of `results.json`.
      galleries: shown in this order; may be empty.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pirn_jax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(
        results=results,
        notes=results.get("notes", []),
        seeds=_seeds(results),
        summary=[_summary(results, shots) for shots in _extremes(tables.shots_in_order(results))],
        metrics=list(tables.METRICS.values()),
        tables=[_table(results, shots) for shots in tables.shots_in_order(results)],
        galleries=[_gallery(gallery) for gallery in galleries],
        gradient=figures.heat_gradient(),
        settings={name: _plain(value) for name, value in results["settings"].items()},
        timings={name.removesuffix("_s"): _seconds(value) for name, value in results["timings"].items()},
    )
    atomic.write_text(path, text)


def _extremes(shots: list[str]) -> list[str]:
    """The most shots, then the fewest if they differ: a sentence each."""
    return list(dict.fromkeys(shots[-1:] + shots[:1]))


def _seeds(results: dict[str, Any]) -> str:
    most = max((tables.seed_count(categories) for categories in results["results"].values()), default=0)
    return "1 seed" if most == 1 else f"{most} seeds"


def _summary(results: dict[str, Any], shots: str) -> str:
    categories, seeds = results["results"][shots], tables.seed_count(results["results"][shots])
    image, pixel, aupro = (text.replace(" ", "\N{NO-BREAK SPACE}") for text in tables.mean_row(results, shots))
    return _SUMMARY.format(
        count=shots,
        plural="" if shots == "1" else "s",
        categories="1 category" if len(categories) == 1 else f"{len(categories)} categories",
        seeds="1 seed" if seeds == 1 else f"{seeds} seeds",
        image=image,
        pixel=pixel,
        aupro=aupro,
    )


def _table(results: dict[str, Any], shots: str) -> dict[str, Any]:
    seeds = tables.seed_count(results["results"][shots])
    return {
        "caption": f"{tables.shots_label(shots)}, " + ("1 seed" if seeds == 1 else f"mean ± std over {seeds} seeds"),
        "rows": tables.category_rows(results, shots),
        "mean": tables.mean_row(results, shots),
    }


def _gallery(gallery: Gallery) -> dict[str, Any]:
    names = list(dict.fromkeys(name for picture in gallery.pictures for name in picture.maps))
    scales = {
        name: _extent([picture.maps[name] for picture in gallery.pictures if name in picture.maps]) for name in names
    }
    return {
        "category": gallery.category,
        "run": f"{tables.shots_label(gallery.shots)}, seed {gallery.seed}",
        "histogram": figures.histogram_svg(gallery.good_scores, gallery.defect_scores),
        "rows": [(picture, _panels(picture, scales, gallery.scale)) for picture in gallery.pictures],
        "scales": [(name, *_ends(*scale)) for name, scale in {"Fused map": gallery.scale, **scales}.items()],
    }


def _extent(maps: list[np.ndarray]) -> tuple[float, float]:
    """The scale that the maps of one modality share: their smallest and largest finite value, 0 to 0 without any."""
    values = np.concatenate([values[np.isfinite(values)] for values in maps])
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _panels(picture: Picture, scales: dict[str, tuple[float, float]], scale: tuple[float, float]) -> list[_Panel]:
    maps = {name: figures.heat(values, *scales[name]) for name, values in picture.maps.items()}
    images = {"RGB": picture.rgb, "Normals": picture.normals, **maps}
    images["Fused map"] = figures.overlay(picture.rgb, picture.fused, *scale)
    panels = [_Panel(name, figures.data_uri(image), f"{name} of {picture.sample_id}") for name, image in images.items()]
    return [*panels, _truth(picture)]


def _truth(picture: Picture) -> _Panel:
    if picture.gt is None:
        return _Panel("Ground truth", None, "no mask")
    if not picture.gt.any():
        return _Panel("Ground truth", None, "no defect")
    share = f"{100 * picture.gt.mean():.2g} % of the image"
    uri = figures.data_uri(figures.outline(picture.rgb, picture.gt))
    return _Panel("Ground truth", uri, f"{picture.sample_id} with the marked defect outlined, {share}")


def _ends(low: float, high: float) -> list[str]:
    """The ends of a scale in three digits; one that is nothing but rounding beside the other is 0."""
    return [f"{0 if abs(end) < 1e-6 * (high - low) else end:.3g}" for end in (low, high)]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _seconds(value: float | None) -> str:
    return tables.UNDEFINED if value is None else f"{value:,.1f} s"
