"""Finished runs side by side: how far their metrics are apart, and whether that is more than seeds explain."""

import math
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Float, UInt8

from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.report import figures, page, tables

CONFIDENCE = 0.95
"""Of the interval around a difference that has to leave out zero (our choice)."""

_UNDEFINED_ROW = {"cells": [tables.UNDEFINED] * 3, "verdict": "undefined", "paired": ""}


class Difference(NamedTuple):
    """Difference of a second run from a first one.

    Attributes:
      mean: difference of the means over seeds.
      error: its standard error, None with fewer than two seeds.
      paired: whether the seeds were compared one by one.
      verdict: "higher", "lower" or "within noise"; with one seed "noise unknown".
    """

    mean: float
    error: float | None
    paired: bool
    verdict: str


def difference(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"], paired: bool) -> Difference:
    """The difference of two metrics beside its noise.

    Paired, seeds are subtracted one by one, which removes what the draw of the good parts does to both runs. The
    error is that of the mean of these differences, else that of a difference of two independent means (Welch).
    The difference exceeds noise if its two-sided Student interval at `CONFIDENCE` leaves out zero.

    Args:
      first: a value per seed.
      second: a value per seed, of the same seeds if paired.
      paired: whether both runs have learned from the same parts at each seed.
    """
    mean = float(second.mean() - first.mean())
    if min(len(first), len(second)) < 2:
        return Difference(mean, None, paired, "noise unknown")
    if paired:
        error, freedom = float((second - first).std(ddof=1)) / math.sqrt(len(first)), len(first) - 1.0
    else:
        parts = [float(values.var(ddof=1)) / len(values) for values in (first, second)]
        error = math.sqrt(sum(parts))
        weights = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True))
        freedom = error**4 / weights if weights > 0 else 1.0
    reach = error * float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, freedom))
    # What is left of equal numbers after rounding is no difference.
    verdict = "within noise" if abs(mean) <= max(reach, 1e-12) else "higher" if mean > 0 else "lower"
    return Difference(mean, error, paired, verdict)


Rows = Sequence[tuple[str, Sequence[str]]]


class Part(NamedTuple):
    """A test part as several runs see it.

    Attributes:
      name: its category, defect and sample.
      pictures: images under the headings to show: the photo, the geometry, the map of each run, the marked defect.
    """

    name: str
    pictures: Mapping[str, UInt8[np.ndarray, "h w 3"]]


def write_page(
    path: str | os.PathLike[str],
    runs: Mapping[str, dict[str, Any]],
    columns: Sequence[str] = (),
    overview: Mapping[str, Rows] = MappingProxyType({}),
    parts: Sequence[Part] = (),
) -> None:
    """Writes a page that compares every run with the first, or replaces it in one step.

    Args:
      path: the HTML file.
      runs: content of `results.json` by the name to show.
      columns: of the overview.
      overview: tables to begin with by their captions, rows of names and texts.
      parts: test parts to show after them.

    Raises:
      InputError: if a run has no category and number of shots in common with the first.
    """
    (base, first), *others = runs.items()
    text = page.render(
        "comparison.html.jinja",
        names=list(runs),
        columns=columns,
        overview=overview,
        parts=[(part.name, {name: figures.data_uri(image) for name, image in part.pictures.items()}) for part in parts],
        sections=[_section(base, first, name, second) for name, second in others],
        different=_different([results["settings"] for results in runs.values()]),
        environments=_different([results["versions"] for results in runs.values()]),
        confidence=f"{100 * CONFIDENCE:.0f} %",
        gradient=figures.heat_gradient(),
    )
    atomic.write_text(path, text)


def _different(facts: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Facts that are not the same in all runs, one text a run and "–" where a run does not know it."""
    names = dict.fromkeys(name for of_run in facts for name in of_run)
    texts = {name: [page.plain(f[name]) if name in f else tables.UNDEFINED for f in facts] for name in names}
    return {name: values for name, values in texts.items() if len(set(values)) > 1}


def _section(base: str, first: dict[str, Any], name: str, second: dict[str, Any]) -> dict[str, Any]:
    """All tables of a pair of runs, and one sentence on them."""
    shots = [some for some in tables.shots_in_order(first) if _common(first, second, some)]
    if not shots:
        raise InputError(f"{name}: has no category and shots in common with {base}; compare runs of the same parts")
    found = [
        {"caption": f"{label}, {tables.shots_label(some)}", "rows": _rows(first, second, some, metric)}
        for some in shots
        for metric, label in tables.METRICS.items()
    ]
    verdicts = [row["verdict"] for table in found for row in table["rows"]]
    counts = {word: verdicts.count(word) for word in ("higher", "lower", "within noise", "noise unknown", "undefined")}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return {"base": base, "name": name, "tables": found, "told": f"of {len(verdicts)} differences, {told}."}


def _common(first: dict[str, Any], second: dict[str, Any], shots: str) -> list[str]:
    return [c for c in first["results"].get(shots, {}) if c in second["results"].get(shots, {})]


def _paired(first: dict[str, Any], second: dict[str, Any], shots: str, category: str) -> bool:
    """True if both runs have learned from the same parts of the same data set at every seed."""
    episodes = [results["episodes"][shots][category] for results in (first, second)]
    return first["dataset"] == second["dataset"] and episodes[0] == episodes[1]


def _rows(first: dict[str, Any], second: dict[str, Any], shots: str, metric: str) -> list[dict[str, Any]]:
    """A row for each common category, and one for the mean over those where both runs define the metric."""
    rows, firsts, seconds, pairs = [], [], [], []
    for category in _common(first, second, shots):
        ours, theirs = (results["results"][shots][category][metric] for results in (first, second))
        if not ours or not theirs or None in (*ours, *theirs):
            rows.append(_UNDEFINED_ROW | {"name": category})
            continue
        firsts.append(np.array(ours, float))
        seconds.append(np.array(theirs, float))
        pairs.append(_paired(first, second, shots, category))
        rows.append(_row(category, firsts[-1], seconds[-1], pairs[-1]))
    if len(rows) > 1 and firsts:
        rows.append(_row("Mean", np.mean(firsts, axis=0), np.mean(seconds, axis=0), all(pairs)))
    return rows


def _row(name: str, first: Float[np.ndarray, " n"], second: Float[np.ndarray, " m"], paired: bool) -> dict[str, Any]:
    found = difference(first, second, paired)
    error = "" if found.error is None else f" ± {found.error:.3f}"
    texts = [tables.score_text(*tables.summarize(values.tolist())) for values in (first, second)]
    return {
        "name": name,
        "cells": [*texts, f"{found.mean:+.3f}{error}".replace("-", "\N{MINUS SIGN}")],
        "verdict": found.verdict,
        "paired": "paired" if paired else "not paired",
    }
