"""The encoder against tokens that PyTorch has left in tests/golden, for where PyTorch is not installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.encoders import conversion, vit
from tests.golden import make as golden

MODES = {"dinov2": "offset", "dinov2_registers_swiglu": "antialias", "dino": "offset"}


def load(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A file's weights, and its images and tokens."""
    with np.load(golden.HERE / f"{name}.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    weights = {key.removeprefix("tensors/"): value for key, value in arrays.items() if key.startswith("tensors/")}
    return weights, {key: value for key, value in arrays.items() if not key.startswith("tensors/")}


@pytest.mark.parametrize("name", golden.FORMS)
def test_every_block_gives_the_stored_tokens(name):
    weights, rest = load(name)
    converted = conversion.convert(weights, heads=golden.HEADS)
    assert converted.layout == "facebook"
    assert converted.config.position_mode == MODES[name]
    for rows, columns in golden.SIZES:
        image = jnp.asarray(golden.pixels(rest[f"{rows}x{columns}/image"]))
        for number, tokens in blocks(converted, image).items():
            expected = rest[f"{rows}x{columns}/block_{number}"]
            assert tokens.shape == expected.shape
            assert np.abs(tokens - expected).max() <= 2e-5 * np.abs(expected).max(), number


def blocks(converted: conversion.Converted, image: jax.Array) -> dict[int, np.ndarray]:
    """Tokens that leave each block, by its number."""
    encoder = vit.ViT(converted.config, (1, 2))

    @jax.jit
    def tokens(params, image):
        seen = encoder.apply(params, image, capture_intermediates=lambda module, _: isinstance(module, vit.Block))[1]
        return {number: seen["intermediates"][f"block_{number}"]["__call__"][0] for number in encoder.blocks}

    with jax.default_matmul_precision("highest"):
        return jax.tree.map(np.asarray, tokens(converted.params, image))


@pytest.mark.torch
@pytest.mark.parametrize("name", golden.FORMS)
def test_the_files_are_what_their_script_makes(name):
    pytest.importorskip("torch")
    made = golden.make(name)
    weights, rest = load(name)
    assert made.keys() == {f"tensors/{key}" for key in weights} | rest.keys()
    for key, value in weights.items():
        np.testing.assert_array_equal(made[f"tensors/{key}"], value)
    for key, value in rest.items():
        np.testing.assert_allclose(made[key], value, atol=2e-6 * np.abs(value).max())
