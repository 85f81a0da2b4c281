"""The encoder against transformers: DINOv2 with and without registers, and the plain ViT that DINO is published as."""

import functools
import pathlib
import tempfile

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests import parity  # noqa: E402

parity.declare_torchvision()
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")

from pirn_jax.encoders import conversion  # noqa: E402
from tests.torch_vit import fade, randomise  # noqa: E402

pytestmark = parity.MARKS


def _dinov2(config_kind, model_kind, width: int, depth: int, heads: int, swiglu: bool = False):
    config = config_kind(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        image_size=518,
        patch_size=14,
        use_swiglu_ffn=swiglu,
    )
    model = model_kind(config)
    return model, model.encoder.layer


dinov2 = functools.partial(_dinov2, transformers.Dinov2Config, transformers.Dinov2Model)
registers = functools.partial(_dinov2, transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel)


def dino(width: int, depth: int, heads: int, patch: int):
    config = transformers.ViTConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        patch_size=patch,
        # That of DINO's code; the published configurations keep the library's 1e-12.
        layer_norm_eps=1e-6,
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    return model, model.layers if hasattr(model, "layers") else model.encoder.layer


MODELS = {
    "small": (dinov2, (384, 12, 6)),
    "small with registers": (registers, (384, 12, 6)),
    "base, 2 blocks": (dinov2, (768, 2, 12)),
    "base with registers, 2 blocks": (registers, (768, 2, 12)),
    "large, 2 blocks": (dinov2, (1024, 2, 16)),
    "giant, 2 blocks": (dinov2, (1536, 2, 24, True)),
    "giant with registers, 2 blocks": (registers, (1536, 2, 24, True)),
    "DINO small, patch 8, 2 blocks": (dino, (384, 2, 6, 8)),
    "DINO base, patch 16": (dino, (768, 2, 12, 16)),
}
SIZES = {
    "small": ("224", "112x560"),
    "small with registers": ("224", "112x560"),
    "base, 2 blocks": ("518", "112x560"),
    "giant with registers, 2 blocks": ("112x560",),
    "DINO base, patch 16": ("224", "112x560"),
}
MODES = {
    transformers.Dinov2Model: "plain",
    transformers.Dinov2WithRegistersModel: "antialias",
    transformers.ViTModel: "plain",
}


def stored(model) -> dict[str, np.ndarray]:
    """The model's tensors as its published files name them, which is not always how the model itself does."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return safetensors.load_file(pathlib.Path(folder) / "model.safetensors")


@pytest.fixture(scope="module")
def pair(request):
    """A model by its name; pytest keeps one at a time."""
    make, form = MODELS[request.param]
    model, blocks = make(*form)
    return parity.Pair(randomise(model), blocks, stored(model))


@pytest.mark.parametrize(
    ("pair", "size"), [(name, size) for name in MODELS for size in SIZES.get(name, ("224",))], indirect=["pair"]
)
def test_every_block_agrees(pair, size, record_property):
    kind = type(pair.model)
    assert pair.converted.layout == "huggingface"
    assert pair.converted.config.position_mode == MODES[kind]
    options = {"interpolate_pos_encoding": True} if kind is transformers.ViTModel else {}
    pair.check(*parity.SIZES[size], record_property, **options)


@pytest.mark.parametrize("make", [dinov2, registers])
def test_the_epsilon_of_norms_agrees(make, record_property):
    model, blocks = make(128, 2, 2)
    parity.Pair(fade(randomise(model)), blocks).check(112, 182, record_property)


@pytest.mark.parametrize(
    ("make", "form"),
    [(dinov2, (48, 1, 3)), (dinov2, (48, 1, 3, True)), (registers, (48, 1, 3, True)), (dino, (48, 1, 3, 16))],
)
def test_names_in_memory_and_on_disk_give_the_same_encoder(make, form):
    model = randomise(make(*form)[0])
    disk, memory = (conversion.convert(tensors, heads=3) for tensors in (stored(model), parity.arrays(model)))
    assert disk.config == memory.config
    jax.tree.map(np.testing.assert_array_equal, disk.params, memory.params)
