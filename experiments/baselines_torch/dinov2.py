"""DINOv2's and DINO's vision transformer in PyTorch, with the parameter names of Facebook's published weights.

As fast as eager PyTorch runs it, so that speed can be compared; tests hold it, the encoder, and what transformers and
timm run to one another.
"""

import dataclasses
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True)
class Form:
    """Architecture of one published model."""

    width: int
    depth: int
    heads: int
    patch: int = 14
    grid: int = 37
    registers: int = 0
    swiglu: bool = False
    layer_scale: bool = True
    mode: str = "offset"


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, form: Form):
        super().__init__()
        self.heads = form.heads
        self.qkv = nn.Linear(form.width, 3 * form.width)
        self.proj = nn.Linear(form.width, form.width)

    def forward(self, x):  # noqa: D102
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two layers with the exact GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):  # noqa: D102
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """Two thirds of the other form's hidden channels in multiples of 8; the first half of w12 is the gate."""

    def __init__(self, width: int):
        super().__init__()
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x):  # noqa: D102
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)


class Scale(nn.Module):
    """Layer scale."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):  # noqa: D102
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm block."""

    def __init__(self, form: Form):
        super().__init__()
        self.norm1 = nn.LayerNorm(form.width, eps=1e-6)
        self.attn = Attention(form)
        self.ls1 = Scale(form.width) if form.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(form.width, eps=1e-6)
        self.mlp = SwiGLU(form.width) if form.swiglu else Mlp(form.width)
        self.ls2 = Scale(form.width) if form.layer_scale else nn.Identity()

    def forward(self, x):  # noqa: D102
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class TorchViT(nn.Module):
    """The encoder, with the mask token and the final norm that weight files hold and patch features do without."""

    def __init__(self, form: Form):
        super().__init__()
        self.form = form
        self.cls_token = nn.Parameter(torch.zeros(1, 1, form.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + form.grid**2, form.width))
        if form.registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, form.registers, form.width))
        if form.layer_scale:  # the mark of DINOv2, as is the mask token
            self.mask_token = nn.Parameter(torch.zeros(1, form.width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, form.width, form.patch, form.patch)})
        self.blocks = nn.ModuleList(Block(form) for _ in range(form.depth))
        self.norm = nn.LayerNorm(form.width, eps=1e-6)

    def positions(self, rows: int, columns: int):
        """Position embeddings of the class token and of a grid of patches."""
        grid = self.form.grid
        if (rows, columns) == (grid, grid):
            return self.pos_embed
        patches = self.pos_embed[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        if self.form.mode == "offset":
            target: dict[str, Any] = {"scale_factor": ((rows + 0.1) / grid, (columns + 0.1) / grid)}
        else:
            target = {"size": (rows, columns)}
        antialias = self.form.mode == "antialias"
        resized = nn.functional.interpolate(patches, mode="bicubic", antialias=antialias, **target)
        assert resized.shape[-2:] == (rows, columns)
        return torch.cat([self.pos_embed[:, :1], resized.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)

    def forward(self, image):
        """Tokens after the last block, for (batch, 3, h, w)."""
        embedded = self.patch_embed["proj"](image)
        batch = len(image)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), embedded.flatten(2).transpose(1, 2)], dim=1)
        x = x + self.positions(*embedded.shape[-2:])
        if self.form.registers:
            x = torch.cat([x[:, :1], self.register_tokens.expand(batch, -1, -1), x[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        return x
