"""Figures of the PIRN paper: what they show of our studies, as graphics and as numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.paper import displacement, pictures, published
from experiments.paper.pictures import Chosen
from experiments.paper.studies import Done, Setting, Study, all_shots, changed, run_all
from experiments.paper.tables import OURS, summaries, title
from experiments.paper.tokens import follow
from pirn_jax import scoring
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Record, Splits
from pirn_jax.report import plots
from pirn_jax.report.sheet import Grid, Plot, Section
from pirn_jax.report.tables import seeds_label
from pirn_jax.study import groups
from pirn_jax.training.episodes import ALL

FIGURES = (1, 3, 4, 5, 6, 7, 8)
SHOTS = {1: [5, 10, 50], 7: [5], 8: [5]}
"""Few shots of figures with others than 10."""

_TOKENS, _UNUSED = 600, 0.01
"""Tokens that are embedded, and share of them under which a prototype counts as out of use (our choice)."""


class Asked(NamedTuple):
    """A figure that is asked for.

    Attributes:
      number: of the figure.
      shots: of the studies behind it; the first where it has one number of them.
      dataset: ours.
      samples: to show; empty for a choice of the figure's own.
      setting: of all studies.
    """

    number: int
    shots: Sequence[int]
    dataset: str
    samples: Sequence[Chosen]
    setting: Setting

    @property
    def name(self) -> str:
        """Of its files."""
        return f"figure-{self.number}"

    def run(self, *studies: Study) -> list[Done]:
        """The finished studies.

        Raises:
          InputError: with the sentence of one that cannot be run.
        """
        found = []
        for study, done in run_all(studies, self.setting).items():
            if isinstance(done, str):
                raise InputError(f"--figure={self.number}: {study.name} cannot be run: {done}")
            found.append(done)
        return found


def find(names: Sequence[str], splits: Mapping[str, Splits]) -> list[Chosen]:
    """Test samples by names such as gear/test/good/000.

    Raises:
      InputError: naming the first that is not there, and some that are.
    """
    known = {
        f"{category}/{record.id}": Chosen(category, i)
        for category, split in splits.items()
        for i, record in enumerate(split.test)
    }
    for name in names:
        if name not in known:
            near = [other for other in known if other.split("/")[0] == name.split("/")[0]] or list(known)
            raise InputError(f"--samples={name}: no test sample; there are {len(near)} such as {', '.join(near[:3])}")
    return [known[name] for name in names]


def make(number: int, shots: Sequence[int], dataset: str, samples: Sequence[Chosen], setting: Setting) -> Section:
    """Runs the studies behind a figure and draws it.

    Args:
      number: one of `FIGURES`.
      shots: of Figure 1's few-shot points; of all others the first.
      dataset: ours.
      samples: to show; empty for a choice of the figure's own.
      setting: of all studies.

    Raises:
      InputError: if a study that it needs cannot be run.
    """
    drawn: dict[int, Callable[[Asked], Section]] = {1: _first, 3: _third, 4: _fourth}
    return drawn.get(number, pictures.make)(Asked(number, shots, dataset, samples, setting))


def _first(asked: Asked) -> Section:
    """Left: image AUROC over shots; right: tokens and prototypes of the first category, in RGB."""
    places = [*map(str, asked.shots), ALL]
    every, notes = all_shots(asked.shots, asked.setting)
    numbers = [*asked.shots, every]
    studies = {(method, shots): Study(shots, name) for method, name in OURS.items() for shots in numbers}
    done = run_all(studies.values(), asked.setting)
    reference = asked.dataset if asked.dataset in (published.MVTEC, published.EYECANDIES) else published.EYECANDIES
    series, rows = [], []
    for method in dict.fromkeys(row.method for row in published.FEW_SHOT):
        told = {row.shots: row.values[reference][0] for row in published.FEW_SHOT if row.method == method}
        values = [told.get(place) for place in places]
        series.append(plots.Series(f"{method} (paper, {title(reference)})", values, [None] * len(values), True))
        rows.append([series[-1].name, *map(_text, values)])
    for method in OURS:
        found = [done[studies[method, shots]] for shots in numbers]
        notes += [f"{method} was not run: {of}" for of in found if isinstance(of, str)]
        means = [(None, None) if isinstance(of, str) else summaries(of.content)[0] for of in found]
        values, errors = [mean for mean, _ in means], [error for _, error in means]
        series.append(plots.Series(f"{method} (ours, {title(asked.dataset)})", values, errors, False))
        rows.append([series[-1].name, *map(_text, values)])
    if reference != asked.dataset:
        notes.append(f"ours are of {title(asked.dataset)}, the paper's of {title(reference)}: not the same parts")
    plots.lines(asked.setting.output / f"{asked.name}-left", places, series, "image AUROC", "good parts to learn from")
    grid = Grid(f"Left: image AUROC, {seeds_label(asked.setting.seeds)}", ["", *places], rows)
    use, right = _codebooks(asked)
    left = Plot(f"{asked.name}-left", "Image AUROC over the number of good parts; published points dashed and hollow")
    heading = "Figure 1: few shots, and prototypes under two assignments"
    return Section(asked.name, heading, [grid, use], [left, right], list(dict.fromkeys(notes)))


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _codebooks(asked: Asked) -> tuple[Grid, Plot]:
    """t-SNE of RGB tokens with the first layer's prototypes, by softmax and by transport."""
    few = asked.shots[min(1, len(asked.shots) - 1)]
    forms = {"softmax": changed(few, assignment="softmax"), "transport (BPA)": changed(few)}
    found, rows, category = [], [], _categories(asked)[0]
    for name, done in zip(forms, asked.run(*forms.values()), strict=True):
        traced = follow(done, category, asked.setting.splits[category].test)
        good = [i for i, record in enumerate(traced.records) if not record.defective]
        tokens = traced.before[good, 0][traced.normal[good]]
        assigned = traced.plan[good, 0][traced.normal[good]].argmax(-1)
        prototypes = traced.prototypes[good, 0, 0].mean(0)
        shares = np.bincount(assigned, minlength=len(prototypes)) / len(assigned)
        entropy = -np.sum(shares * np.log(np.where(shares > 0, shares, 1.0)))
        used = int((shares >= _UNUSED).sum())
        rows.append([name, f"{used} of {len(shares)}", f"{np.exp(entropy):.1f}", f"{shares.max():.0%}"])
        few_tokens = tokens[np.random.default_rng(0).permutation(len(tokens))[:_TOKENS]]
        plane = displacement.embed(np.concatenate([few_tokens, prototypes]))
        heading = f"{name}: {used} of {len(shares)} prototypes in use"
        found.append(plots.Cloud(heading, plane[: len(few_tokens)], plane[len(few_tokens) :], shares))
    plots.clouds(asked.setting.output / f"{asked.name}-right", found)
    header = ["", "in use (1 % of tokens or more)", "effective number", "largest share"]
    grid = Grid(f"Right: use of prototypes, RGB, {category}, {few} shots, good test parts", header, rows)
    return grid, Plot(f"{asked.name}-right", f"t-SNE of RGB tokens and prototypes, {category}, {few} shots")


