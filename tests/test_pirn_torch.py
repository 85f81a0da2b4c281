"""PIRN against the same method in PyTorch, from the same weights: distances, maps, gradients, training.

All but training is compared in double precision, where nothing but the equations can differ.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from pirn_jax import scoring
from pirn_jax.methods import base, pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.methods.pirn import Config
from pirn_jax.training import episodes, parallel, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

torch = pytest.importorskip("torch")
from experiments.baselines_torch import layers  # noqa: E402
from experiments.baselines_torch import pirn as torch_pirn  # noqa: E402
from experiments.baselines_torch.dinov2 import Form, TorchViT  # noqa: E402

pytestmark = pytest.mark.torch

PARTS, GRID, WIDTH = 6, 6, 32
CONFIGS = {
    "default": Config(score="cosine"),
    "paper": Config(injection="paper", score="cosine"),
    "many prototypes": Config(
        score="cosine", num_layers=1, num_prototypes=20, plan_scale="literal", neighbours=5, heads=8
    ),
    "bare": Config(score="cosine", num_layers=3, assignment="softmax", apr=False, mnc=False),
}
RUN = Run("part", PARTS, 3)
RECIPE = Recipe(epochs=5, learning_rate=1e-3, batch_size=3)


@functools.cache
def features(dtype=float):
    """Features of some samples whose modalities differ in scale, as encoders' do."""
    values = np.random.default_rng(0).normal(size=(PARTS, 2, 1, GRID**2, WIDTH))
    scaled = jnp.asarray(values * np.array([3.0, 0.5])[:, None, None, None], dtype)
    return Features(scaled, jnp.ones((PARTS, GRID**2), bool))


@functools.cache
def pair(name):
    """Our method, random parameters, and PyTorch's model with the same."""
    method, rng = pirn.build(CONFIGS[name], ("rgb", "normals")), np.random.default_rng(1)
    shapes, _ = jax.eval_shape(method.init, jax.random.key(0), features())
    draw = lambda leaf: rng.normal(scale=leaf.shape[-2:][0] ** -0.5, size=leaf.shape)  # noqa: E731
    params = jax.tree.map(draw, shapes), {**method.constants, "scale": np.array([2.0, 0.7])}
    return method, params, torch_pirn.load(CONFIGS[name], params)


@functools.cache
def ours(name):
    """Patch distances (parts, 2, n), the loss of all parts, and its gradient."""
    method, params, _ = pair(name)

    def run(params, values):
        learned, fixed = params
        distances = jax.vmap(lambda sample: method.score(params, sample))(values)
        return distances, *jax.value_and_grad(
            lambda learned: method.loss(learned, fixed, values, jax.random.key(0))[0]
        )(learned)

    # Few operations are run, so most of the time would go into optimising them.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(params, features())


@functools.cache
def distances(name):
    """PyTorch's patch distances (parts, 2, n)."""
    model = pair(name)[2]
    with torch.inference_mode():
        return model.distances(theirs(features())).transpose(0, 1).numpy()


def theirs(values):
    """Features for PyTorch, modalities first."""
    return torch.from_numpy(np.array(values.values[:, :, 0])).transpose(0, 1)


def agree(found, expected, tolerance):
    """The largest difference is at most this share of the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CONFIGS)
def test_patch_distances_agree(name):
    assert distances(name).std() > 0.01
    agree(ours(name)[0], distances(name), 1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["default", "paper"])
def test_fused_maps_agree(name):
    height, width, side, sigma = 40, 50, 84, 4.0
    patches = torch.from_numpy(distances(name)[0]).unflatten(1, (GRID, GRID))[None]
    resize = functools.partial(torch.nn.functional.interpolate, mode="bilinear", align_corners=False)
    smooth = scipy.ndimage.gaussian_filter(resize(patches, size=side).numpy(), sigma, axes=(2, 3))
    square = resize(torch.from_numpy(smooth), size=max(height, width)).sum(1)[0].numpy()
    margin = (width - height) // 2
    found = scoring.Maps(GRID, side, sigma).fused(np.asarray(ours(name)[0][0]), np.ones(2), (height, width))
    agree(found, square[margin : margin + height], 1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradient_of_a_step_agree(name):
    _, loss, gradient = ours(name)
    model = pair(name)[2]
    model.zero_grad()
    expected = model.loss(theirs(features()))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-10)
    paths = jax.tree.leaves_with_path(gradient)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    assert {f"decoder.{path}" for path in found} == dict(model.named_parameters()).keys()
    for path, parameter in model.decoder.named_parameters():
        agree(found[path], parameter.grad, 1e-10)


def test_ten_steps_of_training_agree():
    config, values = Config(num_layers=1, score="cosine"), features(np.float32)
    method, chosen = pirn.build(config, ("rgb", "normals")), episodes.draw(RUN, PARTS)
    programs, shared = compile_programs(method), jax.tree.map(lambda x: x[None], values)
    (start,) = train.initialise(programs, [RUN], shared, np.zeros(1, int), chosen[None], RECIPE)
    model = torch_pirn.load(config, jax.tree.map(lambda leaf: leaf[0], (start.learned, start.fixed)))
    trained, told = train.train(programs, [RUN], shared, np.zeros(1, int), chosen[None], RECIPE)
    order = chosen[episodes.batches(RUN, RECIPE.epochs, RECIPE.batch_size)]
    batches = (theirs(base.take(values, some)) for some in order)
    losses = layers.train(model, batches, RECIPE.learning_rate)
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.01
    np.testing.assert_allclose(told["loss"][0], losses, rtol=1e-4)
    agree(parallel.collect(trained.learned)["prototypes"][0], model.decoder.prototypes.detach(), 1e-4)


def test_encoding_is_the_mean_of_the_blocks_patch_tokens():
    torch.manual_seed(0)
    encoder = TorchViT(Form(16, 3, 2, grid=3, registers=2)).eval()
    images = torch.randn(2, 4, 3, 42, 28)
    found = torch_pirn.encode(encoder, images)
    assert found.shape == (2, 4, 6, 16)
    assert not found.requires_grad
    with torch.no_grad():
        third = encoder(images[1, 2:3])
        del encoder.blocks[2:]
        second = encoder(images[1, 2:3])
    agree(found[1, 2], ((second + third) / 2)[0, 3:], 1e-5)
    assert not encoder.blocks[1]._forward_hooks


def test_parameters_of_another_config_are_refused():
    params = {"prototypes": np.zeros((2, 10, WIDTH))}, {"scale": np.ones(2)}
    with pytest.raises(RuntimeError, match=r"Missing key.*decoder\.layer_2\.refine\.update"):
        torch_pirn.load(Config(num_layers=3, score="cosine"), params)


def test_an_option_that_pytorch_lacks_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Richer(Config):
        temperature: float = 1.0

    torch_pirn.Pirn(Richer(score="cosine"), WIDTH)
    with pytest.raises(ValueError, match="no temperature; leave it at 1.0"):
        torch_pirn.Pirn(Richer(temperature=2.0, score="cosine"), WIDTH)
    with pytest.raises(ValueError, match="no score 'both'; take 'cosine'"):
        torch_pirn.Pirn(Config(), WIDTH)
