"""The encoder and Eq. 4's attention against PyTorch, with DINOv2's structure and the names of its published weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.encoders import vit
from pirn_jax.pirn import communication

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDTH, DEPTH, HEADS, PATCH, GRID = 32, 3, 4, 14, 37
MODES = ["offset", "plain", "antialias"]


class TorchAttention(torch.nn.Module):
    """Multi-head self-attention, written out."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x):  # noqa: D102
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0] * (WIDTH // HEADS) ** -0.5, qkv[1], qkv[2]
        mixed = (query @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, WIDTH))


class TorchMlp(torch.nn.Module):
    """Two layers with the exact GELU."""

    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):  # noqa: D102
        return self.fc2(torch.nn.functional.gelu(self.fc1(x)))


class TorchScale(torch.nn.Module):
    """Layer scale."""

    def __init__(self):
        super().__init__()
        self.gamma = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):  # noqa: D102
        return x * self.gamma


class TorchBlock(torch.nn.Module):
    """Pre-norm block."""

    def __init__(self):
        super().__init__()
        self.norm1 = torch.nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = TorchAttention()
        self.ls1 = TorchScale()
        self.norm2 = torch.nn.LayerNorm(WIDTH, eps=1e-6)
        self.mlp = TorchMlp()
        self.ls2 = TorchScale()

    def forward(self, x):  # noqa: D102
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class TorchViT(torch.nn.Module):
    """DINOv2's encoder; the names of its parameters are those of the published weights."""

    def __init__(self, registers: int, mode: str):
        super().__init__()
        self.mode = mode
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 1 + GRID**2, WIDTH))
        self.register_tokens = torch.nn.Parameter(torch.zeros(1, registers, WIDTH)) if registers else None
        self.patch_embed = torch.nn.ModuleDict({"proj": torch.nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.blocks = torch.nn.ModuleList(TorchBlock() for _ in range(DEPTH))

    def positions(self, rows: int, columns: int):
        """Position embeddings of the class token and of a grid of patches."""
        if (rows, columns) == (GRID, GRID):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        if self.mode == "offset":
            target = {"scale_factor": ((rows + 0.1) / GRID, (columns + 0.1) / GRID)}
        else:
            target = {"size": (rows, columns)}
        antialias = self.mode == "antialias"
        resized = torch.nn.functional.interpolate(patches, mode="bicubic", antialias=antialias, **target)
        assert resized.shape[-2:] == (rows, columns)
        return torch.cat([self.pos_embed[:, :1], resized.permute(0, 2, 3, 1).reshape(1, -1, WIDTH)], dim=1)

    def forward(self, image):
        """Patch tokens after each block, for (1, 3, h, w)."""
        embedded = self.patch_embed["proj"](image)
        rows, columns = embedded.shape[-2:]
        x = torch.cat([self.cls_token, embedded.flatten(2).transpose(1, 2)], dim=1) + self.positions(rows, columns)
        registers = 0
        if self.register_tokens is not None:
            registers = self.register_tokens.shape[1]
            x = torch.cat([x[:, :1], self.register_tokens, x[:, 1:]], dim=1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x[0, 1 + registers :].numpy())
        return outputs


def random_model(registers: int, mode: str) -> TorchViT:
    """Every parameter random: initial zeros and ones would hide errors."""
    model = TorchViT(registers, mode)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 and "embed" not in name else 1
            scale = fan_in**-0.5 if name.endswith("weight") and parameter.ndim > 1 else 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if "norm" in name or "gamma" in name:
                parameter.add_(0.5)
    return model.eval()


def to_params(state: dict) -> dict:
    """Parameters of `vit.ViT` from a state dict of DINOv2."""
    state = {name: value.numpy() for name, value in state.items()}
    positions = state["pos_embed"][0]

    def dense(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    params = {
        "cls": state["cls_token"][0],
        "cls_position": positions[:1],
        "positions": positions[1:].reshape(GRID, GRID, WIDTH),
        "embed": {
            "kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, WIDTH),
            "bias": state["patch_embed.proj.bias"],
        },
    }
    if "register_tokens" in state:
        params["registers"] = state["register_tokens"][0]
    for i in range(DEPTH):
        name = f"blocks.{i}"
        params[f"block_{i + 1}"] = {
            "norm_1": norm(f"{name}.norm1"),
            "attention": {"qkv": dense(f"{name}.attn.qkv"), "out": dense(f"{name}.attn.proj")},
            "scale_1": state[f"{name}.ls1.gamma"],
            "norm_2": norm(f"{name}.norm2"),
            "expand": dense(f"{name}.mlp.fc1"),
            "shrink": dense(f"{name}.mlp.fc2"),
            "scale_2": state[f"{name}.ls2.gamma"],
        }
    return {"params": params}


@functools.cache
def both(registers: int, mode: str):
    """A PyTorch model, and ours with its parameters as one program for the tokens of every block."""
    model = random_model(registers, mode)
    config = vit.ViTConfig(WIDTH, DEPTH, HEADS, PATCH, registers, GRID, mode)
    params = jax.tree.map(jnp.asarray, to_params(model.state_dict()))
    encoder = vit.ViT(config, range(1, DEPTH + 1))

    def encode(image):
        """Mean over the blocks, and the patch tokens of each."""
        mean, seen = encoder.apply(params, image, capture_intermediates=lambda module, _: type(module) is vit.Block)
        blocks = [seen["intermediates"][f"block_{number}"]["__call__"][0] for number in encoder.blocks]
        return mean, [tokens[1 + registers :] for tokens in blocks]

    return model, jax.jit(encode)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("mode", MODES)
def test_every_block_agrees_at_224_pixels(registers, mode):
    check(registers, mode, 224, 224)


@pytest.mark.parametrize(("registers", "mode"), [(0, "offset"), (0, "plain"), (4, "antialias")])
def test_every_block_agrees_on_an_image_that_is_not_square(registers, mode):
    check(registers, mode, 112, 182)


@pytest.mark.parametrize("registers", [0, 4])
def test_every_block_agrees_on_the_stored_grid(registers):
    check(registers, "offset", 518, 518)


def check(registers: int, mode: str, height: int, width: int) -> None:
    model, ours = both(registers, mode)
    image = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image).permute(2, 0, 1)[None])
    mean, blocks = ours(image)
    for found, tokens in zip([mean, *blocks], [np.mean(expected, axis=0), *expected], strict=True):
        assert np.abs(found - tokens).max() <= 2e-5 * np.abs(tokens).max()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(16, 16), (8, 13), (40, 50)])
