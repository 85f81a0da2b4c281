"""Tables of the PIRN paper: which studies are behind their rows, and how both stand beside each other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper import published
from experiments.paper.published import MVTEC, TITLES, Values
from experiments.paper.studies import Done, Setting, Study, all_shots, changed, run_all
from pirn_jax.report.sheet import Grid, Section
from pirn_jax.report.tables import METRICS, UNDEFINED, score_text, seeds_label, summarize
from pirn_jax.training.episodes import ALL

COLUMNS = ("AUROC_I", "AUROC_P", "AUPRO")
TABLES = (1, 2, 3, 4, 5, 6, 9, 10, 11)
_FEW = ("5", "10", "50")
SHOTS = {1: list(map(int, _FEW))}
"""Few shots of tables with others than 10."""

CSV_HEADER = (
    "table",
    "row",
    "shots",
    "column",
    "published",
    "published_dataset",
    "ours",
    "ours_std",
    "ours_dataset",
    "difference",
)

OURS = {"PIRN": "pirn", "CFM": "cfm", "INP-Former": "inp_former"}
"""Methods of the paper's tables that are here, by their names there."""

_NOT_HERE = "BTF, AST, M3DM, 3D-ADNAS and Shape Guided are not implemented here: their rows are the paper's alone"

_MODULES = {
    "w/o BPA, APR, MNC": {"assignment": "softmax", "apr": False, "mnc": False},
    "w/o BPA": {"assignment": "softmax"},
    "w/o APR": {"apr": False},
    "w/o MNC": {"mnc": False},
    "full PIRN": {},
}
_ASSIGNMENTS = {
    "softmax attention": {"assignment": "softmax"},
    "linear attention": {"assignment": "linear"},
    "sigmoid attention": {"assignment": "sigmoid"},
    "balanced optimal transport": {},
}
_CONTEXTS = {
    "w/o APR": {"apr": False},
    "global averaging": {"contexts": "mean"},
    "top-k averaging": {"contexts": "nearest"},
    "balanced optimal transport": {},
}
_BACKBONES = {
    "DINOv1 ViT-B/8": "dino_vitb8",
    "DINOv2 ViT-B/14": "dinov2_vitb14",
    "DINOv2 ViT-L/14": "dinov2_vitl14",
}
_WITHOUT_BPA = "what the paper puts in BPA's place is not said; here it is a softmax of each patch"
_ABLATIONS: dict[int, tuple[str, dict[str, Values], dict[str, dict[str, Any]], list[str]]] = {
    2: ("modules on and off", published.MODULES, _MODULES, [_WITHOUT_BPA]),
    3: ("assignments of BPA", published.ASSIGNMENTS, _ASSIGNMENTS, []),
    4: ("contexts of APR", published.CONTEXTS, _CONTEXTS, []),
    9: ("assignments of BPA, printed again in the appendix", published.ASSIGNMENTS, _ASSIGNMENTS, []),
}


class Line(NamedTuple):
    """A row of means over categories.

    Attributes:
      name: of the row.
      published: by data set.
      study: behind our numbers, None where there is none.
      shots: the paper's, as text.
    """

    name: str
    published: Mapping[str, Values]
    study: Study | None
    shots: str = "10"

    @property
    def comparable(self) -> bool:
        """True if both learned from the same number of good parts."""
        return self.study is not None and self.shots in ("all", str(self.study.shots))


class Made(NamedTuple):
    """A table as text, and its numbers in full.

    Attributes:
      section: for the terminal and the page.
      numbers: rows under `CSV_HEADER`.
    """

    section: Section
    numbers: list[list[Any]]


def title(dataset: str) -> str:
    """A data set in words."""
    return TITLES.get(dataset, dataset)


def make(number: int, shots: Sequence[int], dataset: str, setting: Setting) -> Made:
    """Runs the studies behind a table and puts them beside the paper's rows.

    Args:
      number: one of `TABLES`.
      shots: of Table 1's few-shot rows; 10 of these, or the first, is that of all other tables.
      dataset: ours.
      setting: of all studies.
    """
    if number == 1:
        return _few_shot(shots, dataset, setting)
    few = 10 if 10 in shots else shots[0]
    if number in _ABLATIONS:
        heading, told, changes, notes = _ABLATIONS[number]
        lines = [Line(name, {MVTEC: told[name]}, changed(few, **changes[name])) for name in told]
        return _means(number, f"{heading}, {few} shots", lines, dataset, setting, notes)
    if number == 10:
        lines = [
            Line(name, {MVTEC: values}, Study(few, encoder=_BACKBONES[name]))
            for name, values in published.BACKBONES.items()
        ]
        lines.append(Line(f"ours: {setting.encoder.name}", {}, changed(few)))
        return _means(number, f"encoders, {few} shots", lines, dataset, setting, [])
    if number == 6:
        return _real_iad(few, dataset, setting)
    return _per_category(number, few, dataset, setting)


