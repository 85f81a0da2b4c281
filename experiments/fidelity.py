"""Departures from the PIRN paper, and what each changes: differences of distances, and of image AUROC.

    python -m experiments.fidelity

PIRN is trained on built-in parts as it is here, scored by the paper's cosine distances, and again with one thing at a
time as the paper prints it, or as it could be meant where the paper says nothing. Good parts, first parameters and
order of batches are the same. docs/fidelity.md says why each departs.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from absl import app, flags

from experiments import builtin_parts
from experiments.paper.studies import Done, Setting, changed, run_all
from pirn_jax import cache
from pirn_jax.encoders import pretrained
from pirn_jax.report import sheet
from pirn_jax.study import groups
from pirn_jax.training import parallel
from tools import console

_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 2, "How many random draws of the good parts.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 16, "Patches along a side.", lower_bound=1)
_ENCODER = flags.DEFINE_string("encoder", "builtin", "Frozen encoder, or several side by side.")
_CATEGORIES = flags.DEFINE_list("categories", ["gear", "knob"], "Built-in categories.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/fidelity", "Where the studies go.")


class Departure(NamedTuple):
    """Something that the paper says otherwise, or does not say.

    Attributes:
      name: in words.
      ours: in words.
      other: as the paper prints it, or what it could mean.
      changes: of the default that make it so.
    """

    name: str
    ours: str
    other: str
    changes: dict[str, Any]


DEPARTURES = (
    Departure("scale of the plan (Eq. 2)", "rows sum to 1", "rows sum to 1/n, as printed", {"plan_scale": "literal"}),
    Departure("injection (Eq. 5)", "without the token", "with the token, as printed", {"injection": "paper"}),
    Departure("both of these", "as above", "both as printed", {"injection": "paper", "plan_scale": "literal"}),
    Departure("gate at the start (Eq. 5)", "gamma = 1", "gamma = 0, shut", {"gate_init": 0.0}),
    Departure("entropy of transport (Eq. 1)", "0.05", "0.2; unsaid", {"epsilon": 0.2}),
    Departure("Sinkhorn iterations", "20", "200; unsaid", {"sinkhorn_iterations": 200}),
    Departure("graph attention added", "added", "in place of the prototypes; unsaid", {"gat_residual": False}),
    Departure("self-edges of the graph", "there", "none; unsaid", {"gat_self_edges": False}),
    Departure("neighbours in the graph", "3", "1; unsaid", {"neighbours": 1}),
    Departure("heads of the graph attention", "4", "1; unsaid", {"heads": 1}),
    Departure(
        "prototypes of the layers", "handed on", "each its own; Algorithm 1 hands on", {"layer_prototypes": True}
    ),
    Departure(
        "prototypes at the start", "unit noise", "patches; the paper says random", {"prototype_start": "patches"}
    ),
    Departure("exponent of soft mining", "3, INP-Former's", "0, a plain cosine loss", {"mining_exponent": 0.0}),
    Departure("tokens", "one scale a modality", "each of unit length; unsaid", {"tokens": "length"}),
    Departure(
        "training",
        "10 epochs at 3e-3, batches of 4",
        "80 epochs at 1e-4, batches of 2 (unsaid)",
        {"epochs": 80, "learning_rate": 1e-4, "batch_size": 2},
    ),
    Departure("precision", "float32", "bfloat16 (an option)", {"precision": "bfloat16"}),
)
"""Settings whose effect shows in the cosine distances; docs/fidelity.md has departures of inputs and scores, too."""


class Effect(NamedTuple):
    """Difference between two studies of the same parts.

    Attributes:
      apart: mean absolute difference of patch distances.
      typical: mean distance in the first.
      rank: Spearman's correlation of the distances.
      auroc: difference of the image AUROC, second minus first.
    """

    apart: float
    typical: float
    rank: float
    auroc: float


def effect(first: Done, second: Done) -> Effect:
    """The difference in both modalities together, over all test patches of the part and all seeds."""
    ours, other = (_distances(done) for done in (first, second))
    # Off the part the distance is zero.
    ours, other = ours[ours != 0], other[ours != 0]
    aurocs = [_auroc(done) for done in (first, second)]
    rank = float(scipy.stats.spearmanr(ours, other)[0])  # pyright: ignore
    return Effect(float(np.abs(other - ours).mean()), float(ours.mean()), rank, aurocs[1] - aurocs[0])


def _distances(done: Done) -> np.ndarray:
    runs = groups.by_run(done.groups)
    return np.concatenate([runs[run][0].ravel() for run in sorted(runs)])


def _auroc(done: Done) -> float:
    (means,) = done.content["mean"].values()
    return means["image_auroc"]["mean"]


def _run() -> None:
    home, output = cache.cache_directory(), pathlib.Path(_OUTPUT.value)
    parallel.keep_compiled(home / "xla")
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
    title = f"{', '.join(_CATEGORIES.value)}, {_SHOTS.value} shots, {_SEEDS.value} seeds, {where}"
    section = sheet.Section("fidelity", "Departures from the paper", [sheet.Grid(title, header, rows)])
    print(sheet.text(section))


def main(arguments: list[str]) -> None:
    """Prints what each departure changes."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError, FloatingPointError))


if __name__ == "__main__":
    app.run(main)
