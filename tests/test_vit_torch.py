"""The encoder against PyTorch, in the form of every model that Facebook published, from its weight files' names on."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from experiments.baselines_torch.dinov2 import Form, TorchViT  # noqa: E402
from pirn_jax.encoders import conversion, vit  # noqa: E402
from tests import parity  # noqa: E402
from tests.torch_vit import fade, randomise  # noqa: E402

pytestmark = parity.MARKS

FORMS = {
    "small": Form(384, 12, 6),
    "small with registers": Form(384, 12, 6, registers=4, mode="antialias"),
    # The larger ones in full width with the first blocks only, and in full depth with narrow blocks.
    "base, 2 blocks": Form(768, 2, 12),
    "large, 2 blocks": Form(1024, 2, 16),
    "giant with registers, 2 blocks": Form(1536, 2, 24, swiglu=True, registers=4, mode="antialias"),
    "large, narrow": Form(64, 24, 4),
    "giant with registers, narrow": Form(64, 40, 4, swiglu=True, registers=4, mode="antialias"),
    "DINO small, patch 16": Form(384, 12, 6, patch=16, grid=14, layer_scale=False),
    "DINO small, patch 8, 2 blocks": Form(384, 2, 6, patch=8, grid=28, layer_scale=False),
    "DINO base, patch 8": Form(768, 2, 12, patch=8, grid=28, layer_scale=False),
}
SIZES = {
    "small": ("224", "112x560"),
    "base, 2 blocks": ("518",),
    "small with registers": ("224", "112x560"),
    "giant with registers, narrow": ("112x560",),
    "DINO small, patch 16": ("224", "112x560"),
}


@pytest.fixture(scope="module")
def pair(request):
    """A model by its name; pytest keeps one at a time, of which the largest take 0.5 GB."""
    model = randomise(TorchViT(FORMS[request.param]))
    return parity.Pair(model, model.blocks, heads=FORMS[request.param].heads)


@pytest.mark.parametrize(
    ("pair", "size"), [(name, size) for name in FORMS for size in SIZES.get(name, ("224",))], indirect=["pair"]
)
def test_every_block_agrees(pair, size, record_property):
    config, form = pair.converted.config, pair.model.form
    assert pair.converted.layout == "facebook"
    assert (config.width, config.depth, config.heads, config.patch) == (form.width, form.depth, form.heads, form.patch)
    assert (config.registers, config.position_grid, config.position_mode) == (form.registers, form.grid, form.mode)
    assert (config.mlp, config.layer_scale) == ("swiglu" if form.swiglu else "gelu", form.layer_scale)
    pair.check(*parity.SIZES[size], record_property)


TINY = Form(32, 12, 4, registers=4, mode="antialias")


@pytest.mark.parametrize("mode", vit.POSITION_MODES)
@pytest.mark.parametrize("registers", [0, 4])
def test_every_position_mode_can_be_chosen(mode, registers, record_property):
    form = Form(32, 2, 4, registers=registers, mode=mode)
    model = randomise(TorchViT(form))
    chosen = parity.Pair(model, model.blocks, heads=4, position_mode=mode)
    chosen.check(112, 182, record_property)


def test_the_epsilon_of_norms_agrees(record_property):
    model = fade(randomise(TorchViT(Form(128, 2, 2))))
    parity.Pair(model, model.blocks).check(112, 182, record_property)


@pytest.mark.parametrize("mode", vit.POSITION_MODES)
@pytest.mark.parametrize("shape", [(16, 16), (8, 13), (40, 50)])
def test_resized_positions_agree(mode, shape):
    model = randomise(TorchViT(Form(32, 1, 4, mode=mode)))
    with torch.no_grad():
        expected = model.positions(*shape)[0, 1:].reshape(*shape, 32).numpy()
    stored = model.pos_embed.detach()[0, 1:].reshape(37, 37, 32).numpy()
    found = jax.jit(vit.resize_positions, static_argnums=(1, 2))(stored, shape, mode)
    assert parity.difference(found, expected) <= parity.TOLERANCE


def test_blocks_stored_in_chunks_are_the_same_blocks():
    tensors = parity.arrays(randomise(TorchViT(TINY)))

    chunked = {}
    for name, value in tensors.items():
        start, *rest = name.split(".")
        chunked[".".join([start, str(int(rest[0]) // 3), *rest]) if start == "blocks" else name] = value
    assert "blocks.3.11.norm1.bias" in chunked
    plain, chunks = (conversion.convert(named, heads=4) for named in (tensors, chunked))
    assert chunks.config == plain.config
    jax.tree.map(np.testing.assert_array_equal, chunks.params, plain.params)


def test_tensors_without_a_part_in_patch_features_are_named():
    ignored = conversion.convert(parity.arrays(TorchViT(TINY)), heads=4).ignored
    assert sorted(ignored) == ["mask_token", "norm.bias", "norm.weight"]


def test_random_parameters_are_far_from_their_initial_values():
    for name, parameter in randomise(TorchViT(TINY)).named_parameters():
        assert parameter.std() > 0.01, name
        assert (parameter.mean() - 1).abs() > 0.5 or "norm" in name, name
