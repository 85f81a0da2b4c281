"""The result of a run as one HTML file that needs nothing but itself: no network, no second file."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jinja2
import numpy as np

from pirn_jax import atomic
from pirn_jax.methods import METHODS
from pirn_jax.methods.base import Published
from pirn_jax.report import charts, figures, tables
from pirn_jax.report.pictures import KINDS, Gallery, Picture

__all__ = ["KINDS", "Gallery", "Picture", "plain", "render", "write_page"]

_SUMMARY = "With {count} good part{plural} per category, the mean over {categories} and {seeds} is {values}."


@dataclass(frozen=True)
class _Panel:
    """One image of a row: its heading, a `data:` address (None if there is nothing to show) and its text in words."""

    name: str
    uri: str | None
    alt: str


def write_page(
    path: str | os.PathLike[str],
    results: dict[str, Any],
    galleries: Sequence[Gallery],
    histories: Mapping[str, Mapping[str, np.ndarray]] = MappingProxyType({}),
) -> None:
    """Writes the page, or replaces it in one step.

    Args:
      path: the HTML file.
      results: the dictionary of `results.json`.
      galleries: shown in this order; may be empty.
      histories: what training measured, see `charts.training_svgs`; may be empty.
    """
    shots = tables.shots_in_order(results)
    text = render(
        "page.html.jinja",
        results=results,
        notes=results.get("notes", []),
        seeds=_seeds(results),
        summary=[*(_summary(results, some) for some in _extremes(shots)), *_categories_in_words(results, shots)],
        metrics=list(tables.METRICS.values()),
        tables=[_table(results, some) for some in shots],
        undefined=_undefined(results),
        measured=tables.settings_text(results),
        breakdowns=_breakdowns(results, shots[-1]) if shots else [],
        over_shots=charts.shots_svg(results) if len(shots) > 1 else "",
        training=charts.training_svgs(histories),
        trainings=[(tables.shots_label(some), *tables.training_table(results, some)) for some in shots],
        galleries=[_gallery(gallery) for gallery in galleries],
        gradient=figures.heat_gradient(),
        settings={name: plain(value) for name, value in results["settings"].items()},
        timings={name.removesuffix("_s"): _seconds(value) for name, value in results["timings"].items()},
    )
    atomic.write_text(path, text)


def render(template: str, **values: Any) -> str:
    """A template of this package filled in; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pirn_jax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _extremes(shots: list[str]) -> list[str]:
    """The most shots, then the fewest if they differ: a sentence each."""
    return list(dict.fromkeys(shots[-1:] + shots[:1]))


def _seeds(results: dict[str, Any]) -> str:
    return tables.seeds_label(max(map(tables.seed_count, results["results"].values()), default=0))


def _summary(results: dict[str, Any], shots: str) -> str:
    categories, seeds = results["results"][shots], tables.seed_count(results["results"][shots])
    means = zip(tables.mean_row(results, shots), tables.METRICS.values(), strict=True)
    told = [text.replace(" ", "\N{NO-BREAK SPACE}") + f" {name}" for text, name in means if text != tables.UNDEFINED]
    return _SUMMARY.format(
        count=shots,
        plural="" if shots == "1" else "s",
        categories="1 category" if len(categories) == 1 else f"{len(categories)} categories",
        seeds=tables.seeds_label(seeds),
        values=", ".join(told[:-1]) + " and " * (len(told) > 1) + (told[-1] if told else "undefined"),
    )


def _categories_in_words(results: dict[str, Any], shots: list[str]) -> list[str]:
    """The easiest and the hardest category with the most shots, where there is a difference."""
    categories = results["results"][shots[-1]] if shots else {}
    means = {name: tables.summarize(values["image_auroc"])[0] for name, values in categories.items()}
    ranked = sorted((mean, name) for name, mean in means.items() if mean is not None)
    if len(ranked) < 2 or ranked[0][0] == ranked[-1][0]:
        return []
    (low, worst), (high, best) = ranked[0], ranked[-1]
    return [f"Defects are told best in {best} ({high:.3f} image AUROC) and worst in {worst} ({low:.3f})."]