def _few_shot(shots: Sequence[int], dataset: str, setting: Setting) -> Made:
    every, notes = all_shots(shots, setting)
    asked = {**_rows_of(shots[: len(_FEW)]), "all": every}

    def study(row: published.FewShot) -> Study | None:
        return Study(asked[row.shots], OURS[row.method]) if row.shots in asked and row.method in OURS else None

    lines = [Line(f"{row.shots:>3} {row.method}", row.values, study(row), row.shots) for row in published.FEW_SHOT]
    notes = [_NOT_HERE, *notes]
    moved = [f"{place} stand ours of {count}" for place, count in asked.items() if place not in (str(count), "all")]
    if moved:
        notes.append(f"in the rows of {', of '.join(moved)} shots")
    return _means(1, "few shots and all", lines, dataset, setting, notes)


def _rows_of(shots: Sequence[int]) -> dict[str, int]:
    """Rows of Table 1 and the numbers of good parts in them: the paper's own, and others in the rows that are left."""
    left = [row for row in _FEW if int(row) not in shots]
    return {str(count) if str(count) in _FEW else left.pop(0): count for count in shots}


def _means(
    number: int, heading: str, lines: Sequence[Line], dataset: str, setting: Setting, notes: Sequence[str]
) -> Made:
    done = run_all([line.study for line in lines if line.study], setting)
    told = list(dict.fromkeys(name for line in lines for name in line.published))
    same = dataset in told
    rows, numbers, missing = [], [], []
    for line in lines:
        found = done.get(line.study) if line.study else None
        ours = summaries(found.content) if isinstance(found, Done) else [(None, None)] * len(COLUMNS)
        paper = {of: line.published.get(of, (None,) * len(COLUMNS)) for of in told}
        beside = paper[dataset] if same and line.comparable else [None] * len(COLUMNS)
        apart = [_apart(*of) for of in zip((mean for mean, _ in ours), beside, strict=True)] if same else []
        cells = [score_text(value, None) for of in told for value in paper[of]]
        cells += [score_text(*of) for of in ours] + list(map(_signed, apart))
        rows.append([line.name, *cells])
        if isinstance(found, str):
            missing.append(f"{line.name.strip()} was not run: {found}")
        numbers += _numbers(number, line, dataset, ours)
    if not same:
        theirs = " and ".join(map(title, told))
        notes = [*notes, f"ours are of {title(dataset)}, the paper's of {theirs}: not the same parts"]
    groups = [*(f"{title(of)} (paper)" for of in told), f"{title(dataset)} (ours)", *["ours - paper"] * same]
    spans = [(group, len(COLUMNS)) for group in groups]
    header = ["", *COLUMNS * len(groups)]
    several = seeds_label(setting.seeds) + ", mean ± deviation over seeds" * (setting.seeds > 1)
    grid = Grid(several, header, rows, spans)
    return Made(Section(f"table-{number}", f"Table {number}: {heading}", [grid], notes=[*notes, *missing]), numbers)


def summaries(content: Mapping[str, Any]) -> list[tuple[float | None, float | None]]:
    """Mean of each of `METRICS` over categories, and its deviation over seeds; image AUROC is the first."""
    (means,) = content["mean"].values()
    return [_mean(means[metric], content) for metric in METRICS]