def test_resized_positions_agree(mode, shape):
    model, _ = both(0, mode)
    with torch.no_grad():
        expected = model.positions(*shape)[0, 1:].reshape(*shape, WIDTH).numpy()
    stored = model.pos_embed.detach()[0, 1:].reshape(GRID, GRID, WIDTH).numpy()
    found = jax.jit(vit.resize_positions, static_argnums=(1, 2))(stored, shape, mode)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


def test_random_parameters_are_far_from_their_initial_values():
    state = random_model(4, "offset").state_dict()
    assert all(value.std() > 0.02 for value in state.values())
    assert set(jax.tree.leaves(jax.tree.map(np.shape, to_params(state)["params"]["block_1"]["norm_1"]))) == {WIDTH}


@pytest.mark.parametrize(("patches", "prototypes"), [(49, 10), (7, 1)])
def test_the_attention_of_equation_4_agrees(patches, prototypes):
    rng = np.random.default_rng(1)
    z, p = (rng.normal(size=(count, WIDTH)).astype(np.float32) for count in (patches, prototypes))
    weights = {
        name: rng.normal(scale=WIDTH**-0.5, size=(WIDTH, WIDTH)).astype(np.float32)
        for name in ("query", "key", "value")
    }
    query, key, value = (
        torch.from_numpy(a @ weights[name])[None] for a, name in ((z, "query"), (p, "key"), (p, "value"))
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)[0].numpy()
    found = jax.jit(communication.cross_attention)(weights, z, p)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
