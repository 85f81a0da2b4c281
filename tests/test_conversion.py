"""Public weights become ours under every naming, and nothing that does not fit passes."""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from pirn_jax.encoders import conversion, layouts, vit
from tests import public_weights
from tests.public_weights import CONFIGS, DINO, DINOV2, GATED, REGISTERS, facebook, huggingface, params_of, timm


def convert(tensors, **options) -> conversion.Converted:
    return conversion.convert(tensors, **{"heads": 3, **options})


def assert_same(found, expected) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_facebooks_tensors_go_where_they_belong(name):
    config = CONFIGS[name]
    state = facebook(config)
    found = convert(state)
    assert found.config == config
    assert found.layout == "facebook"
    assert set(found.ignored) == {"mask_token", "norm.weight", "norm.bias"} & set(state)
    assert_same(found.params, params_of(state, config))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))


@pytest.mark.parametrize("prefix", ["", "dinov2.", "dinov2_with_registers.", "module."])
@pytest.mark.parametrize("form", ["disk", "memory"])
@pytest.mark.parametrize("name", ["dinov2", "registers", "gated"])
def test_hugging_faces_names_mean_the_same(name, form, prefix):
    config = CONFIGS[name]
    found = convert(huggingface(facebook(config), form, prefix))
    assert found.layout == "huggingface"
    mode = "antialias" if config.registers else "plain"
    assert found.config == dataclasses.replace(config, position_mode=mode)
    assert_same(found.params, params_of(facebook(config), config))
    names = ("embeddings.mask_token", "layernorm.weight", "layernorm.bias")
    assert set(found.ignored) == {prefix + name for name in names}


@pytest.mark.parametrize("form", ["vit", "vit in memory"])
def test_dino_as_a_vit_model_means_the_same(form):
    tensors = huggingface(facebook(DINO), form)
    tensors |= {"pooler.dense.weight": np.ones((12, 12)), "pooler.dense.bias": np.ones(12)}
    found = convert(tensors)
    assert found.config == dataclasses.replace(DINO, position_mode="plain")
    assert "pooler.dense.weight" in found.ignored
    assert_same(found.params, params_of(facebook(DINO), DINO))


@pytest.mark.parametrize("config", [DINOV2, GATED])
def test_timms_names_mean_the_same(config):
    found = convert(timm(facebook(config)))
    assert found.layout == "timm"
    assert found.config == dataclasses.replace(config, position_mode="antialias")
    assert found.ignored == ("norm.bias", "norm.weight")
    assert_same(found.params, params_of(facebook(config), config))


def test_timms_registers_give_the_same_features():
    state = facebook(REGISTERS)
    found = convert(timm(state))
    assert (found.layout, found.config) == ("timm", REGISTERS)
    assert not found.params["params"]["cls_position"].any()
    image = np.random.default_rng(1).normal(size=(12, 28, 3)).astype(np.float32)
    apply = jax.jit(vit.ViT(REGISTERS, (1, 3)).apply)
    np.testing.assert_allclose(apply(found.params, image), apply(convert(state).params, image), atol=1e-4)


def test_prefixes_of_wrappers_are_dropped():
    state = facebook(DINOV2)
    expected = convert(state).params
    chunked = {name.replace("blocks.", "blocks.1."): value for name, value in state.items()}
    for prefix in ("module.", "backbone.", "module.backbone.", "teacher.backbone.", "_orig_mod."):
        assert_same(convert({prefix + name: value for name, value in state.items()}).params, expected)
    assert_same(convert(chunked).params, expected)
    wrapped = {name.replace("blocks.", "_fsdp_wrapped_module.blocks."): value for name, value in state.items()}
    assert_same(convert(wrapped).params, expected)


@pytest.mark.parametrize(
    "name", ["head.mlp.0.weight", "head.last_layer.weight_v", "dino_head.mlp.0.bias", "ibot_head.x"]
)
def test_training_heads_are_ignored(name):
    found = convert({**{f"backbone.{key}": value for key, value in facebook(DINO).items()}, name: np.ones(5)})
    assert name in found.ignored
    assert_same(found.params, params_of(facebook(DINO), DINO))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype):
    state = {name: value.astype(dtype) for name, value in facebook(DINOV2).items()}
    found = convert(state)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(found.params))
    assert_same(found.params, params_of({name: value.astype(np.float32) for name, value in state.items()}, DINOV2))


def test_heads_follow_the_width_of_public_models():
    config = dataclasses.replace(DINOV2, width=128, heads=2)
    assert conversion.convert(facebook(config)).config == config
    with pytest.raises(conversion.ConversionError, match=r"cls_token has shape \(1, 1, 12\).*multiple of 64"):
        conversion.convert(facebook(DINOV2))
    with pytest.raises(ValueError, match="width 12 .* 5 heads"):
        convert(facebook(DINOV2), heads=5)


def test_the_position_mode_can_be_chosen():
    assert convert(facebook(DINOV2), position_mode="plain").config.position_mode == "plain"
    with pytest.raises(ValueError, match="unknown position_mode 'nearest'"):
        convert(facebook(DINOV2), position_mode="nearest")


@pytest.mark.parametrize(("mlp", "hidden"), [("gelu", 20), ("swiglu", 20)])
def test_other_inner_widths_are_kept(mlp, hidden):
    config = dataclasses.replace(DINOV2, mlp=mlp, hidden=hidden)
    found = convert(facebook(config))
    assert found.config == config
    assert_same(found.params, params_of(facebook(config), config))


def test_conversion_leaves_the_source_tensors_unchanged():
    state = facebook(DINOV2)
    before = {name: value.copy() for name, value in state.items()}
    found = convert(state)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(found.params))
    for name, value in state.items():
        np.testing.assert_array_equal(value, before[name])


