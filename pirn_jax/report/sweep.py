"""Table and page of a grid of hyperparameters."""

import pathlib
import statistics
from typing import Any, NamedTuple

import numpy as np

from pirn_jax import atomic
from pirn_jax.report import figures, page, tables
from pirn_jax.study import grid
from pirn_jax.study.grid import Grid

PAGE = "sweep.html"


class Row(NamedTuple):
    """One number of shots of one cell.

    Attributes:
      shots: number of good parts, as `results.json` has it.
      values: of the hyperparameters.
      scores: (mean, deviation) by metric, None where undefined.
    """

    shots: str
    values: tuple
    scores: dict[str, tuple[float | None, float | None]]


def rows(found: Grid) -> list[Row]:
    """Rows of all finished cells in the order of the grid, numbers of shots first."""
    some = [results for results in found.finished.values() if results]
    in_order = tables.shots_in_order({"results": {shots: None for results in some for shots in results["results"]}})
    return [
        Row(shots, tuple(cell.values()), {m: tuple(results["mean"][shots][m].values()) for m in tables.METRICS})
        for shots in in_order
        for cell, results in zip(grid.cells(found.parameters).values(), found.finished.values(), strict=True)
        if results and shots in results["results"]
    ]


def format_table(found: Grid) -> str:
    """The table that a sweep ends with."""
    heading = ["shots", *found.parameters, *tables.METRICS.values()]
    lines = [[row.shots, *map(page.plain, row.values), *_texts(row)] for row in rows(found)]
    widths = [max(map(len, column)) for column in zip(heading, *lines, strict=True)]
    text = ["  ".join(map(str.rjust, line, widths)) for line in (heading, *lines)]
    return "\n".join([text[0], "─" * len(text[0]), *text[1:], "", *summary(found)])


def _texts(row: Row) -> list[str]:
    return [tables.score_text(*score) for score in row.scores.values()]


def summary(found: Grid) -> list[str]:
    """Number of finished cells, and the range of their image AUROC beside the deviation of seeds, a sentence each."""
    done = sum(results is not None for results in found.finished.values())
    told = [f"{done} of {len(found.finished)} settings are finished."]
    by_shots: dict[str, list[Row]] = {}
    for row in rows(found):
        by_shots.setdefault(row.shots, []).append(row)
    for shots, some in by_shots.items():
        scored = [(score[0], row) for row in some if (score := row.scores["image_auroc"])[0] is not None]
        if len(scored) < 2:
            continue
        (low, _), (high, best) = min(scored, key=lambda s: s[0]), max(scored, key=lambda s: s[0])
        where = ", ".join(f"{name} {page.plain(v)}" for name, v in zip(found.parameters, best.values, strict=True))
        told.append(f"{tables.shots_label(shots)}: image AUROC from {low:.3f} to {high:.3f}, the highest with {where}.")
        spread = [deviation for row in some if (deviation := row.scores["image_auroc"][1]) is not None]
        if spread:
            told.append(f"Seeds of one setting deviate by {statistics.median(spread):.3f} (median of the settings).")
    return told


def write(directory: pathlib.Path) -> pathlib.Path:
    """Writes `sweep.html`, tables in colours of their numbers, and `sweep.csv`, of what is finished in a directory.

    Returns:
      The path of the page.

    Raises:
      InputError: see `read`.
    """
    found = grid.read(directory)
    atomic.write_csv(directory / "sweep.csv", _csv(found))
    text = page.render(
        "sweep.html.jinja",
        parameters={name: ", ".join(map(page.plain, values)) for name, values in found.parameters.items()},
        summary=summary(found),
        tables=[_table(found, metric, label) for metric, label in tables.METRICS.items()],
        cells=[(name, results is not None) for name, results in found.finished.items()],
        gradient=figures.heat_gradient(),
    )
    atomic.write_text(directory / PAGE, text)
    return directory / PAGE


def _csv(found: Grid) -> list[list[Any]]:
    columns = [f"{metric}_{part}" for metric in tables.METRICS for part in ("mean", "std")]
    lines: list[list[Any]] = [["shots", *found.parameters, *columns]]
    for row in rows(found):
        numbers = [number for score in row.scores.values() for number in score]
        lines.append([row.shots, *map(page.plain, row.values), *numbers])
    return lines


def _table(found: Grid, metric: str, label: str) -> dict[str, Any]:
    """A metric over the grid: the last hyperparameter across, numbers of shots and the others down."""
    *down, across = found.parameters
    scores: dict[tuple, dict[Any, tuple[float | None, float | None]]] = {}
    for row in rows(found):
        scores.setdefault((row.shots, *row.values[:-1]), {})[row.values[-1]] = row.scores[metric]
    means = [mean for line in scores.values() for mean, _ in line.values() if mean is not None]
    scale = (min(means), max(means)) if means else (0.0, 1.0)
    return {
        "label": label,
        "down": ["shots", *down],
        "across": across,
        "values": [page.plain(value) for value in found.parameters[across]],
        "rows": [
            ([page.plain(part) for part in head], [_cell(line.get(v), scale) for v in found.parameters[across]])
            for head, line in scores.items()
        ],
        "scale": [f"{end:.3f}" for end in scale],
    }


def _cell(score: tuple[float | None, float | None] | None, scale: tuple[float, float]) -> dict[str, str]:
    if score is None or score[0] is None:
        return {"text": tables.UNDEFINED, "style": ""}
    colour = figures.heat(np.array([[score[0]]]), *scale)[0, 0]
    ink = "#000" if colour @ [0.299, 0.587, 0.114] > 128 else "#fff"
    style = f"background:#{bytes(colour).hex()};color:{ink}"
    return {"text": tables.score_text(*score).replace(" ", "\N{NO-BREAK SPACE}"), "style": style}
