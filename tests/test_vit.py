"""The transformer against NumPy, and the choice of its blocks."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.encoders import pretrained, vit

TINY = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5)
GATED = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5, mlp="swiglu", hidden=20)
UNSCALED = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5, layer_scale=False)
WITH_REGISTERS = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, registers=4, position_grid=5)


def image(height: int = 20, width: int = 20) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(height, width, 3)), jnp.float32)


@functools.cache
def init(config: vit.ViTConfig):
    """Parameters of three blocks, all random: initial zeros and ones would hide errors."""
    shapes = jax.eval_shape(vit.ViT(config, (1, 2, 3)).init, jax.random.key(0), image())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32), shapes)


@functools.cache
def program(config: vit.ViTConfig, blocks: tuple[int, ...]):
    return jax.jit(vit.ViT(config, blocks).apply)


def run(config: vit.ViTConfig, blocks: tuple[int, ...], pixels: jax.Array, params=None) -> np.ndarray:
    return np.asarray(program(config, blocks)(init(config) if params is None else params, pixels))


resize = jax.jit(vit.resize_positions, static_argnums=(1, 2))


def layer_norm(x, weights):
    out = np.zeros(x.shape)
    for t, token in enumerate(x):
        mean = sum(token) / len(token)
        variance = sum((value - mean) ** 2 for value in token) / len(token)
        out[t] = (token - mean) / math.sqrt(variance + 1e-6) * weights["scale"] + weights["bias"]
    return out


def attention(x, weights, heads):
    tokens, width = x.shape
    size = width // heads
    qkv = x @ weights["qkv"]["kernel"] + weights["qkv"]["bias"]
    out = np.zeros(x.shape)
    for head in range(heads):
        query, key, value = (qkv[:, i * width + head * size : i * width + (head + 1) * size] for i in range(3))
        for t in range(tokens):
            logits = np.array([query[t] @ key[s] for s in range(tokens)]) / math.sqrt(size)
            shares = np.exp(logits - logits.max())
            out[t, head * size : (head + 1) * size] = sum(
                share / shares.sum() * v for share, v in zip(shares, value, strict=True)
            )
    return out @ weights["out"]["kernel"] + weights["out"]["bias"]


def gelu(x):
    return np.vectorize(lambda value: 0.5 * value * (1 + math.erf(value / math.sqrt(2))))(x)


def swiglu(x):
    gate, value = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
    return gate / (1 + np.exp(-gate)) * value


def block(x, weights, heads, activation=gelu):
    """DINOv2's block in float64."""
    weights = jax.tree.map(np.float64, weights)
    x = x + weights.get("scale_1", 1) * attention(layer_norm(x, weights["norm_1"]), weights["attention"], heads)
    hidden = activation(layer_norm(x, weights["norm_2"]) @ weights["expand"]["kernel"] + weights["expand"]["bias"])
    return x + weights.get("scale_2", 1) * (hidden @ weights["shrink"]["kernel"] + weights["shrink"]["bias"])


