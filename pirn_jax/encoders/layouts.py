"""Tensor names of public weights of DINO and DINOv2: tables, and the choice among them."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

SUPPORTED = (
    "vision transformers of DINO and DINOv2, the latter with or without registers, as Facebook's .pth files, as "
    "Hugging Face's Dinov2Model, Dinov2WithRegistersModel and ViTModel, and as timm's"
)


class ConversionError(ValueError):
    """The tensors are no encoder that can be converted; the message names what is wrong."""


class Slot(NamedTuple):
    """Destination of a tensor: a parameter of ours, and the one of equal parts of its outputs that it holds."""

    path: str
    part: int = 0
    parts: int = 1


_PREFIXES = ("module.", "_orig_mod.", "backbone.", "teacher.", "dinov2_with_registers.", "dinov2.", "vit.")
"""What wrappers put before the names of an encoder."""

_BLOCK = re.compile(r"(?:blocks|encoder\.layers?|layers)\.(?:\d+\.)?(\d+)\.(.+)")
"""DINOv2's training code puts the number of a chunk of blocks before that of the block."""

_UNUSED = re.compile(
    r"(embeddings\.)?mask_token|(norm|layernorm)\.(weight|bias)|pooler\.dense\.(weight|bias)"
    r"|(head\.(mlp|last_layer)|dino_head|ibot_head)\..+"
)
"""The mask token of training, the norm after the last block, and heads: patch features are taken before all of them."""


def _with_leaves(modules: Mapping[str, Slot]) -> dict[str, Slot]:
    """Slots of the weights and biases of modules, by full names."""
    full = {}
    for name, slot in modules.items():
        weight = "scale" if slot.path.startswith("norm") else "kernel"
        full[f"{name}.weight"] = slot._replace(path=f"{slot.path}.{weight}")
        full[f"{name}.bias"] = slot._replace(path=f"{slot.path}.bias")
    return full


_NATIVE = {
    "cls_token": Slot("cls"),
    "pos_embed": Slot("positions"),
    "register_tokens": Slot("registers"),
    "reg_token": Slot("registers"),
    **_with_leaves({"patch_embed.proj": Slot("embed")}),
}
"""Facebook's and timm's tensors outside of blocks."""

_NATIVE_BLOCK = {
    "ls1.gamma": Slot("scale_1"),
    "ls2.gamma": Slot("scale_2"),
    **_with_leaves(
        {
            "norm1": Slot("norm_1"),
            "attn.qkv": Slot("attention.qkv"),
            "attn.proj": Slot("attention.out"),
            "norm2": Slot("norm_2"),
            "mlp.fc1": Slot("expand"),
            "mlp.fc2": Slot("shrink"),
            "mlp.w12": Slot("expand"),
            "mlp.w3": Slot("shrink"),
        }
    ),
}
"""Facebook's and timm's tensors of a block."""

_HUGGINGFACE = {
    "embeddings.cls_token": Slot("cls"),
    "embeddings.position_embeddings": Slot("positions"),
    "embeddings.register_tokens": Slot("registers"),
    **_with_leaves({"embeddings.patch_embeddings.projection": Slot("embed")}),
}
"""Hugging Face's tensors outside of blocks."""

_HUGGINGFACE_BLOCK = {
    "layer_scale1.lambda1": Slot("scale_1"),
    "layer_scale2.lambda1": Slot("scale_2"),
    **_with_leaves(
        {
            "norm1": Slot("norm_1"),
            "attention.attention.query": Slot("attention.qkv", 0, 3),
            "attention.attention.key": Slot("attention.qkv", 1, 3),
            "attention.attention.value": Slot("attention.qkv", 2, 3),
            "attention.output.dense": Slot("attention.out"),
            "norm2": Slot("norm_2"),
            "mlp.fc1": Slot("expand"),
            "mlp.fc2": Slot("shrink"),
            "mlp.weights_in": Slot("expand"),
            "mlp.weights_out": Slot("shrink"),
            # DINO as a ViTModel.
            "layernorm_before": Slot("norm_1"),
            "layernorm_after": Slot("norm_2"),
            "intermediate.dense": Slot("expand"),
            "output.dense": Slot("shrink"),
            # In memory since transformers 5; what goes through SiLU is the gate, the first half of weights_in.
            "attention.q_proj": Slot("attention.qkv", 0, 3),
            "attention.k_proj": Slot("attention.qkv", 1, 3),
            "attention.v_proj": Slot("attention.qkv", 2, 3),
            "attention.o_proj": Slot("attention.out"),
            "mlp.gate_proj": Slot("expand", 0, 2),
            "mlp.up_proj": Slot("expand", 1, 2),
            "mlp.down_proj": Slot("shrink"),
        }
    ),
}
"""Hugging Face's tensors of a block."""

_TABLES = {
    "facebook": (_NATIVE, _NATIVE_BLOCK),
    "timm": (_NATIVE, _NATIVE_BLOCK),
    "huggingface": (_HUGGINGFACE, _HUGGINGFACE_BLOCK),
}


def short(name: str) -> str:
    """A tensor's name without what wrappers put before it."""
    name = name.replace("_fsdp_wrapped_module.", "")
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def unused(name: str) -> bool:
    """True if a tensor, by its short name, is known to be of no use for patch features."""
    return _UNUSED.fullmatch(name) is not None


def detect(names: Iterable[str]) -> str:
    """Whose short names these are: "facebook", "huggingface" or "timm".

    Raises:
      ConversionError: if they are of none of the supported architectures.
    """
    names = set(names)
    native = {"cls_token", "pos_embed", "patch_embed.proj.weight"}
    other = {"embeddings.cls_token", "embeddings.position_embeddings", "embeddings.patch_embeddings.projection.weight"}
    anchors = max(native, other, key=lambda anchors: len(anchors & names))
    missing = sorted(anchors - names)
    if missing or not any(_BLOCK.fullmatch(name) for name in names):
        lack = " and ".join(missing) or "any tensor of a block"
        first = ", ".join(sorted(names)[:3]) or "none"
        raise ConversionError(
            f"no encoder that can be converted: {lack} is missing among the tensors ({first} …); "
            f"supported are {SUPPORTED}"
        )
    if anchors is other:
        return "huggingface"
    # timm drops the mask token, which all of DINOv2's own files have; DINO has neither that nor layer scale.
    scaled = any(name.endswith(".ls1.gamma") for name in names)
    return "timm" if scaled and not names & {"mask_token", "register_tokens"} else "facebook"


def slot(name: str, layout: str) -> Slot | None:
    """Destination of a tensor by its short name, None if the layout has no such name."""
    outside, inside = _TABLES[layout]
    block = _BLOCK.fullmatch(name)
    if block is None:
        return outside.get(name)
    place = inside.get(block[2])
    return place and place._replace(path=f"block_{int(block[1]) + 1}.{place.path}")


def names_of(path: str, layout: str) -> list[str]:
    """A layout's names of the tensors of a parameter; of a block, without the block's own name."""
    outside, inside = _TABLES[layout]
    within = re.sub(r"^block_\d+\.", "", path)
    return [name for name, place in (outside if within == path else inside).items() if place.path == within]