def _table(results: dict[str, Any], shots: str) -> dict[str, Any]:
    seeds = tables.seed_count(results["results"][shots])
    return {
        "caption": f"{tables.shots_label(shots)}, " + ("1 seed" if seeds == 1 else f"mean ± std over {seeds} seeds"),
        "rows": tables.category_rows(results, shots),
        "mean": tables.mean_row(results, shots),
        "published": [
            (
                f"{row.source}, mean of {row.categories} categories",
                [tables.score_text(getattr(row, metric), None) for metric in tables.METRICS],
            )
            for row in published(results, shots)
        ],
    }


def published(results: dict[str, Any], shots: str) -> list[Published]:
    """Rows of the method's paper for a run's data set and number of shots; `tfds:NAME` is the same data as NAME."""
    dataset = str(results["dataset"]).removeprefix("tfds:").split("/")[0].removeprefix("pirn_")
    rows = METHODS[results["method"]].published if results["method"] in METHODS else ()
    return [row for row in rows if (row.dataset, row.shots) == (dataset, shots)]


def _breakdowns(results: dict[str, Any], shots: str) -> list[dict[str, Any]]:
    """A table by kind of defect, category by category, and one by size of region over all categories."""
    kinds, sizes = (results.get(key, {}).get(shots, {}) for key in ("by_defect", "by_size"))
    of_pixels = [name for name in tables.METRICS if not name.startswith("image")]
    good = results.get("good_parts", {})
    by_kind = [(name, _kind_rows(groups, good.get(name, 0))) for name, groups in kinds.items()]
    by_size = [("", tables.group_rows(list(sizes.values()), of_pixels))]
    return [
        {
            "caption": f"{heading}, {tables.shots_label(shots)}",
            "heading": heading,
            "columns": ["parts", "regions", *(tables.METRICS[name] for name in metrics), *more],
            "groups": groups,
        }
        for heading, metrics, more, groups in (
            ("Kind of defect", list(tables.METRICS), ["95 % interval of image AUROC"], by_kind),
            ("Size of region", of_pixels, [], by_size),
        )
        if any(rows for _, rows in groups)
    ]


def _kind_rows(groups: dict[str, Any], good: int) -> list[tuple[str, list[str]]]:
    """Kinds of defects of a category, with the interval of the image AUROC that so few parts leave."""
    rows = tables.group_rows([groups], list(tables.METRICS))
    return [(name, [*cells, tables.interval_text(groups[name], good)]) for name, cells in rows]


def _undefined(results: dict[str, Any]) -> list[str]:
    """Why metrics are shown as a dash, a sentence each, where the results say so."""
    return [
        f"{category}: {kind} metrics are undefined: {reason}."
        for category, reasons in results.get("undefined", {}).items()
        for kind, reason in reasons.items()
    ]


def _gallery(gallery: Gallery) -> dict[str, Any]:
    names = list(dict.fromkeys(name for picture in gallery.pictures for name in picture.maps))
    share = _common_scale(gallery.pictures)
    return {
        "category": gallery.category,
        "run": f"{tables.shots_label(gallery.shots)}, seed {gallery.seed}",
        "histogram": figures.histogram_svg(gallery.good_scores, gallery.defect_scores),
        "rows": [(picture, _panels(picture, gallery.scale, share)) for picture in gallery.pictures],
        "scales": [("Fused map", *_ends(*gallery.scale)), *((name, *_ends(*share)) for name in names)],
    }


def _common_scale(pictures: Sequence[Picture]) -> tuple[float, float]:
    """Smallest and largest value of the single maps of some pictures."""
    ends = [(values.min(), values.max()) for picture in pictures for values in picture.maps.values()]
    return float(min((low for low, _ in ends), default=0)), float(max((high for _, high in ends), default=1))


def _panels(picture: Picture, scale: tuple[float, float], share: tuple[float, float]) -> list[_Panel]:
    maps = {name: figures.heat(values, *share) for name, values in picture.maps.items()}
    images = {"RGB": picture.rgb, picture.geometry_name: picture.geometry, **maps}
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


def plain(value: Any) -> str:
    """A JSON value as text, words without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _seconds(value: float | None) -> str:
    return tables.UNDEFINED if value is None else f"{value:,.1f} s"
