"""UIP-AD and CFR beside the same methods in PyTorch: a step of training, and scoring.

Sizes are those of a study on a grid of 16: 10 shots, 256 patches, 256 channels, one layer group. All is in seconds,
training per step of one run, scoring per run and sample. Ours trains and scores ten runs in one compiled program;
the reference one run after another, of which one stands for all, eager; ours without its compilation. `floor` is the
time in which this machine could do the operations of a step, as XLA counts them in our loss and its gradient, or the
matrix products of scoring, as PyTorch counts them in its model.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import timing
from experiments.suites.train import MODALITIES, PATCHES, RUNS, SHOTS, as_features
from pirn_jax import scoring
from pirn_jax.methods import METHODS, base
from pirn_jax.training import episodes, parallel
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

_CHANNELS, _STEPS, _SAMPLES = 256, 4, 8


def _measure(name: str, repeats: int) -> dict[str, timing.Case]:
    import torch
    from torch.utils import flop_counter

    from experiments.baselines_torch import cfr, layers, uip_ad

    config, recipe, _ = METHODS[name].presets["default"]
    # The models in PyTorch have the papers' score, and replace what a fixed threshold doubts.
    changes: dict[str, Any] = {"threshold": 0.4} if name == "cfr" else {"score": "cosine"}
    config = dataclasses.replace(config, **changes)
    assert recipe is not None
    method = METHODS[name].build(config, MODALITIES)
    programs, program = compile_programs(method), scoring.compile_program(method)
    values = np.random.default_rng(0).normal(size=(SHOTS, 2, PATCHES, _CHANNELS)).astype(np.float32)
    shared, category = as_features(values[None]), np.zeros(RUNS, int)
    runs = [Run("part", SHOTS, seed) for seed in range(RUNS)]
    chosen = np.array([episodes.draw(run, SHOTS) for run in runs])
    indices = np.stack([episodes.batches(run, recipe.epochs, recipe.batch_size)[:_STEPS] for run in runs])
    states = training.initialise(programs, runs, shared, category, chosen, recipe, recipe.batch_size)
    params = training.train(programs, runs, shared, category, chosen, base.Recipe(epochs=1, batch_size=SHOTS))[0].params
    first = jax.tree.map(lambda leaf: jnp.array(leaf[0]), parallel.collect(states))
    one = first.learned, first.fixed
    model = {"uip_ad": uip_ad.UipAd, "cfr": cfr.Cfr}[name](config, one)
    features = torch.from_numpy(values).transpose(0, 1)[:, :, None].contiguous()
    order = [features[:, some] for some in indices[0]]

    def train() -> None:
        nonlocal states
        states, _ = training.advance(programs, states, shared, category, indices)
        jax.block_until_ready(jax.tree.leaves(parallel.collect(states[:1]))[:1])

    @torch.inference_mode()
    def score_torch() -> None:
        for part in features[:, :_SAMPLES].split(scoring.BATCH, dim=1):
            model.distances(part)

    tests = jax.tree.map(lambda x: x[:, :_SAMPLES], shared)
    functions = {
        "train": train,
        "train_eager": lambda: layers.train(model, order, recipe.learning_rate),
        "score": functools.partial(scoring.score, program, params, tests, category),
        "score_eager": score_torch,
    }
    loss: Any = method.loss
    of_loss = jax.jit(jax.value_and_grad(lambda of, batch: loss(of, one[1], batch, jax.random.key(0))[0]))
    batch = jax.tree.map(lambda x: x[0, : recipe.batch_size], shared)
    counted: Any = of_loss.lower(first.learned, batch).cost_analysis()
    with flop_counter.FlopCounterMode(display=False) as counter:
        model.distances(features[:, :1])
    scored, speed = counter.get_total_flops(), max(timing.ceilings("float32").values())
    times = timing.medians(functions, repeats)
    steps = {"ours": times["train"] / _STEPS / RUNS, "eager": times["train_eager"] / _STEPS}
    steps["floor"] = counted["flops"] / speed
    own = {"ours": times["score"] / RUNS / _SAMPLES, "eager": times["score_eager"] / _SAMPLES}
    scores = timing.judge({**own, "floor": scored / speed}, "eager")
    return {f"{name} step": timing.judge(steps, "eager"), f"{name} scoring": scores}


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times both methods."""
    return {**_measure("uip_ad", repeats), **_measure("cfr", repeats)}
