"""The numbers of a run as text: one table for the terminal and one CSV file.

All functions read the dictionary of `results.json`. A metric is a fraction in [0, 1], or None where it is undefined
(no defective part in the test set, say), which is shown as an en dash.
"""

import math
import os
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import Any

from pirn_jax import atomic
from pirn_jax.metrics import intervals

METRICS = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro_30": "AUPRO@30%"}
SETTINGS = ("form", "resolution", "thresholds", "ties", "connectivity")
"""What stands beside the numbers of how they were measured."""

UNDEFINED = "–"
TERMINAL_WIDTH = 80
_CELL_WIDTH = len("0.000 ± 0.000") + 2


def summarize(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and population standard deviation (divisor n, as `numpy.std`) over the seeds where a metric is defined.

    Args:
      values: one fraction in [0, 1] or None per seed.

    Returns:
      The mean, None if no value is defined, and the deviation, None with fewer than two values: one seed has no spread.
    """
    defined = [value for value in values if value is not None and math.isfinite(value)]
    if not defined:
        return None, None
    mean = math.fsum(defined) / len(defined)
    if len(defined) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in defined) / len(defined))


def score_text(mean: float | None, std: float | None) -> str:
    """`0.912 ± 0.004`, `0.912` without a deviation, or an en dash without a mean."""
    if mean is None or not math.isfinite(mean):
        return UNDEFINED
    return f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"


def shots_in_order(results: dict[str, Any]) -> list[str]:
    """The keys of `results["results"]`, counts first in rising order, then words such as `all`."""
    return sorted(results["results"], key=lambda shots: (not shots.isdecimal(), int(shots) if shots.isdecimal() else 0))


def shots_label(shots: str) -> str:
    """`1 shot`, `10 shots`, `all shots`."""
    return f"{shots} shot" if shots == "1" else f"{shots} shots"


def seeds_label(seeds: int) -> str:
    """`1 seed`, `10 seeds`."""
    return f"{seeds} seed" if seeds == 1 else f"{seeds} seeds"


def seed_count(categories: dict[str, Any]) -> int:
    """The largest number of seeds among the categories of one number of shots."""
    return max((len(values) for metrics in categories.values() for values in metrics.values()), default=0)


def mean_row(results: dict[str, Any], shots: str) -> list[str]:
    """The means over categories, one text a metric; a single seed is shown without a deviation."""
    several = seed_count(results["results"][shots]) > 1
    means = (results["mean"][shots][metric] for metric in METRICS)
    return [score_text(mean["mean"], mean["std"] if several else None) for mean in means]


def category_rows(results: dict[str, Any], shots: str) -> list[tuple[str, list[str]]]:
    """The categories in the order of the results, each with one `mean ± std` text a metric."""
    categories = results["results"][shots]
    return [
        (name, [score_text(*summarize(metrics[metric])) for metric in METRICS]) for name, metrics in categories.items()
    ]


def settings_text(results: dict[str, Any]) -> str:
    """Evaluation settings, one sentence; empty where the results have none."""
    known = {name: results["settings"].get(f"metrics_{name}") for name in SETTINGS}
    told = "; ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    return f"Metrics: {told}." if told else ""


def group_rows(categories: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Kinds of defects, or sizes, with parts, regions and one `mean ± std` text a metric.

    Args:
      categories: `results["by_defect"][shots][category]`, or of `by_size`, of one category or of several. Counts are
        sums over them; a metric is the mean over those where it is defined, its deviation is over seeds.
      metrics: names.
    """
    rows = []
    for name in dict.fromkeys(name for groups in categories for name in groups):
        some = [groups[name] for groups in categories if name in groups]
        regions = [group["regions"] for group in some if group["regions"] is not None]
        counts = [str(sum(group["parts"] for group in some)), str(sum(regions)) if regions else UNDEFINED]
        rows.append((name, [*counts, *(mean_text([group["metrics"][metric] for group in some]) for metric in metrics)]))
    return rows


def training_table(results: dict[str, Any], shots: str) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Names of what each training came to, and the categories, each with one `mean ± std` text a name.

    Image AUROCs before and after training are those of the first runs of each number of shots. Both returned lists are
    empty where nothing was trained.
    """
    trainings = results.get("trainings", {}).get(shots, {})
    names = list(dict.fromkeys(name for runs in trainings.values() for run in runs for name in run))
    rows = [
        (category, [score_text(*summarize([run[name] for run in runs if name in run])) for name in names])
        for category, runs in trainings.items()
    ]
    return [name.replace("_", " ") for name in names], rows if names else []


def interval_text(group: dict[str, Any], good: int) -> str:
    """Interval of the mean image AUROC of a kind of defect, `0.71 – 0.98`; see `intervals.auroc_interval`.

    Args:
      group: an entry of `results["by_defect"][shots][category]`.
      good: number of good test parts of the category, 0 if unknown.
    """
    mean, _ = summarize(group["metrics"]["image_auroc"])
    if mean is None or not good or not group["parts"]:
        return UNDEFINED
    low, high = intervals.auroc_interval(mean, group["parts"], good)
    return f"{low:.2f} – {high:.2f}"


def mean_text(categories: Sequence[Sequence[float | None]]) -> str:
    """`mean ± std` of the mean over categories, seed by seed; categories where a value is undefined are left out."""
    defined = [values for values in categories if None not in values]
    return score_text(*summarize([math.fsum(values) / len(values) for values in zip(*defined, strict=True)]))


def format_table(results: dict[str, Any]) -> str:
    """The table a run ends with: one block per number of shots, then the notes, at most 80 columns wide."""
    title = " · ".join(_printable(str(results[key])) for key in ("dataset", "method", "encoder"))
    heading = [_wrap(text) for text in (title, settings_text(results)) if text]
    blocks = ["\n".join(heading)] + [_block(results, shots) for shots in shots_in_order(results)]
    notes = [_wrap(f"Note: {_printable(note)}", indent="      ") for note in results.get("notes", [])]
    return "\n\n".join(blocks + ["\n".join(notes)] * bool(notes))


def _block(results: dict[str, Any], shots: str) -> str:
    rows = [(_printable(name), cells) for name, cells in category_rows(results, shots)]
    seeds = seed_count(results["results"][shots])
    heading = f"{shots_label(shots)}, {seeds_label(seeds)}"
    widest = max(_columns(name) for name in [heading, "mean", *(name for name, _ in rows)])
    width = min(widest, TERMINAL_WIDTH - _CELL_WIDTH * len(METRICS))
    lines = [_line(name, cells, width) for name, cells in rows]
    rule = "─" * (width + _CELL_WIDTH * len(METRICS))
    return "\n".join(
        [
            _line(heading, list(METRICS.values()), width),
            rule,
            *lines,
            rule,
            _line("mean", mean_row(results, shots), width),
        ]
    )


def _line(name: str, cells: list[str], width: int) -> str:
    while _columns(name) > width:
        name = name.removesuffix("…")[:-1] + "…"
    return name + " " * (width - _columns(name)) + "".join(cell.rjust(_CELL_WIDTH) for cell in cells)


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(text, TERMINAL_WIDTH, subsequent_indent=indent)


def _printable(text: str) -> str:
    """Names come from users' folders: no control character of theirs reaches the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _columns(text: str) -> int:
    """Terminal columns: two for wide East Asian characters, none for combining marks."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def write_csv(results: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes one row per shots, category and seed, metrics in full precision and empty where undefined.

    Args:
      results: the dictionary of `results.json`.
      path: the file to write or replace.
    """
    rows: list[list[Any]] = [["shots", "category", "seed", *METRICS]]
    for shots in shots_in_order(results):
        for category, metrics in results["results"][shots].items():
            columns = zip(*(metrics[metric] for metric in METRICS), strict=True)
            rows += ([shots, category, seed, *values] for seed, values in enumerate(columns))
    atomic.write_csv(path, rows)
