"""Departures from the PIRN paper as settings, and the difference that one makes to distances and image AUROC."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from experiments.paper.studies import Done
from pirn_jax.study import groups


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
