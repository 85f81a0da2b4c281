"""DINOv2's vision transformer (Oquab et al., 2023; Darcet et al., 2024), as far as its patch features are needed.

Written for one image; `jax.vmap` it. Blocks are numbered from 1, and none past the last chosen one is computed.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

POSITION_MODES = ("offset", "plain", "antialias")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Architecture of a vision transformer.

    Attributes:
      width: channels c of a token.
      depth: blocks.
      heads: attention heads; they divide the width.
      patch: side of a patch in pixels.
      registers: register tokens, 0 or 4 in DINOv2.
      position_grid: side of the square grid that position embeddings are stored for (DINOv2: 37, for 518 pixels).
      position_mode: how they are resized to another grid: "offset" is Facebook's code without registers, "plain"
        transformers' without registers, "antialias" both with registers, and timm.
    """

    width: int
    depth: int
    heads: int
    patch: int = 14
    registers: int = 0
    position_grid: int = 37
    position_mode: str = "offset"

    def __post_init__(self):
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"unknown position_mode {self.position_mode!r}; choose one of {', '.join(POSITION_MODES)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")


def normalise(images: Array) -> Float[Array, "*batch h w 3"]:
    """Scales uint8 pixels to [0, 1] and standardises them with ImageNet's mean and deviation, as DINOv2 expects."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(IMAGENET_MEAN)) / jnp.array(IMAGENET_STD)


def resize_positions(positions: Float[Array, "g g c"], grid: tuple[int, int], mode: str) -> Float[Array, "h w c"]:
    """Resizes position embeddings bicubically, as the public implementations do in PyTorch.

    Args:
      positions: embeddings on the stored square grid.
      grid: (rows, columns) of patches.
      mode: see `ViTConfig.position_mode`. With "offset" the scale is (grid + 0.1) / g, a workaround against rounding
        that has become part of the trained models' behaviour.
    """
    side, _, channels = positions.shape
    if grid == (side, side):
        return positions
    shape = (*grid, channels)
    if mode == "offset":
        scale = jnp.array([(grid[0] + 0.1) / side, (grid[1] + 0.1) / side])
        return jax.image.scale_and_translate(
            positions, shape, (0, 1), scale, jnp.zeros(2), "cubic-pytorch", antialias=False
        )
    if mode == "plain":
        return jax.image.resize(positions, shape, "cubic-pytorch", antialias=False)
    return jax.image.resize(positions, shape, "cubic", antialias=True)


class Attention(nn.Module):
    """Multi-head self-attention with one joint projection to queries, keys and values."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "t c"]) -> Float[Array, "t c"]:
        """Returns attended tokens."""
        tokens, width = x.shape
        qkv = nn.Dense(3 * width, name="qkv")(x).reshape(tokens, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(qkv, 1, 0)
        mixed = jax.nn.dot_product_attention(query, key, value)
        return nn.Dense(width, name="out")(mixed.reshape(tokens, width))


class Block(nn.Module):
    """Pre-norm transformer block with layer scale."""

    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "t c"]) -> Float[Array, "t c"]:
        """Returns the block's output tokens."""
        width = x.shape[-1]
        scales = [self.param(f"scale_{i}", nn.initializers.ones, (width,)) for i in (1, 2)]
        x = x + scales[0] * Attention(self.heads, name="attention")(nn.LayerNorm(1e-6, name="norm_1")(x))
        hidden = nn.Dense(4 * width, name="expand")(nn.LayerNorm(1e-6, name="norm_2")(x))
        return x + scales[1] * nn.Dense(width, name="shrink")(jax.nn.gelu(hidden, approximate=False))


class ViT(nn.Module):
    """The transformer up to the last chosen block.

    Attributes:
      config: architecture.
      blocks: numbers of the chosen blocks, from 1.
    """

    config: ViTConfig
    blocks: Sequence[int]

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> Float[Array, "n c"]:
        """Mean over the chosen blocks of the patch tokens they put out, without the final norm, row by row.

        Args:
          image: normalised pixels; height and width are multiples of the patch.

        Raises:
          ValueError: if the image is no whole number of patches, or a block does not exist.
        """
        config = self.config
        if not self.blocks or min(self.blocks) < 1 or max(self.blocks) > config.depth:
            raise ValueError(f"blocks {tuple(self.blocks)} of an encoder that has blocks 1 to {config.depth}")
        x = self._embed(image)
        chosen = []
        for number in range(1, max(self.blocks) + 1):
            x = Block(config.heads, name=f"block_{number}")(x)
            if number in self.blocks:
                chosen.append(x[1 + config.registers :])
        return jnp.mean(jnp.stack(chosen), axis=0)

    def _embed(self, image):
        config = self.config
        height, width, colours = image.shape
        if height % config.patch or width % config.patch:
            raise ValueError(f"image of {height}x{width} is no whole number of {config.patch}-pixel patches")
        rows, columns = height // config.patch, width // config.patch
        patches = image.reshape(rows, config.patch, columns, config.patch, colours).swapaxes(1, 2)
        embedded = nn.Dense(config.width, name="embed")(patches.reshape(rows * columns, -1))
        normal = nn.initializers.normal(0.02)
        cls = self.param("cls", normal, (1, config.width))
        cls_position = self.param("cls_position", normal, (1, config.width))
        positions = self.param("positions", normal, (config.position_grid, config.position_grid, config.width))
        positions = resize_positions(positions, (rows, columns), config.position_mode)
        tokens = [cls + cls_position, embedded + positions.reshape(rows * columns, -1)]
        if config.registers:
            tokens.insert(1, self.param("registers", normal, (config.registers, config.width)))
        return jnp.concatenate(tokens)
