"""Sections of tables and figures: as text, as files that a page is made of, and as that page."""

import base64
import json
import os
import pathlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.report import page

_FOLDER = "sections"


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
      caption: its title.
      header: of each column.
      rows: cells, the row's name first.
      groups: headings above the columns after the first, each with the number of columns that it spans.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[tuple[str, int]] = ()


@dataclass(frozen=True)
class Plot:
    """A vector graphic.

    Attributes:
      stem: name of its files, with the suffixes .svg and .pdf, beside the page.
      caption: what it shows.
    """

    stem: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One table or figure of a paper.

    Attributes:
      name: such as "table-2".
      title: heading.
      grids: tables.
      plots: graphics.
      notes: sentences, of rows that could not be run among them.
    """

    name: str
    title: str
    grids: Sequence[Grid] = ()
    plots: Sequence[Plot] = ()
    notes: Sequence[str] = field(default=())


def text(section: Section) -> str:
    """The section for a terminal."""
    blocks = [section.title, *map(_lines, section.grids)]
    blocks += [f"{plot.stem}.svg, .pdf: {plot.caption}" for plot in section.plots]
    return "\n\n".join([*blocks, *["\n".join(f"Note: {note}." for note in section.notes)] * bool(section.notes)])


def _lines(grid: Grid) -> str:
    widths = [max(map(len, column)) for column in zip(grid.header, *grid.rows, strict=True)]
    above, first = [" " * widths[0]], 1
    for heading, span in grid.groups:
        # A heading wider than its columns widens the last of them.
        own = sum(widths[first : first + span]) + 2 * (span - 1)
        widths[first + span - 1] += max(0, len(heading) - own)
        above.append(heading.rjust(max(own, len(heading))))
        first += span
    rule = "─" * (sum(widths) + 2 * len(widths) - 2)

    def line(cells: Sequence[str]) -> str:
        name, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([cells[0].ljust(len(name)), *others]).rstrip()

    heads = ["  ".join(above).rstrip()] * bool(grid.groups)
    return "\n".join([grid.caption, *heads, line(grid.header), rule, *map(line, grid.rows)])


def save(directory: pathlib.Path, section: Section) -> None:
    """Keeps a section for the page of its directory, or replaces it."""
    atomic.write_text(directory / _FOLDER / f"{section.name}.json", json.dumps(asdict(section), indent=1))


def write_page(directory: pathlib.Path, title: str, facts: dict[str, str]) -> pathlib.Path:
    """Writes `paper.html` of all sections that are kept in a directory, in the order of their kinds and numbers.

    Raises:
      InputError: if a section or one of its graphics cannot be read.
    """
    sections = [_read(path) for path in sorted((directory / _FOLDER).glob("*.json"), key=_order)]
    shown = [{**found, "plots": [(plot, _address(directory, plot)) for plot in found["plots"]]} for found in sections]
    path = directory / "paper.html"
    atomic.write_text(path, page.render("sheet.html.jinja", title=title, facts=facts, sections=shown, gradient="none"))
    return path


def _order(path: pathlib.Path) -> tuple[bool, int]:
    """Tables before figures, by number."""
    return path.stem.startswith("figure"), int("".join(re.findall(r"\d", path.stem)) or 0)


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it and run its table or figure again") from error


def _address(directory: str | os.PathLike[str], plot: dict[str, str]) -> str:
    path = pathlib.Path(directory) / f"{plot['stem']}.svg"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); run its figure again") from error
    return f"data:image/svg+xml;base64,{base64.b64encode(content).decode('ascii')}"