def _categories(asked: Asked) -> list[str]:
    """Those of the chosen samples, or all."""
    return list(dict.fromkeys(of.category for of in asked.samples)) or list(asked.setting.splits)


def _third(asked: Asked) -> Section:
    """Left: maps of several methods; right: image scores of normal and anomalous samples."""
    studies = {method: Study(asked.shots[0], name) for method, name in OURS.items()}
    done = dict(zip(studies, asked.run(*studies.values()), strict=True))
    found, rows = [], []
    for method, of in done.items():
        scores = [_scores(of, category, split.test) for category, split in asked.setting.splits.items()]
        normal, anomalous = (np.concatenate([pair[i] for pair in scores]) for i in range(2))
        found.append(plots.Scores(method, normal, anomalous))
        rows.append([method, f"{normal.mean():.3f}", f"{anomalous.mean():.3f}", f"{_overlap(normal, anomalous):.2f}"])
    plots.histograms(asked.setting.output / f"{asked.name}-right", found, "image score, 0 to 1 in each category")
    header = ["", "mean, normal", "mean, anomalous", "overlap of the histograms"]
    grid = Grid(
        f"Right: image scores, {asked.shots[0]} shots, all categories, {seeds_label(asked.setting.seeds)}", header, rows
    )
    left = pictures.compare(asked, done)
    right = Plot(f"{asked.name}-right", "Image scores of normal and anomalous test parts")
    return Section(asked.name, "Figure 3: anomaly maps and score distributions", [grid], [left, right])


def _scores(done: Done, category: str, records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Image scores of a category's normal and anomalous samples of all seeds, from 0 to 1 in each seed."""
    side, maps = done.spec.preparation.size, done.spec.maps
    defective = np.array([record.defective for record in records])
    normal, anomalous = [], []
    for run, (distances, scales) in groups.by_run(done.groups).items():
        if run.category == category:
            fused = [maps.fused(of, scales, (side, side)) for of in distances]
            scores = np.array([scoring.image_score(of, done.spec.metrics.top_share) for of in fused])
            scores = (scores - scores.min()) / max(np.ptp(scores), 1e-12)
            normal.append(scores[~defective])
            anomalous.append(scores[defective])
    return np.concatenate(normal), np.concatenate(anomalous)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Area that the histograms of two samples in [0, 1] have in common."""
    edges = np.linspace(0, 1, 25)
    shares = [np.histogram(of, edges)[0] / len(of) for of in (a, b)]
    return float(np.minimum(*shares).sum())


def _fourth(asked: Asked) -> Section:
    """Displacement of tokens in a plane of tokens and prototypes, and its lengths."""
    (done,) = asked.run(Study(asked.shots[0]))
    found, rows, ratios = [], [], []
    for category in _categories(asked):
        traced = follow(done, category, asked.setting.splits[category].test)
        for m, modality in enumerate(done.spec.modality_names):
            normal, anomalous = (float(traced.lengths[:, m][of].mean()) for of in (traced.normal, traced.anomalous))
            larger = anomalous / normal - 1
            ratios.append(larger)
            rows.append([f"{category}, {modality}", f"{normal:.2f}", f"{anomalous:.2f}", _percent(larger)])
            if len(found) < 4:
                chosen = [of.place for of in asked.samples if of.category == category]
                found.append(displacement.moves(traced, m, f"{category}, {modality}", chosen))
    plots.moves(asked.setting.output / asked.name, found)
    low, high = published.DISPLACEMENT
    rows.append(["mean", "", "", _percent(float(np.mean(ratios)))])
    rows.append(["paper, MVTec 3D-AD", "", "", f"+{low:.0%} to +{high:.0%}"])
    header = ["", "normal tokens", "anomalous tokens", "anomalous larger by"]
    grid = Grid(f"Mean displacement of tokens, {asked.shots[0]} shots, seed 0", header, rows)
    plot = Plot(asked.name, "Tokens before and after reconstruction in the plane of two principal components")
    return Section(asked.name, "Figure 4: displacement of tokens", [grid], [plot])


def _percent(share: float) -> str:
    """With its sign; a hair below zero is +0 %."""
    return f"{round(share, 2) + 0.0:+.0%}"
