"""Line charts as inline SVG: accuracy over shots, metrics over training."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from pirn_jax.report import tables

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 250, 52, 12, 12, 72
_LEGEND_COLUMNS, _LEGEND_ROW = 4, 18
_MOST_POINTS = 120
# Lines differ in dashes as well: colour alone tells nothing in print and to colour-blind eyes.
_DASHES = ("none", "7 4", "2 3", "9 3 2 3", "4 2")
_COLOURS = ("var(--good,#2a78b8)", "var(--defective,#d4601f)", "var(--third,#5b7f2b)")


class Line(NamedTuple):
    """One line of a chart, with a band around it.

    Attributes:
      name: for the legend.
      x: positions, rising.
      y: values; where one is not finite there is no point.
      low: lower end of the band at each point.
      high: upper end of the band at each point.
    """

    name: str
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]


def line_svg(title: str, lines: Sequence[Line], ticks: Sequence[tuple[float, str]], x_label: str) -> str:
    """A line chart.

    Args:
      title: what it shows, for readers who do not see it.
      lines: any number; those without a finite point only stand in the legend.
      ticks: positions and labels of the horizontal axis, first and last at its ends.
      x_label: what the horizontal axis shows.
    """
    lines = [_finite(line) for line in lines]
    ends = [end for line in lines for end in (*line.low, *line.high)] or [0.0, 1.0]
    levels = [(level, f"{level:.4g}") for level in nice_ticks(min(ends), max(ends))]
    height = _HEIGHT + _LEGEND_ROW * ((len(lines) - 1) // _LEGEND_COLUMNS)
    opening = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" font-size="11"><title>{html.escape(title)}</title>'
    return "".join([opening, *_panel(lines, ticks, levels, x_label), "</svg>"])


def log_panels_svg(title: str, panels: Mapping[str, Sequence[Line]]) -> str:
    """Line charts side by side, two a row, as an SVG file of its own; both axes are logarithmic.

    All have one vertical axis, from power of ten to power of ten. Horizontal ticks are at the points of the first line.

    Args:
      title: what it shows, for readers who do not see it.
      panels: lines by what their horizontal axis shows; everything is positive and finite.
    """
    logs = {
        name: [Line(line.name, *(np.log10(values) for values in line[1:])) for line in lines]
        for name, lines in panels.items()
    }
    ends = [end for lines in logs.values() for line in lines for end in (*line.low, *line.high)]
    lowest = math.floor(min(ends))
    powers = range(lowest, max(math.ceil(max(ends)), lowest + 1) + 1)
    levels = [(float(power), f"{10.0**power:g}") for power in powers]
    width, height = 2 * _WIDTH, _HEIGHT * -(-len(panels) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-size="11" '
        f'font-family="sans-serif"><title>{html.escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, (name, lines) in enumerate(logs.items()):
        ticks = [(x, f"{10.0**x:g}") for x in lines[0].x.tolist()]
        row, column = divmod(number, 2)
        parts.append(f'<g transform="translate({column * _WIDTH} {row * _HEIGHT})">')
        parts += [*_panel(lines, ticks, levels, name), "</g>"]
    return "".join([*parts, "</svg>\n"])


def _panel(
    lines: Sequence[Line], ticks: Sequence[tuple[float, str]], levels: Sequence[tuple[float, str]], x_label: str
) -> list[str]:
    """Axes, lines and legend of a chart; levels are the ticks of the vertical axis, first and last at its ends."""
    (start, _), (stop, _), (low, _), (high, _) = ticks[0], ticks[-1], levels[0], levels[-1]

    def place(x: int | float, y: int | float) -> tuple[float, float]:
        across = (x - start) / (stop - start) if stop > start else 0.5
        up = (y - low) / (high - low)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP)

    parts = []
    for level, label in levels:
        y = place(start, level)[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".18"/>')
        parts.append(text(_LEFT - 6, y + 4, label, "end"))
    parts += [text(place(x, 0)[0], _HEIGHT - _BOTTOM + 17, label) for x, label in ticks]
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 34, x_label))
    for number, line in enumerate(lines):
        parts += _drawn(line, number, place)
    return [*parts, *_legend(lines)]


def _finite(line: Line) -> Line:
    kept = np.isfinite([line.y, line.low, line.high]).all(0)
    return Line(line.name, *(values[kept] for values in line[1:]))


def nice_ticks(low: float, high: float) -> list[float]:
    """Two to six levels at a step of 1, 2 or 5 times a power of ten that enclose `low` and `high`."""
    extent = max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    power = 10.0 ** math.floor(math.log10(extent / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= extent / 4)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [step * i for i in range(first, max(last, first + 1) + 1)]


def _style(number: int) -> str:
    return f"stroke:{_COLOURS[number % len(_COLOURS)]};stroke-dasharray:{_DASHES[number % len(_DASHES)]}"


def _drawn(line: Line, number: int, place: Callable[[float, float], tuple[float, float]]) -> list[str]:
    points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
    if not points:
        return []
    edge = [*zip(line.x, line.low, strict=True), *reversed([*zip(line.x, line.high, strict=True)])]
    band = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in edge)
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    colour = _COLOURS[number % len(_COLOURS)]
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:{colour}"/>' for x, y in points]
    return [
        f'<polygon points="{band}" style="fill:{colour};fill-opacity:.15"/>',
        f'<polyline points="{path}" fill="none" stroke-width="2" style="{_style(number)}"/>',
        *(dots if len(points) <= 12 else []),
    ]


def _legend(lines: Sequence[Line]) -> list[str]:
    columns = min(max(len(lines), 1), _LEGEND_COLUMNS)
    parts = []
    for number, line in enumerate(lines):
        row, column = divmod(number, columns)
        x, y = 8 + column * (_WIDTH - 8) / columns, _HEIGHT - 14 + row * _LEGEND_ROW
        parts.append(f'<path d="M{x:.0f} {y}h22" stroke-width="2" style="{_style(number)}"/>')
        parts.append(text(x + 27, y + 4, line.name, "start"))
    return parts


def text(x: int | float, y: int | float, words: str, anchor: str = "middle") -> str:
    """SVG of some words at a place, in the colour of the page's text."""
    words = html.escape(words)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:currentColor">{words}</text>'


