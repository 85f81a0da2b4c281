"""Vector graphics of studies by matplotlib, as SVG and PDF.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; what they say is said by line, marker or
hatching, too, so that it survives grey print.
"""

import contextlib
import importlib.util
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from pirn_jax import atomic
from pirn_jax.data.problems import InputError

NORMAL, ANOMALOUS = "#0072B2", "#D55E00"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_MARKERS = "osD^vPX"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # Text stays text.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # Equal figures are equal files.
    "svg.hashsalt": "pirn_jax",
}


def require() -> None:
    """Raises InputError if a package that graphics need is missing."""
    if missing := [name for name in ("matplotlib", "sklearn") if importlib.util.find_spec(name) is None]:
        raise InputError(f"figures need {' and '.join(missing)}; pip install 'pirn_jax[paper]'")


@contextlib.contextmanager
def drawing(path: pathlib.Path, rows: int, columns: int, size: tuple[float, float]) -> Iterator[np.ndarray]:
    """Axes (rows, columns) to draw on, written to the path with the suffixes .svg and .pdf; the size is in inches."""
    import matplotlib as mpl
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):  # pyright: ignore
        figure = Figure(figsize=size, layout="constrained")
        yield figure.subplots(rows, columns, squeeze=False)
        for canvas, suffix in ((FigureCanvasSVG, "svg"), (FigureCanvasPdf, "pdf")):
            with atomic.replacing(path.with_suffix(f".{suffix}")) as file:
                date = {"Date" if suffix == "svg" else "CreationDate": None}
                canvas(figure).print_figure(file, format=suffix, metadata=date, dpi=200)


class Series(NamedTuple):
    """A line of a chart.

    Attributes:
      name: in the legend.
      values: at each place, None where there is none.
      errors: deviations of these, None where there are none.
      published: whether it is another's: dashed, hollow and pale.
    """

    name: str
    values: Sequence[float | None]
    errors: Sequence[float | None]
    published: bool


def lines(path: pathlib.Path, places: Sequence[str], series: Sequence[Series], label: str, along: str) -> None:
    """Values over numbers of shots, which stand at equal distances."""
    with drawing(path, 1, 1, (5.2, 3.4)) as axes:
        ((ax,),) = axes
        families = list(dict.fromkeys(of.name.split(" (")[0] for of in series))
        for of in series:
            kind = families.index(of.name.split(" (")[0]) % len(_COLOURS)
            known = [
                (i, value, error or 0.0)
                for i, (value, error) in enumerate(zip(of.values, of.errors, strict=True))
                if value is not None
            ]
            if not known:
                continue
            x, y, error = zip(*known, strict=True)
            look: dict[str, Any] = {
                "color": _COLOURS[kind],
                "marker": _MARKERS[kind],
                "markersize": 4,
                "label": of.name,
            }
            if of.published:
                ax.plot(x, y, linestyle="--", linewidth=0.9, markerfacecolor="white", alpha=0.75, **look)
            else:
                ax.errorbar(x, y, error, linestyle="-", linewidth=1.8, capsize=2, **look)
        ax.set_xticks(range(len(places)), places)
        ax.set_xlabel(along)
        ax.set_ylabel(label)
        ax.grid(axis="y", linewidth=0.4, alpha=0.5)
        ax.figure.legend(loc="outside right upper")


class Cloud(NamedTuple):
    """Tokens and prototypes in a plane.

    Attributes:
      title: above it.
      tokens: of them.
      prototypes: of them.
      shares: of the tokens that each prototype is assigned.
    """

    title: str
    tokens: Float[np.ndarray, "n 2"]
    prototypes: Float[np.ndarray, "k 2"]
    shares: Float[np.ndarray, " k"]


def clouds(path: pathlib.Path, found: Sequence[Cloud]) -> None:
    """Tokens as dots, prototypes as circles whose area is the share of the tokens assigned to them, crosses if none."""
    with drawing(path, 1, len(found), (3.4 * len(found), 3.3)) as axes:
        for ax, cloud in zip(axes[0], found, strict=True):
            ax.scatter(*cloud.tokens.T, s=3, color="#9A9A9A", linewidths=0, label="patch tokens")
            used = cloud.shares >= 0.01
            sizes = 20 + 500 * cloud.shares[used]
            look = {"facecolors": NORMAL, "edgecolors": "black", "linewidths": 0.8, "alpha": 0.75}
            ax.scatter(*cloud.prototypes[used].T, s=sizes, label="prototypes, by share of tokens", **look)
            idle = {"marker": "X", "color": ANOMALOUS, "edgecolors": "black", "linewidths": 0.6}
            ax.scatter(*cloud.prototypes[~used].T, s=45, label="prototypes with under 1 %", **idle)
            ax.set_title(cloud.title)
            ax.set_xticks([])
            ax.set_yticks([])
        handles, labels = axes[0][0].get_legend_handles_labels()
        axes[0][0].figure.legend(handles, labels, loc="outside lower center", ncols=3)


