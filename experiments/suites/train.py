"""A step of training beside PyTorch's, with the same weights, features and order of batches.

Sizes are those of a small study, a grid of 16 and one encoder: 10 shots, 256 patches, batches of 4, `--score=cosine`.
Everything is in seconds per step of one run. Ours trains 10 runs in one compiled program and is divided by runs and
steps; the reference trains one run after another, so a few steps of one run stand for all. Compilation is left out on
both sides.

"cached features" has the built-in encoder's 256 channels. "features in every step" has the 768 of ViT-B/14: the
reference encodes its batch of 224-pixel images anew in each step, as codes that augment their images do, through the
ten blocks that count; ours reads cached features and holds nothing of the encoder. `encoding` are the seconds that
encoding the 10 shots once, in PyTorch and for one run alone, adds to each of 100 steps,
`ratio_with_encoding` is the ratio after adding them.

`floor_fraction` is the share of `floor`, the time in which this machine could do the matrix products of a step or move
its bytes, whichever takes longer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import timing
from pirn_jax.methods import pirn
from pirn_jax.methods.base import Features, Method, Recipe
from pirn_jax.training import episodes, parallel
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

RUNS, SHOTS, PATCHES = 10, 10, 256
CONFIG = pirn.Config(score="cosine")
MODALITIES = ("rgb", "normals")
RECIPE = Recipe(epochs=40, learning_rate=1e-3, batch_size=4)
_STEPS = {256: training.MAX_STEPS_PER_CALL, 768: 2}
"""Steps that are timed, by channels."""


def as_features(values: np.ndarray) -> Features:
    """Features of one layer group whose patches all show the part, from arrays (..., modalities, n, c)."""
    mask = np.ones((*values.shape[:-3], values.shape[-2]), bool)
    return jax.tree.map(jnp.asarray, Features(values[..., None, :, :], mask))  # pyright: ignore[reportArgumentType]


def method_of(config: pirn.Config) -> Method:
    """PIRN with a config."""
    return pirn.build(config, MODALITIES)


def operations(config: pirn.Config, channels: int) -> float:
    """Multiplications and additions of the matrix products of a step, in the order of factors that needs fewest.

    Per layer, modality and part there are six products of n k c: costs, contexts, costs again, reconstruction, logits
    and values of the attention; and ten of k c^2: six of the gated update, one of the graph attention, one each for
    keys, queries folded into the keys, and values. The backward pass has two for each.
    """
    k, c = config.num_prototypes, channels
    products = 6 * PATCHES * k * c + 10 * k * c**2
    return 3 * 2.0 * products * config.num_layers * 2 * RECIPE.batch_size


def moved_bytes(config: pirn.Config, channels: int, parameters: int) -> float:
    """Bytes of a step that no order of work avoids, in float32.

    Parameters and both moments of Adam are read and written once; the patches before, between and after the layers
    are touched once in the forward and once in the backward pass.
    """
    maps = (config.num_layers + 1) * RECIPE.batch_size * 2 * PATCHES * channels
    return 4.0 * (6 * parameters + 2 * maps)


def stepping(
    config: pirn.Config, features: np.ndarray, indices: np.ndarray, runs: list[Run], devices: Sequence[Any] = ()
) -> tuple[Callable[[], None], Any]:
    """Some steps of all runs, going on from where the last call stopped, and parameters of the first run.

    They run on the devices given, by default on all.
    """
    devices = devices or jax.local_devices()
    programs = compile_programs(method_of(config), devices)
    shared, category = parallel.everywhere(as_features(features[None]), devices), np.zeros(len(runs), int)
    chosen = np.array([episodes.draw(run, len(features)) for run in runs])
    states = training.initialise(programs, runs, shared, category, chosen, RECIPE, RECIPE.batch_size)
    pairs = parallel.collect([parallel.pick(state, lambda of: (of.learned, of.fixed)) for state in states])
    params = jax.tree.map(lambda leaf: leaf[0], pairs)

    def steps() -> None:
        nonlocal states
        states, _ = training.advance(programs, states, shared, category, indices)
        jax.block_until_ready([jax.tree.leaves(parallel.collect(states[:1]))[:1]])

    return steps, params


def _measure(channels: int, theirs: Callable[..., dict[str, Callable[[], Any]]], repeats: int) -> dict[str, float]:
    """Seconds per step of one run, ours and the reference's, and of the floor."""
    import torch

    steps = _STEPS[channels]
    runs = [Run("part", SHOTS, seed) for seed in range(RUNS)]
    features = np.random.default_rng(0).normal(size=(SHOTS, 2, PATCHES, channels)).astype(np.float32)
    indices = np.stack([episodes.batches(run, RECIPE.epochs, RECIPE.batch_size)[:steps] for run in runs])
    ours, params = stepping(CONFIG, features, indices, runs)
    functions = theirs(params, torch.from_numpy(features).transpose(0, 1).contiguous(), torch.from_numpy(indices[0]))
    times = timing.medians({"ours": ours, **functions}, repeats)
    found = {name: seconds / steps / (RUNS if name == "ours" else 1) for name, seconds in times.items()}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    products = operations(CONFIG, channels) / max(timing.ceilings("float32").values())
    return {**found, "floor": max(products, moved_bytes(CONFIG, channels, count) / timing.bandwidth())}


def _from_features(params: Any, features: Any, order: Any) -> dict[str, Callable[[], Any]]:
    """Training of one run from cached features."""
    import torch

    from experiments.baselines_torch import layers
    from experiments.baselines_torch import pirn as torch_pirn

    def train(model: Any, loss: Callable) -> Callable[[], Any]:
        return lambda: layers.train(model, (features[:, chosen] for chosen in order), RECIPE.learning_rate, loss=loss)

    model = torch_pirn.load(CONFIG, params)
    functions = {"eager": train(model, model.loss)}
    if timing.compiles():
        model = torch_pirn.load(CONFIG, params)
        functions["compiled"] = train(model, torch.compile(model.loss))
    return functions


def _from_images(params: Any, features: Any, order: Any) -> dict[str, Callable[[], Any]]:
    """Training of one run from images, and the encoding alone."""
    import torch

    from experiments.baselines_torch import dinov2, layers
    from experiments.baselines_torch import pirn as torch_pirn

    del features
    model = torch_pirn.load(CONFIG, params)
    encoder = dinov2.TorchViT(dinov2.Form(768, 10, 12)).eval()
    images = torch.randn(2, SHOTS, 3, 224, 224)

    def train() -> None:
        layers.train(model, (torch_pirn.encode(encoder, images[:, chosen]) for chosen in order), RECIPE.learning_rate)

    def encode() -> None:
        for chosen in order:
            torch_pirn.encode(encoder, images[:, chosen])

    return {"eager": train, "encoding": encode}


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times steps from cached features, then from images."""
    found = _measure(256, _from_features, repeats)
    cases = {f"cached features, {name}": timing.judge(found, name) for name in ("eager", "compiled") if name in found}
    found = _measure(768, _from_images, repeats)
    steps = RECIPE.epochs * SHOTS / RECIPE.batch_size
    encoding = found["encoding"] * SHOTS / RECIPE.batch_size / steps
    extra = {"encoding": encoding, "ratio_with_encoding": found["eager"] / (found["ours"] + encoding)}
    return {**cases, "features in every step, eager": {**timing.judge(found, "eager"), **extra}}
