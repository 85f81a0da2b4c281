"""Departures from the PIRN paper, and what each changes: differences of distances, and of image AUROC.

    python -m experiments.fidelity

PIRN is trained on built-in parts as it is here, scored by the paper's cosine distances, and again with one thing at a
time as the paper prints it, or as it could be meant where the paper says nothing. Good parts, first parameters and
order of batches are the same. docs/fidelity.md says why each departs.
"""

import pathlib

from absl import app, flags

from experiments import builtin_parts
from experiments.departures import DEPARTURES, effect
from experiments.paper.studies import Setting, changed, run_all
from pirn_jax import cache
from pirn_jax.encoders import pretrained
from pirn_jax.report import sheet, tables
from pirn_jax.training import compiled
from tools import console

_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 2, "How many random draws of the good parts.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 16, "Patches along a side.", lower_bound=1)
_ENCODER = flags.DEFINE_string("encoder", "builtin", "Frozen encoder, or several side by side.")
_CATEGORIES = flags.DEFINE_list("categories", ["gear", "knob"], "Built-in categories.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/fidelity", "Where the studies go.")


def _run() -> None:
    home, output = cache.cache_directory(), pathlib.Path(_OUTPUT.value)
    compiled.keep(home / "xla")
    splits = builtin_parts.read(home, _CATEGORIES.value, 0)
    given = {"dataset": "procedural", "preparation": builtin_parts.preparation(), "grid": _GRID.value}
    config, encoder = {"score": "cosine"}, pretrained.load(_ENCODER.value)
    setting = Setting("default", config, {}, encoder, _SEEDS.value, given, splits, output, console.stage)
    base, studies = changed(_SHOTS.value), [changed(_SHOTS.value, **of.changes) for of in DEPARTURES]
    done = run_all([base, *studies], setting)
    first, rows = done[base], []
    for departure, study in zip(DEPARTURES, studies, strict=True):
        second = done[study]
        if isinstance(first, str) or isinstance(second, str):
            raise ValueError(f"{departure.name}: {first if isinstance(first, str) else second}")
        found = effect(first, second)
        numbers = f"{found.apart:.4f}", f"{found.apart / found.typical:.0%}", f"{found.rank:.3f}", f"{found.auroc:+.3f}"
        rows.append([departure.name, departure.ours, departure.other, *numbers])
    header = ["", "ours", "other", "mean |d' - d|", "of mean d", "rank correlation", "image AUROC"]
    where = f"{_ENCODER.value}, grid {_GRID.value}"
    title = f"{', '.join(_CATEGORIES.value)}, {_SHOTS.value} shots, {tables.seeds_label(_SEEDS.value)}, {where}"
    section = sheet.Section("fidelity", "Departures from the paper", [sheet.Grid(title, header, rows)])
    print(sheet.text(section))


def main(arguments: list[str]) -> None:
    """Prints what each departure changes."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError, FloatingPointError))


if __name__ == "__main__":
    app.run(main)
