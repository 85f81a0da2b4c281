"""Qualitative figures: test samples with the maps of their branches, or of several methods."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from experiments.paper.studies import Done, Setting, Study
from pirn_jax import scoring
from pirn_jax.data import sample
from pirn_jax.report import figures, gallery, plots
from pirn_jax.report.sheet import Plot, Section
from pirn_jax.study import groups
from pirn_jax.study.spec import Spec
from pirn_jax.training.episodes import Run

_ROWS, _LOW = 6, 0.02
"""Most samples of a figure, and quantile of the distances on parts that is dark: off them they are 0 (our choice)."""
_TITLES = {
    5: "Figure 5: various defects under both branches",
    6: "Figure 6: the largest defects",
    7: "Figure 7: localisation; the paper's is of Eyecandies after 5 shots",
    8: "Figure 8: localisation; the paper's is of MVTec 3D-AD after 5 shots",
}


class Chosen(NamedTuple):
    """A test sample.

    Attributes:
      category: its category.
      place: in the category's test split.
    """

    category: str
    place: int


def make(asked: Any) -> Section:
    """Figures 5 to 8: photo, geometry, maps of both branches and of their fusion, and the photo with the defect."""
    shots = asked.shots[0]
    (done,) = asked.run(Study(shots))
    chosen = list(asked.samples) or _choose(asked.number, asked.setting)
    rows = {_name(of, asked.setting): _branches(of, done, asked.setting) for of in chosen}
    plots.panels(asked.setting.output / asked.name, rows)
    plot = Plot(
        asked.name, f"Maps of PIRN, {shots} shots, seed 0; dark is the category's lowest value, bright its highest"
    )
    return Section(asked.name, _TITLES[asked.number], plots=[plot])


def compare(asked: Any, done: Mapping[str, Done]) -> Plot:
    """Figure 3, left: fused maps of several methods."""
    chosen, rows = list(asked.samples) or _choose(3, asked.setting), {}
    for of in chosen:
        records = asked.setting.splits[of.category].test
        runs = {name: (found.spec, *_run(found, of.category)) for name, found in done.items()}
        rows[_name(of, asked.setting)] = gallery.side_by_side("", records, of.place, runs).pictures
    plots.panels(asked.setting.output / f"{asked.name}-left", rows)
    return Plot(f"{asked.name}-left", f"Fused maps after {asked.shots[0]} shots, seed 0")


def _name(of: Chosen, setting: Setting) -> str:
    record = setting.splits[of.category].test[of.place]
    return f"{of.category}\n{record.defect} {record.id.split('/')[-1]}"


def _run(done: Done, category: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances and scales of the run of seed 0."""
    return groups.by_run(done.groups)[Run(category, done.spec.shots[0], 0)]


def _choose(number: int, setting: Setting) -> list[Chosen]:
    """A defective sample of each category: of Figure 6 the largest marked, else of a kind that differs by figure."""
    chosen = []
    for place, (category, split) in enumerate(setting.splits.items()):
        defects = [i for i, record in enumerate(split.test) if record.defective]
        if not defects:
            continue
        if number == 6:
            sizes = [_size(split.test[i]) for i in defects]
            chosen.append(Chosen(category, defects[int(np.argmax(sizes))]))
            continue
        kinds = list(dict.fromkeys(split.test[i].defect for i in defects))
        kind = kinds[(place + number) % len(kinds)]
        chosen.append(Chosen(category, next(i for i in defects if split.test[i].defect == kind)))
    if number == 6:
        sizes = [_size(setting.splits[of.category].test[of.place]) for of in chosen]
        chosen = [chosen[i] for i in np.argsort(sizes)[::-1]]
    return chosen[:_ROWS]


def _size(record: sample.Record) -> float:
    """Share of the image that is marked."""
    gt = sample.load_gt(record)
    return 0.0 if gt is None else float(gt.mean())


def _branches(of: Chosen, done: Done, setting: Setting) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    records, spec = setting.splits[of.category].test, done.spec
    distances, scales = _run(done, of.category)
    seen = gallery.see(records[of.place], spec)
    found = {"RGB": seen.rgb, spec.preparation.geometry.capitalize(): seen.geometry}
    for i, name in enumerate(spec.build().maps[: len(spec.modalities)]):
        heading = f"{'RGB' if name == 'rgb' else name.capitalize()} branch"
        found[heading] = _coloured(seen.rgb, distances[:, i] / scales[i], of.place, spec)
    found["Fused"] = _coloured(seen.rgb, scoring.fuse(distances, scales, spec.fusion), of.place, spec)
    return {**found, "Marked": seen.rgb if seen.gt is None else figures.outline(seen.rgb, seen.gt)}


def _coloured(
    rgb: UInt8[np.ndarray, "h w 3"], distances: Float[np.ndarray, "s n"], shown: int, spec: Spec
) -> UInt8[np.ndarray, "h w 3"]:
    """A sample's map over its photo, dark at the lowest distances on parts of the category, bright at the highest."""
    maps = [spec.maps.upsample(of, rgb.shape[:2]) for of in distances]
    on = distances[distances > 0]
    low, high = (float(np.quantile(on, _LOW)) if on.size else 0.0), float(np.max(maps))
    return figures.overlay(rgb, maps[shown], min(low, high), high)
