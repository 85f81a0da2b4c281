"""Scoring from cached features beside PyTorch's, with the same weights: patch distances of test parts.

Sizes are those of a small study: 60 parts, a grid of 16, the built-in encoder's 256 channels, `--score=cosine`.
Everything is in seconds per part and run. Ours scores the parts under 10 runs in one compiled program, the reference in
inference mode under one run after another, of which one stands for all; both take the same number of parts at a time.

`floor_fraction` is the share of `floor`, as in the suite `train`, of whose products the forward pass has a third.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.suites import timing
from experiments.suites.train import RECIPE, as_features, method_of, operations
from pirn_jax import scoring
from pirn_jax.methods import pirn
from pirn_jax.methods.base import take
from pirn_jax.training import parallel

_RUNS, _PARTS, _PATCHES, _CHANNELS = 10, 60, 256, 256
_CONFIG = pirn.Config(score="cosine")


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
    method = method_of(_CONFIG)
    program = scoring.compile_program(method)
    features = np.random.default_rng(0).normal(size=(_PARTS, 2, _PATCHES, _CHANNELS)).astype(np.float32)
    keys, shared, category = (
        jax.random.split(jax.random.key(0), _RUNS),
        as_features(features[None]),
        np.zeros(_RUNS, int),
    )
    params = jax.jit(jax.vmap(method.start, in_axes=(0, None)))(keys, take(shared, 0))
    pieces = parallel.split(params, _RUNS)
    theirs = _theirs(jax.tree.map(lambda leaf: np.asarray(leaf[0]), params), features)
    times = timing.medians({"ours": lambda: scoring.score(program, pieces, shared, category), **theirs}, repeats)
    found = {name: times[name] / _PARTS for name in theirs} | {"ours": times["ours"] / _RUNS / _PARTS}
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) // _RUNS
    products = operations(_CONFIG, _CHANNELS) / 3 / RECIPE.batch_size / max(timing.ceilings("float32").values())
    found["floor"] = max(products, _moved_bytes(count) / timing.bandwidth())
    return {f"cached features, {name}": timing.judge(found, name) for name in theirs}


def _moved_bytes(parameters: int) -> float:
    """Bytes of a part and run that no order of work avoids, in float32.

    The patches before, between and after the layers are touched once, the parameters once for the parts of a batch.
    """
    maps = (_CONFIG.num_layers + 1) * 2 * _PATCHES * _CHANNELS
    return 4.0 * (parameters / scoring.BATCH + maps)