STATES = {
    "facebook": facebook(DINOV2),
    "registers": facebook(REGISTERS),
    "gated": facebook(GATED),
    "dino": facebook(DINO),
    "huggingface": huggingface(facebook(DINOV2)),
    "in memory": huggingface(facebook(GATED), "memory"),
    "vit": huggingface(facebook(DINO), "vit"),
    "timm": timm(facebook(REGISTERS)),
}


def needed(state) -> list[str]:
    """Tensors that patch features need; what tells one architecture from another is not among them."""
    other = ("register", "reg_token")
    return [name for name in state if not layouts.unused(name) and not any(part in name for part in other)]


@pytest.mark.parametrize("form", STATES)
def test_every_missing_tensor_is_named(form):
    state = STATES[form]
    for name in needed(state):
        fewer = {other: value for other, value in state.items() if other != name}
        block = layouts._BLOCK.fullmatch(name)
        with pytest.raises(conversion.ConversionError) as caught:
            convert(fewer)
        said = str(caught.value)
        assert (f"block_{int(block[1]) + 1}." in said and block[2] in said) if block else name in said, (name, said)


@pytest.mark.parametrize("form", STATES)
def test_every_wrong_shape_is_named_with_the_right_one(form):
    state = STATES[form]
    for name in needed(state):
        shape = state[name].shape
        for wrong in ((shape[0] + 1, *shape[1:]), (*shape[:-1], shape[-1] + 1), shape[:-1]):
            with pytest.raises((conversion.ConversionError, ValueError)) as caught:
                convert({**state, name: np.ones(wrong, np.float32)})
            said = str(caught.value)
            assert "shape" in said or "heads" in said, (name, wrong, said)
            assert "expected" in said or "heads" in said, (name, wrong, said)
            # From the class token and the first MLP the architecture is read, so the others seem wrong.
            if "cls_token" not in name and "layer.0" not in name and "blocks.0" not in name:
                assert f"tensor {name} has shape {wrong}" in said, (name, wrong, said)


def test_a_wrong_shape_is_said_in_the_names_and_order_of_the_source():
    state = {**facebook(DINOV2), "blocks.2.mlp.fc1.weight": np.ones((12, 48))}
    with pytest.raises(
        conversion.ConversionError, match=r"blocks\.2\.mlp\.fc1\.weight has shape \(12, 48\), expected \(48, 12\)"
    ):
        convert(state)


@pytest.mark.parametrize("name", ["blocks.1.attn.q_norm.weight", "head.weight", "dist_token", "blocks.0.mlp.fc1.scale"])
def test_unknown_tensors_are_refused(name):
    with pytest.raises(conversion.ConversionError, match=rf"{name} of shape \(7,\) has no place.*Dinov2Model"):
        convert({**facebook(DINOV2), name: np.ones(7)})


def test_two_models_in_one_file_are_refused():
    state = facebook(DINOV2)
    both = {**state, "teacher.backbone.blocks.1.norm1.bias": np.ones(12)}
    with pytest.raises(conversion.ConversionError, match=r"blocks\.1\.norm1\.bias and teacher\.backbone\.blocks\.1"):
        convert(both)
    both = {**state, "blocks.1.mlp.w3.bias": np.ones(12)}
    with pytest.raises(conversion.ConversionError, match=r"mlp\.fc2\.bias and blocks\.1\.mlp\.w3\.bias"):
        convert(both)


def test_a_block_left_out_is_named():
    state = {name: value for name, value in facebook(DINOV2).items() if not name.startswith("blocks.1.")}
    with pytest.raises(conversion.ConversionError, match="block 1, counted from 0, is missing, but there is a block 2"):
        convert(state)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(value):
    state = facebook(DINOV2)
    state["blocks.1.attn.proj.bias"] = np.full(12, value)
    with pytest.raises(conversion.ConversionError, match=r"blocks\.1\.attn\.proj\.bias .*not finite"):
        convert(state)


def test_quantised_weights_are_refused():
    state = {**facebook(DINOV2), "blocks.1.attn.proj.bias": np.ones(12, np.int8)}
    with pytest.raises(conversion.ConversionError, match=r"blocks\.1\.attn\.proj\.bias holds int8"):
        convert(state)


def dinov3() -> dict[str, np.ndarray]:
    state = {name: value for name, value in facebook(DINOV2).items() if name != "pos_embed"}
    return {**state, "storage_tokens": np.ones((1, 4, 12)), "rope_embed.periods": np.ones(4)}


FOREIGN = {
    "nothing": [],
    "resnet": ["conv1.weight", "bn1.weight", "bn1.num_batches_tracked", "layer1.0.conv1.weight", "fc.weight"],
    "convnext": ["downsample_layers.0.0.weight", "stages.0.0.gamma", "stages.0.0.dwconv.weight", "norm.weight"],
    "clip": ["vision_model.embeddings.class_embedding", "vision_model.encoder.layers.0.self_attn.k_proj.weight"],
    "dinov3": list(dinov3()),
    "dinov3 of transformers": ["embeddings.cls_token", "embeddings.patch_embeddings.weight", "layer.0.norm1.weight"],
    "no blocks": ["cls_token", "pos_embed", "patch_embed.proj.weight"],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_architectures_are_refused_with_those_there_are(name):
    with pytest.raises(conversion.ConversionError, match="missing among .*supported are vision .*DINOv2.*timm"):
        convert({key: np.ones(3, np.float32) for key in FOREIGN[name]})


def test_no_two_of_the_tested_states_have_the_same_names():
    names = [frozenset(state) for state in STATES.values()]
    assert len(set(names)) == len(names)
    assert {len(names & frozenset(public_weights.facebook(DINOV2))) for names in names} != {0}
