"""UIP-AD and CFR against the same methods in PyTorch, from the same weights: distances, loss, gradients, training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import base, cfr, uip_ad
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.training import episodes, parallel, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

torch = pytest.importorskip("torch")
from experiments.baselines_torch import cfr as torch_cfr  # noqa: E402
from experiments.baselines_torch import layers  # noqa: E402
from experiments.baselines_torch import uip_ad as torch_uip_ad  # noqa: E402

pytestmark = pytest.mark.torch

PARTS, N, C = 4, 25, 16
RUN, RECIPE = Run("part", PARTS, 3), Recipe(epochs=5, learning_rate=1e-3, batch_size=2)
CASES = {
    "uip_ad": (uip_ad.build, torch_uip_ad.UipAd, uip_ad.Config(num_prototypes=5, score="cosine")),
    "cfr": (cfr.build, torch_cfr.Cfr, cfr.Config(width=8, threshold=0.6)),
}


@functools.cache
def features():
    values = np.random.default_rng(0).normal(size=(PARTS, 2, 2, N, C)).astype(np.float32)
    scaled = jnp.asarray(values * np.array([3.0, 0.5], np.float32)[:, None, None, None])
    return Features(scaled, jnp.ones((PARTS, N), bool))


def theirs(values):
    """Features for PyTorch, modalities first."""
    return torch.from_numpy(np.array(values.values)).transpose(0, 1)


@functools.cache
def start(name):
    """Our method, its programs, the start of a run, and PyTorch's model with the same parameters."""
    build, model, config = CASES[name]
    method, chosen = build(config, ("rgb", "normals")), episodes.draw(RUN, PARTS)
    programs, shared = compile_programs(method), jax.tree.map(lambda x: x[None], features())
    (state,) = train.initialise(programs, [RUN], shared, np.zeros(1, int), chosen[None], RECIPE)
    params = jax.tree.map(lambda leaf: leaf[0], (state.learned, state.fixed))
    return method, programs, params, model(config, params)


def agree(found, expected, tolerance):
    """The largest difference is at most this share of the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", CASES)
def test_patch_distances_agree(name):
    method, _, (learned, fixed), model = start(name)
    params = method.finalize(learned, fixed, features())
    found = jax.jit(jax.vmap(lambda of: method.score(params, of)[0]))(features())
    with torch.inference_mode():
        expected = model.distances(theirs(features())).numpy()
    assert expected.std() > 0.01
    agree(found, expected, 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_of_a_step_agree(name):
    method, _, (learned, fixed), model = start(name)
    batch = base.take(features(), slice(0, 2))
    loss, gradient = jax.jit(jax.value_and_grad(lambda of: method.loss(of, fixed, batch, jax.random.key(0))[0]))(
        learned
    )
    model.zero_grad()
    expected = model.loss(theirs(batch))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    leaves = jax.tree.leaves_with_path(gradient)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    named = {path.removeprefix("network."): of.grad for path, of in model.named_parameters()}
    assert found.keys() == named.keys()
    for path, leaf in found.items():
        # Prototypes of the last block guide nothing any more.
        expected = 0.0 if named[path] is None else named[path]
        assert np.abs(np.asarray(leaf) - np.asarray(expected)).max() <= 1e-4, path


@pytest.mark.parametrize("name", CASES)
def test_ten_steps_of_training_agree(name):
    _, programs, params, _ = start(name)
    _, of_torch, config = CASES[name]
    model, chosen = of_torch(config, params), episodes.draw(RUN, PARTS)
    shared = jax.tree.map(lambda x: x[None], features())
    trained, told = train.train(programs, [RUN], shared, np.zeros(1, int), chosen[None], RECIPE)
    order = chosen[episodes.batches(RUN, RECIPE.epochs, RECIPE.batch_size)]
    losses = layers.train(model, (theirs(base.take(features(), some)) for some in order), RECIPE.learning_rate)
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.01
    np.testing.assert_allclose(told["loss"][0], losses, rtol=1e-3)
    learned = parallel.collect(trained.learned)
    ours = learned["mappers"]["out"] if name == "cfr" else learned["bottleneck"]["Dense_0"]
    other = model.mappers.out if name == "cfr" else model.network.bottleneck.Dense_0
    agree(ours["kernel"][0], other.kernel.detach(), 1e-3)


def test_options_that_pytorch_lacks_are_refused():
    with pytest.raises(ValueError, match="UIP-AD in PyTorch has ucp=True alone"):
        torch_uip_ad.UipAd(uip_ad.Config(ucp=False, score="cosine"), ({}, {}))
    with pytest.raises(ValueError, match="CFR in PyTorch has retrieval=True alone"):
        torch_cfr.Cfr(cfr.Config(retrieval=False), ({}, {}))