def shots_svg(results: dict[str, Any]) -> str:
    """Mean of every metric over the numbers of shots, the band its deviation over seeds; steps are drawn equal."""
    shots = tables.shots_in_order(results)
    x = np.arange(len(shots), dtype=float)

    def line(metric: str, name: str) -> Line:
        means = [results["mean"][key][metric] for key in shots]
        y, std = (np.array([mean[end] for mean in means], float) for end in ("mean", "std"))
        std = np.nan_to_num(std)
        return Line(name, x, y, y - std, y + std)

    lines = [line(metric, name) for metric, name in tables.METRICS.items()]
    title = "Means over categories by number of shots; the tables hold the numbers"
    return line_svg(title, lines, [*zip(x.tolist(), shots, strict=True)], "good parts learned from")


def training_svgs(histories: Mapping[str, Mapping[str, Float[np.ndarray, "_ _"]]]) -> list[tuple[str, str]]:
    """A chart per metric of the training: its mean over the runs of a number of shots, the band from least to most.

    Args:
      histories: by number of shots and by name, the metric of every run at every step.

    Returns:
      Names and charts.
    """
    names = dict.fromkeys(name for history in histories.values() for name in history)
    return [(name, _training_svg(name, {s: h[name] for s, h in histories.items() if name in h})) for name in names]


def _training_svg(name: str, values: Mapping[str, np.ndarray]) -> str:
    lines = [_training_line(tables.shots_label(shots), of_shots) for shots, of_shots in values.items()]
    last = max(of_shots.shape[1] for of_shots in values.values())
    ticks = [(float(step), f"{step}") for step in dict.fromkeys((1, (1 + last) // 2, last))]
    ends = ", ".join(f"{line.y[-1]:.3g} with {line.name}" for line in lines)
    return line_svg(f"{name} over up to {last} training steps, in the end {ends}", lines, ticks, "step")


def _training_line(name: str, values: Float[np.ndarray, "runs steps"]) -> Line:
    """Long trainings are cut into pieces of equal length, each of which is one point."""
    pieces = np.array_split(np.arange(values.shape[1]), min(values.shape[1], _MOST_POINTS))
    means = np.stack([values[:, piece].mean(1, dtype=float) for piece in pieces])
    x = np.array([piece.mean() + 1 for piece in pieces])
    return Line(name, x, means.mean(1), means.min(1), means.max(1))
