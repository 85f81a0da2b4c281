"""Tiny random encoders under the names that public weights have, in NumPy."""

import numpy as np

from pirn_jax.encoders import vit

DINOV2 = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5)
REGISTERS = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, registers=4, position_grid=5, position_mode="antialias")
GATED = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5, mlp="swiglu")
DINO = vit.ViTConfig(width=12, depth=3, heads=3, patch=4, position_grid=5, layer_scale=False)
CONFIGS = {"dinov2": DINOV2, "registers": REGISTERS, "gated": GATED, "dino": DINO}


def facebook(config: vit.ViTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """As in Facebook's .pth files."""
    rng = np.random.default_rng(seed)
    c, inner = config.width, config.inner
    shapes = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, 1 + config.position_grid**2, c),
        "patch_embed.proj.weight": (c, 3, config.patch, config.patch),
        "patch_embed.proj.bias": (c,),
        "norm.weight": (c,),
        "norm.bias": (c,),
    }
    if config.layer_scale:
        shapes["mask_token"] = (1, c)
    if config.registers:
        shapes["register_tokens"] = (1, config.registers, c)
    expand, shrink = ("mlp.fc1", "mlp.fc2") if config.mlp == "gelu" else ("mlp.w12", "mlp.w3")
    linear = {
        "attn.qkv": (3 * c, c),
        "attn.proj": (c, c),
        expand: (inner if config.mlp == "gelu" else 2 * inner, c),
        shrink: (c, inner),
    }
    for i in range(config.depth):
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias"):
            shapes[f"blocks.{i}.{name}"] = (c,)
        for name, shape in linear.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
        if config.layer_scale:
            shapes[f"blocks.{i}.ls1.gamma"] = shapes[f"blocks.{i}.ls2.gamma"] = (c,)
    return {name: rng.normal(0.1, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def params_of(state: dict[str, np.ndarray], config: vit.ViTConfig) -> dict:
    """Our parameters of what `facebook` makes, written out."""
    c, grid = config.width, config.position_grid
    expand, shrink = ("fc1", "fc2") if config.mlp == "gelu" else ("w12", "w3")

    def dense(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    convolution = state["patch_embed.proj.weight"]
    kernel = [
        convolution[:, colour, y, x] for y in range(config.patch) for x in range(config.patch) for colour in range(3)
    ]
    params = {
        "cls": state["cls_token"][0],
        "cls_position": state["pos_embed"][0, :1],
        "positions": state["pos_embed"][0, 1:].reshape(grid, grid, c),
        "embed": {"kernel": np.stack(kernel), "bias": state["patch_embed.proj.bias"]},
    }
    if config.registers:
        params["registers"] = state["register_tokens"][0]
    for i in range(config.depth):
        name = f"blocks.{i}"
        block = {
            "norm_1": norm(f"{name}.norm1"),
            "attention": {"qkv": dense(f"{name}.attn.qkv"), "out": dense(f"{name}.attn.proj")},
            "norm_2": norm(f"{name}.norm2"),
            "expand": dense(f"{name}.mlp.{expand}"),
            "shrink": dense(f"{name}.mlp.{shrink}"),
        }
        if config.layer_scale:
            block |= {"scale_1": state[f"{name}.ls1.gamma"], "scale_2": state[f"{name}.ls2.gamma"]}
        params[f"block_{i + 1}"] = block
    return {"params": params}


_OUTSIDE = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "norm.": "layernorm.",
}
_ON_DISK = {
    "attn.qkv": ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attn.proj": "attention.output.dense",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}
_IN_MEMORY = {
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": "attention.o_proj",
    "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.w3": "mlp.down_proj",
}
_AS_VIT = {
    "attn.qkv": _ON_DISK["attn.qkv"],
    "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_AS_VIT_IN_MEMORY = {**_IN_MEMORY, "norm1": "layernorm_before", "norm2": "layernorm_after"}
FORMS = {
    "disk": ("encoder.layer", _ON_DISK),
    "memory": ("encoder.layer", _IN_MEMORY),
    "vit": ("encoder.layer", _AS_VIT),
    "vit in memory": ("layers", _AS_VIT_IN_MEMORY),
}


def huggingface(state: dict[str, np.ndarray], form: str = "disk", prefix: str = "") -> dict[str, np.ndarray]:
    """What `facebook` makes, under the names of transformers."""
    blocks, modules = FORMS[form]
    found = {}
    for name, value in state.items():
        if not name.startswith("blocks."):
            for old, new in _OUTSIDE.items():
                if name.startswith(old):
                    found[prefix + name.replace(old, new)] = value
            continue
        _, number, module, *leaf = name.split(".")
        module = f"{module}.{leaf[0]}" if len(leaf) == 2 else module
        kind = leaf[-1].replace("gamma", "lambda1")
        new = modules.get(module, module.replace("ls", "layer_scale"))
        new = (new,) if isinstance(new, str) else new
        for part, piece in zip(new, np.split(value, len(new)), strict=True):
            found[f"{prefix}{blocks}.{number}.{part}.{kind}"] = piece
    return found


def timm(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What `facebook` makes as timm stores it: with registers, the class token has its position added already."""
    found = {name: value for name, value in state.items() if name not in ("mask_token", "register_tokens")}
    found = {name.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): value for name, value in found.items()}
    if "register_tokens" in state:
        found["reg_token"] = state["register_tokens"]
        found["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        found["pos_embed"] = state["pos_embed"][:, 1:]
    return found