def _mean(of: Mapping[str, float | None], content: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """A mean over categories with its deviation over seeds; one seed has none."""
    return of["mean"], of["std"] if content["settings"]["seeds"] > 1 else None


def _apart(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _signed(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def _numbers(
    number: int, line: Line, dataset: str, ours: Sequence[tuple[float | None, float | None]]
) -> list[list[Any]]:
    found, shots = [], None if line.study is None else line.study.shots
    for i, (column, (mean, std)) in enumerate(zip(METRICS, ours, strict=True)):
        for of, values in line.published.items() or {"": (None,) * len(COLUMNS)}.items():
            apart = _apart(mean, values[i]) if of == dataset and line.comparable else None
            found.append([number, line.name.strip(), shots, column, values[i], of, mean, std, dataset, apart])
    return found


class Block(NamedTuple):
    """A metric of a table by category.

    Attributes:
      metric: key of results.
      title: in words.
      published: rows of the paper, by category and their mean.
    """

    metric: str
    title: str
    published: Mapping[str, Mapping[str, float | None]]


def _per_category(number: int, few: int, dataset: str, setting: Setting) -> Made:
    columns = (*published.MVTEC_CATEGORIES, "mean")
    blocks = [
        Block(metric, METRICS[metric], {name: _named(columns, values) for name, values in rows.items()})
        for metric, rows in published.PER_CATEGORY.items()
    ]
    where = "" if number == 5 else ", printed again in the appendix"
    heading = f"categories, all shots{where}"
    return _categories(number, heading, blocks, (MVTEC, columns), few, dataset, setting, [_NOT_HERE])


def _named(columns: Sequence[str], values: Values) -> Mapping[str, float | None]:
    return dict(zip(columns, values, strict=True))


def _real_iad(few: int, dataset: str, setting: Setting) -> Made:
    names = tuple(dict.fromkeys(name for told in published.REALIAD_TOLD.values() for name in told))
    blocks = []
    for i, metric in enumerate(("image_auroc", "pixel_auroc")):
        told: dict[str, dict[str, float | None]] = {}
        for name, values in published.REALIAD_MEANS.items():
            mean = {} if values[i] is None else {"mean": values[i]}
            told[name] = {**(published.REALIAD_TOLD.get(name, {}) if i == 0 else {}), **mean}
        blocks.append(Block(metric, METRICS[metric], told))
    notes = ["of the paper's table the averages and the categories that its text names are legible in the copy at hand"]
    columns = published.REALIAD, (*names, "mean")
    return _categories(6, "Real-IAD D3, all shots", blocks, columns, few, dataset, setting, notes)


def _categories(
    number: int,
    heading: str,
    blocks: Iterable[Block],
    columns: tuple[str, Sequence[str]],
    few: int,
    dataset: str,
    setting: Setting,
    notes: Sequence[str],
) -> Made:
    """Blocks of the paper's rows and ours; where the data sets differ, in tables of their own."""
    studies = {"PIRN, all shots (ours)": Study(ALL), f"PIRN, {few} shots (ours)": Study(few)}
    done = run_all(studies.values(), setting)
    of, published_columns = columns
    same = of == dataset
    mine = (*setting.splits, "mean")
    grids, numbers = [], []
    for block in blocks:
        shown = published_columns if not same else tuple(dict.fromkeys([*mine[:-1], *published_columns]))
        rows = [[name, *_texts(values, shown)] for name, values in block.published.items()]
        grids.append(Grid(f"{block.title}, {title(of)} (paper)", ["", *shown], rows))
        theirs = next((values for name, values in block.published.items() if name.startswith("PIRN")), {})
        rows = []
        for name, study in studies.items():
            found = done[study]
            if isinstance(found, str):
                continue
            values = _of_categories(found.content, block.metric)
            rows.append([name, *(score_text(*values[column]) for column in mine)])
            apart = {c: _apart(values[c][0], theirs.get(c)) for c in mine} if same and study.shots == ALL else {}
            if apart:
                rows.append(["ours - paper", *(_signed(apart[column]) for column in mine)])
            numbers += [
                [number, name, study.shots, f"{block.metric}, {c}", theirs.get(c) if same else None, of if same else ""]
                + [*values[c], dataset, apart.get(c)]
                for c in mine
            ]
        numbers += [
            [number, f"{name} (paper)", ALL, f"{block.metric}, {column}", value, of, None, None, "", None]
            for name, told in block.published.items()
            for column, value in told.items()
        ]
        if rows:
            grids.append(
                Grid(f"{block.title}, {title(dataset)} (ours), {seeds_label(setting.seeds)}", ["", *mine], rows)
            )
    missing = [f"{name} was not run: {done[of]}" for name, of in studies.items() if isinstance(done[of], str)]
    if not same:
        notes = [*notes, f"ours are of {title(dataset)}, the paper's of {title(of)}: not the same parts"]
    return Made(Section(f"table-{number}", f"Table {number}: {heading}", grids, notes=[*notes, *missing]), numbers)


def _texts(values: Mapping[str, float | None], columns: Iterable[str]) -> list[str]:
    return [score_text(values.get(column), None) for column in columns]


def _of_categories(content: Mapping[str, Any], metric: str) -> dict[str, tuple[float | None, float | None]]:
    (results,) = content["results"].values()
    (means,) = content["mean"].values()
    found = {category: summarize(values[metric]) for category, values in results.items()}
    return {**found, "mean": _mean(means[metric], content)}