@pytest.mark.parametrize("config", [TINY, WITH_REGISTERS])
@pytest.mark.parametrize(("height", "width"), [(20, 20), (12, 28), (4, 8)])
def test_there_is_a_token_for_every_patch(config, height, width):
    tokens = jax.eval_shape(vit.ViT(config, (2,)).apply, init(config), image(height, width))
    assert tokens.shape == (height // 4 * (width // 4), 12)
    assert tokens.dtype == np.float32


@pytest.mark.parametrize(("config", "activation"), [(TINY, gelu), (GATED, swiglu), (UNSCALED, gelu)])
def test_a_block_computes_what_numpy_does(config, activation):
    weights = init(config)["params"]["block_2"]
    assert ("scale_1" in weights) == ("scale_2" in weights) == config.layer_scale
    x = np.random.default_rng(2).normal(size=(7, 12))
    found = jax.jit(vit.Block(config).apply)({"params": weights}, np.float32(x))
    np.testing.assert_allclose(found, block(x, weights, 3, activation), rtol=1e-5, atol=1e-5)


def test_the_mlp_is_as_wide_as_in_dinov2():
    assert vit.ViTConfig(width=768, depth=12, heads=12).inner == 3072
    assert vit.ViTConfig(width=1536, depth=40, heads=24, mlp="swiglu").inner == 4096
    assert vit.ViTConfig(width=12, depth=1, heads=3, mlp="swiglu").inner == 32
    assert init(GATED)["params"]["block_1"]["expand"]["kernel"].shape == (12, 40)


def test_norms_and_gelu_are_those_of_dinov2(x64):
    weights = jax.tree.map(np.float64, init(TINY)["params"]["block_1"])
    # Tokens of tiny variance, where the norm's epsilon counts; tanh's GELU is 1e-4 off.
    x = 1e-3 * np.random.default_rng(3).normal(size=(5, 12))
    found = jax.jit(vit.Block(TINY).apply)({"params": weights}, x)
    np.testing.assert_allclose(found, block(x, weights, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, WITH_REGISTERS])
def test_tokens_are_embedded_as_numpy_does(config):
    pixels = image()
    weights = jax.tree.map(np.float64, init(config))["params"]
    tokens = [weights["cls"][0] + weights["cls_position"][0], *weights.get("registers", [])]
    for row in range(5):
        for column in range(5):
            patch = np.float64(pixels[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]).ravel()
            embedded = patch @ weights["embed"]["kernel"] + weights["embed"]["bias"]
            tokens.append(embedded + weights["positions"][row, column])
    expected = block(np.array(tokens), weights["block_1"], 3)[1 + config.registers :]
    np.testing.assert_allclose(run(config, (1,), pixels), expected, rtol=1e-4, atol=1e-4)


def test_registers_take_part():
    params = init(WITH_REGISTERS)
    moved = {"params": {**params["params"], "registers": -params["params"]["registers"]}}
    before, after = (run(WITH_REGISTERS, (2,), image(), p) for p in (params, moved))
    assert np.abs(after - before).max() > 1e-3


def test_several_blocks_give_the_mean_of_each():
    pixels = image(12, 28)
    single = {number: run(WITH_REGISTERS, (number,), pixels) for number in (1, 2, 3)}
    assert np.abs(single[1] - single[3]).max() > 0.1
    for chosen in ((1, 3), (3, 2)):
        mean = np.mean([single[number] for number in chosen], axis=0)
        np.testing.assert_allclose(run(WITH_REGISTERS, chosen, pixels), mean, rtol=1e-5, atol=1e-5)


def test_groups_give_what_each_group_gives_alone():
    groups, pixels = ((3, 1), (2,)), image(12, 28)
    found = jax.jit(vit.ViT(WITH_REGISTERS, (1, 2, 3), groups).apply)(init(WITH_REGISTERS), pixels)
    assert found.shape == (2, 21, 12)
    for tokens, group in zip(found, groups, strict=True):
        np.testing.assert_allclose(tokens, run(WITH_REGISTERS, group, pixels), rtol=1e-5, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_no_block_past_the_last_chosen_one_exists():
    for last in (1, 2, 3):
        params = jax.eval_shape(vit.ViT(TINY, (last,)).init, jax.random.key(0), image())["params"]
        numbers = [number for number in range(5) if f"block_{number}" in params]
        assert numbers == list(range(1, last + 1))


def test_the_parameters_of_fewer_blocks_are_a_part_of_those_of_more():
    pixels = image()
    params = init(TINY)["params"]
    fewer = {"params": {name: value for name, value in params.items() if name not in ("block_2", "block_3")}}
    np.testing.assert_array_equal(run(TINY, (1,), pixels, fewer), run(TINY, (1,), pixels))


def test_the_same_key_gives_the_same_encoder():
    start = jax.jit(vit.ViT(TINY, (1,)).init)
    one, two, other = (start(jax.random.key(key), image()) for key in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.abs(one["params"]["embed"]["kernel"] - other["params"]["embed"]["kernel"]).max() > 0
    np.testing.assert_array_equal(run(TINY, (1,), image()), run(TINY, (1,), image()))


def test_a_batch_gives_what_each_image_gives():
    images = jnp.stack([image(), -image()])
    together = jax.jit(jax.vmap(vit.ViT(TINY, (1,)).apply, (None, 0)))(init(TINY), images)
    np.testing.assert_allclose(together[1], run(TINY, (1,), images[1]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 21), (19, 20), (1, 20)])
def test_images_of_no_whole_number_of_patches_are_refused(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} is no whole number of 4-pixel patches"):
        vit.ViT(TINY, (1,)).init(jax.random.key(0), image(*size))


@pytest.mark.parametrize("blocks", [(), (0,), (4,), (-1, 2), (2, 4)])
def test_blocks_that_do_not_exist_are_refused(blocks):
    with pytest.raises(ValueError, match="blocks 1 to 3"):
        vit.ViT(TINY, blocks).init(jax.random.key(0), image())


def test_layer_groups_of_blocks_that_are_not_chosen_are_refused():
    with pytest.raises(ValueError, match=r"layer groups \(\(1, 3\),\) have blocks that are not among \(1, 2\)"):
        vit.ViT(TINY, (1, 2), ((1, 3),)).init(jax.random.key(0), image())


def test_configurations_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="unknown position_mode 'nearest'.*offset, plain, antialias"):
        vit.ViTConfig(width=12, depth=3, heads=3, position_mode="nearest")
    with pytest.raises(ValueError, match="unknown mlp 'relu'.*gelu, swiglu"):
        vit.ViTConfig(width=12, depth=3, heads=3, mlp="relu")
    with pytest.raises(ValueError, match="width 12 .* 5 heads"):
        vit.ViTConfig(width=12, depth=3, heads=5)


@pytest.mark.parametrize("mode", vit.POSITION_MODES)
def test_positions_on_the_stored_grid_are_not_resized(mode):
    positions = jnp.asarray(np.random.default_rng(4).normal(size=(5, 5, 3)))
    assert vit.resize_positions(positions, (5, 5), mode) is positions


@pytest.mark.parametrize("mode", vit.POSITION_MODES)
@pytest.mark.parametrize("shape", [(3, 3), (4, 7), (9, 2)])
def test_resized_positions_keep_a_constant(mode, shape):
    positions = jnp.broadcast_to(jnp.array([1.0, -2.0]), (5, 5, 2))
    resized = resize(positions, shape, mode)
    np.testing.assert_allclose(resized, np.broadcast_to([1.0, -2.0], (*shape, 2)), atol=1e-5)


def test_resized_rows_and_columns_are_not_swapped():
    rows = jnp.broadcast_to(jnp.arange(5.0)[:, None, None], (5, 5, 1))
    for mode in vit.POSITION_MODES:
        resized = np.asarray(resize(rows, (3, 4), mode))[..., 0]
        assert np.abs(resized - resized[:, :1]).max() < 1e-5
        assert (np.diff(resized[:, 0]) > 0.5).all()


def test_position_modes_differ():
    positions = jnp.asarray(np.random.default_rng(5).normal(size=(5, 5, 3)))
    resized = [np.asarray(resize(positions, (3, 3), mode)) for mode in vit.POSITION_MODES]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(resized[one] - resized[two]).max() > 1e-3


def test_pixels_are_normalised_as_for_imagenet():
    pixels = np.array([[[0, 127, 255]]], np.uint8)
    expected = (np.array([0, 127, 255]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(vit.normalise(jnp.asarray(pixels), TINY)[0, 0], expected, rtol=1e-5)


def test_pixels_are_normalised_as_the_encoder_says():
    pixels = np.array([[[0, 127, 255]]], np.uint8)
    config = dataclasses.replace(TINY, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    np.testing.assert_allclose(vit.normalise(jnp.asarray(pixels), config)[0, 0], [-1, 127 / 255 - 0.25, 0.5], rtol=1e-5)


def test_an_unknown_encoder_is_refused_with_those_there_are():
    names = "random, builtin, dinov2_vits14, .*dino_vitb16, lite0, lite1, lite2, filter_bank, chroma, fpfh, or"
    with pytest.raises(ValueError, match=f"unknown encoder 'dinov9'; choose one of {names}"):
        pretrained.load("dinov9")


def test_the_digest_tells_an_encoder_from_others():
    one = pretrained.load("random")
    two = pretrained._make("random", one.config, jax.tree.map(np.array, one.params), one.groups, "")
    assert one.digest == two.digest
    assert "random" in one.note
    moved = jax.tree.map(lambda leaf: leaf + 1, one.params)
    digests = {
        one.digest,
        pretrained._make("random", one.config, moved, one.groups, "").digest,
        *(pretrained.load("random", [groups]).digest for groups in (((1, 2),), ((1,), (2,)), ((2,), (1,)))),
    }
    assert len(digests) == 5


@pytest.mark.parametrize("groups", [(), ((1,), ()), ((1,), (5,)), ((0, 2), (1,))], ids=str)
def test_groups_of_blocks_that_do_not_exist_are_refused(groups):
    with pytest.raises(ValueError, match="encoder random, which has blocks 1 to 4"):
        pretrained.load("random", [groups])