class Scores(NamedTuple):
    """Values of normal and of anomalous samples.

    Attributes:
      title: above them.
      normal: of normal ones.
      anomalous: of the others.
    """

    title: str
    normal: Float[np.ndarray, " n"]
    anomalous: Float[np.ndarray, " m"]


def histogram(ax: Any, scores: Scores, label: str, bins: int = 24) -> None:
    """Two histograms of equal area on one axis, one filled and one hatched."""
    low, high = (end(np.concatenate([scores.normal, scores.anomalous])) for end in (np.min, np.max))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    filled = {"color": NORMAL, "alpha": 0.55, "label": f"normal ({len(scores.normal)})"}
    ax.hist(scores.normal, edges, density=True, **filled)
    hatched = {"edgecolor": ANOMALOUS, "facecolor": "none", "hatch": "////", "linewidth": 1.0}
    ax.hist(
        scores.anomalous,
        edges,
        density=True,
        histtype="stepfilled",
        label=f"anomalous ({len(scores.anomalous)})",
        **hatched,
    )
    ax.set_title(scores.title)
    ax.set_xlabel(label)
    ax.locator_params(axis="x", nbins=4)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    # Room for the legend above the bars.
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])
    ax.legend(loc="upper right", fontsize=7)


def histograms(path: pathlib.Path, found: Sequence[Scores], label: str) -> None:
    """Histograms side by side."""
    with drawing(path, 1, len(found), (3.1 * len(found), 2.4)) as axes:
        for ax, scores in zip(axes[0], found, strict=True):
            histogram(ax, scores, label)


class Moves(NamedTuple):
    """Tokens before and after their reconstruction, in a plane.

    Attributes:
      title: above them.
      prototypes: in the plane.
      before: normal and anomalous tokens.
      after: the same.
      lengths: of the moves of images, in all dimensions.
    """

    title: str
    prototypes: Float[np.ndarray, "k 2"]
    before: tuple[np.ndarray, np.ndarray]
    after: tuple[np.ndarray, np.ndarray]
    lengths: Scores


def moves(path: pathlib.Path, found: Sequence[Moves]) -> None:
    """A plane of moves above the histogram of their lengths, for each category and modality."""
    with drawing(path, 2, len(found), (2.5 * len(found), 4.6)) as axes:
        for i, (upper, lower, of) in enumerate(zip(*axes, found, strict=True)):
            ends = zip((NORMAL, ANOMALOUS), ("-", "--"), ("normal", "anomalous"), of.before, of.after, strict=True)
            for colour, line, name, start, end in ends:
                if not len(start):
                    continue
                for a, b in zip(start, end, strict=True):
                    upper.plot(*np.stack([a, b]).T, color=colour, alpha=0.18, linewidth=0.6, linestyle=line)
                look = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.2, "linestyle": line, "mutation_scale": 11}
                upper.annotate("", end.mean(0), start.mean(0), arrowprops=look, zorder=5)
                upper.plot([], [], color=colour, linestyle=line, linewidth=2.0, label=f"{name}, mean")
            upper.scatter(
                *of.prototypes.T,
                marker="X",
                s=34,
                color="#777777",
                edgecolors="black",
                linewidths=0.6,
                label="prototypes",
                zorder=4,
            )
            upper.set_title(of.title)
            upper.set_xticks([])
            upper.set_yticks([])
            histogram(lower, of.lengths._replace(title=""), "mean displacement of an image")
            if not i:
                upper.legend(loc="best", fontsize=7)


def panels(path: pathlib.Path, rows: Mapping[str, Mapping[str, UInt8[np.ndarray, "h w 3"]]]) -> None:
    """Pictures under their headings, a row for each sample."""
    headings = list(next(iter(rows.values())))
    with drawing(path, len(rows), len(headings), (1.35 * len(headings) + 0.2, 1.35 * len(rows) + 0.2)) as axes:
        for y, (name, pictures) in enumerate(rows.items()):
            for x, heading in enumerate(headings):
                ax = axes[y][x]
                ax.imshow(pictures[heading])
                ax.set_xticks([])
                ax.set_yticks([])
                ax.set_frame_on(False)
                if not y:
                    ax.set_title(heading)
            axes[y][0].set_ylabel(name, fontsize=6)
