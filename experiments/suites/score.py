"""Scoring from cached features beside PyTorch's, with the same weights: patch distances of test parts.

Sizes are those of a default study: 60 parts, 256 patches, the built-in encoder's 256 channels, the default config.
Everything is in seconds per part and run. Ours scores the parts under 10 runs in one compiled program, the reference in
inference mode under one run after another, of which one stands for all; both take the same number of parts at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.suites import timing
from pirn_jax import pirn
from pirn_jax.protocol import scoring

_RUNS, _PARTS, _PATCHES, _CHANNELS = 10, 60, 256, 256
_CONFIG = pirn.Config()


def _theirs(params: Any, features: np.ndarray) -> dict[str, Callable[[], Any]]:
    """Distances of all parts under one run."""
    import torch

    from experiments.baselines_torch import pirn as torch_pirn

    parts = torch.from_numpy(features).transpose(0, 1).contiguous().split(scoring.BATCH, dim=1)

    def score(distances: Callable) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode():
                return torch.cat([distances(some) for some in parts], dim=1)

        return run

    model = torch_pirn.load(_CONFIG, params)
    functions = {"eager": score(model.distances)}
    if timing.compiles():
        functions["compiled"] = score(torch.compile(model.distances))
    return functions


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times ours beside eager and, where it works, compiled PyTorch."""
    method = pirn.pirn(_CONFIG)
    program = scoring.compile_program(method)
    features = np.random.default_rng(0).normal(size=(_PARTS, 2, _PATCHES, _CHANNELS)).astype(np.float32)
    params = jax.jit(jax.vmap(method.initial, in_axes=(0, None)))(jax.random.split(jax.random.key(0), _RUNS), features)
    shared, category = jax.device_put(features[None]), np.zeros(_RUNS, int)
    theirs = _theirs(jax.tree.map(lambda leaf: np.asarray(leaf[0]), params), features)
    times = timing.medians({"ours": lambda: scoring.score(program, params, shared, category), **theirs}, repeats)
    ours = times["ours"] / _RUNS / _PARTS
    return {
        f"cached features, {name}": {
            "ours": ours,
            "reference": times[name] / _PARTS,
            "ratio": times[name] / _PARTS / ours,
        }
        for name in theirs
    }
