"""PatchCore beside PyTorch's: building the banks of ten runs, and scoring with them.

Sizes are those of a small study: 10 shots, a grid of 16, the built-in encoder's 256 channels, 60 test samples, two
modalities. Everything is in seconds per run, scoring per run and sample. Ours builds and scores ten runs in one
compiled program, the reference one run after another, of which one stands for all. `floor` is the time in which this
machine could do the products of scoring, or move the bytes of a coreset, whose every choice reads all candidates once;
a cache that holds the candidates of a run makes choices faster than that.
"""

import functools

import jax
import numpy as np

from experiments.suites import timing
from experiments.suites.train import MODALITIES, as_features
from pirn_jax import scoring
from pirn_jax.methods import patchcore
from pirn_jax.training import parallel
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

_RUNS, _SHOTS, _SAMPLES, _PATCHES, _CHANNELS = 10, 10, 60, 256, 256
_SHARES = (0.1, 1.0)


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times banks that keep a tenth of the patches and all of them."""
    import torch

    from experiments.baselines_torch import patchcore as reference

    rng = np.random.default_rng(0)
    shape = _PATCHES, _CHANNELS
    support = rng.normal(size=(_SHOTS, 2, *shape)).astype(np.float32)
    tests = rng.normal(size=(_SAMPLES, 2, *shape)).astype(np.float32)
    train, test = as_features(support[None]), as_features(tests[None])
    runs, category = [Run("part", _SHOTS, seed) for seed in range(_RUNS)], np.zeros(_RUNS, int)
    chosen = np.tile(np.arange(_SHOTS), (_RUNS, 1))
    rows = reference.unit(torch.from_numpy(support)).transpose(0, 1).flatten(1, 2)
    patches = reference.unit(torch.from_numpy(tests)).transpose(0, 1)
    speed, bandwidth, found = max(timing.ceilings("float32").values()), timing.bandwidth(), {}
    for share in _SHARES:
        method = patchcore.build(patchcore.Config(banks="each", coreset=share, reach=False), MODALITIES)
        programs, program = compile_programs(method), scoring.compile_program(method)
        fit = functools.partial(training.train, programs, runs, train, category, chosen, None)
        params = fit()[0].params
        size = parallel.collect(params)["banks"].shape[2]

        def fit_torch(share: float = share) -> list[torch.Tensor]:
            return [one[reference.coreset(one, share)] if share < 1 else one for one in rows]

        banks = fit_torch()

        def score_torch(banks: list[torch.Tensor] = banks) -> list[torch.Tensor]:
            return [reference.distances(bank, of) for bank, of in zip(banks, patches, strict=True)]

        times = timing.medians(
            {
                "fit": lambda fit=fit: jax.block_until_ready(fit()[0].params),
                "fit_torch": fit_torch,
                "score": functools.partial(scoring.score, program, params, test, category),
                "score_torch": score_torch,
            },
            repeats,
        )
        if share < 1:
            read = 4.0 * 2 * size * _SHOTS * _PATCHES * _CHANNELS
            own = {"ours": times["fit"] / _RUNS, "eager": times["fit_torch"], "floor": read / bandwidth}
            found[f"coreset {share:g}"] = timing.judge(own, "eager")
        operations = 2.0 * 2 * _PATCHES * size * _CHANNELS
        own = {"ours": times["score"] / _RUNS / _SAMPLES, "eager": times["score_torch"] / _SAMPLES}
        found[f"scoring with {size} rows"] = timing.judge({**own, "floor": operations / speed}, "eager")
    return found
