"""The vision transformer of DINO and DINOv2, as far as its patch features are needed.

DINO: Caron et al., 2021. DINOv2: Oquab et al., 2023; its registers: Darcet et al., 2024.
Written for one image; `jax.vmap` it. Blocks are numbered from 1, and none past the last chosen one is computed.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

POSITION_MODES = ("offset", "plain", "antialias")
MLPS = ("gelu", "swiglu")
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
      layer_scale: whether a learned factor scales each channel that a block adds; DINO has none.
      mlp: "gelu", or "swiglu" as in DINOv2's ViT-g.
      hidden: inner width of the MLP, of "swiglu" after gating; by default what DINOv2 makes of the width.
      mean: what `normalise` subtracts from each colour, of pixels in [0, 1].
      std: what it then divides each colour by.
    """

    width: int
    depth: int
    heads: int
    patch: int = 14
    registers: int = 0
    position_grid: int = 37
    position_mode: str = "offset"
    layer_scale: bool = True
    mlp: str = "gelu"
    hidden: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self):
        for name, choices in (("position_mode", POSITION_MODES), ("mlp", MLPS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")

    @property
    def inner(self) -> int:
        """Inner width of the MLP: `hidden`, or DINOv2's rule for the width (of "swiglu", a multiple of 8)."""
        if self.hidden is not None:
            return self.hidden
        return 4 * self.width if self.mlp == "gelu" else (int(4 * self.width * 2 / 3) + 7) // 8 * 8


def normalise(images: Array, config: ViTConfig) -> Float[Array, "*batch h w 3"]:
    """Scales uint8 pixels to [0, 1] and standardises each colour as the encoder expects."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(config.mean)) / jnp.array(config.std)


@functools.lru_cache(maxsize=8)
def shapes(config: ViTConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the parameters of all blocks, by the names on the way to each, joined by dots."""
    image = jnp.zeros((config.patch, config.patch, 3))
    # All blocks are alike, and tracing dozens of them takes seconds.
    tree: Any = jax.eval_shape(ViT(config, (1,)).init, jax.random.key(0), image)["params"]
    tree |= {f"block_{number}": tree["block_1"] for number in range(2, config.depth + 1)}
    flat: dict[str, Any] = flatten_dict(tree, sep=".")
    return types.MappingProxyType({path: leaf.shape for path, leaf in flat.items()})


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
        # Heads first: jax.nn.dot_product_attention takes a quarter longer on a CPU, of several images twice as long.
        query, key, value = jnp.moveaxis(qkv, (1, 2), (0, 1))
        weights = jax.nn.softmax(jnp.einsum("htd,hsd->hts", query * query.shape[-1] ** -0.5, key))
        return nn.Dense(width, name="out")(jnp.moveaxis(weights @ value, 0, 1).reshape(tokens, width))


def gelu(x: Array) -> Array:
    """Gaussian error linear unit, by erf as PyTorch has it: jax.nn.gelu's erfc takes twice as long on a CPU."""
    return x * (0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5))


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
      config: architecture.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, x: Float[Array, "t c"]) -> Float[Array, "t c"]:
        """Returns the block's output tokens."""
        attended = Attention(self.config.heads, name="attention")(nn.LayerNorm(1e-6, name="norm_1")(x))
        x = x + self._scaled("scale_1", attended)
        return x + self._scaled("scale_2", self._mlp(nn.LayerNorm(1e-6, name="norm_2")(x)))

    def _scaled(self, name, added):
        if not self.config.layer_scale:
            return added
        return self.param(name, nn.initializers.ones, (self.config.width,)) * added

    def _mlp(self, x):
        config = self.config
        if config.mlp == "swiglu":
            gate, value = jnp.split(nn.Dense(2 * config.inner, name="expand")(x), 2, axis=-1)
            hidden = jax.nn.silu(gate) * value
        else:
            hidden = gelu(nn.Dense(config.inner, name="expand")(x))
        return nn.Dense(config.width, name="shrink")(hidden)


class ViT(nn.Module):
    """The transformer up to the last chosen block.

    Attributes:
      config: architecture.
      blocks: numbers of the chosen blocks, from 1.
      groups: layer groups, each some of the chosen blocks; without, all of them are one, and its axis is left out.
    """

    config: ViTConfig
    blocks: Sequence[int]
    groups: Sequence[Sequence[int]] | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> Float[Array, "*g n c"]:
        """Mean over each group's blocks of the patch tokens they put out, without the final norm, row by row.

        Args:
          image: normalised pixels; height and width are multiples of the patch.

        Raises:
          ValueError: if the image is no whole number of patches, or a block does not exist.
        """
        config = self.config
        if not self.blocks or min(self.blocks) < 1 or max(self.blocks) > config.depth:
            raise ValueError(f"blocks {tuple(self.blocks)} of an encoder that has blocks 1 to {config.depth}")
        if self.groups is not None and not {number for group in self.groups for number in group} <= set(self.blocks):
            raise ValueError(f"layer groups {self.groups} have blocks that are not among {tuple(self.blocks)}")
        x = self._embed(image)
        chosen = {}
        for number in range(1, max(self.blocks) + 1):
            x = Block(config, name=f"block_{number}")(x)
            if number in self.blocks:
                chosen[number] = x[1 + config.registers :]

        def mean(group: Sequence[int]) -> Float[Array, "n c"]:
            return jnp.mean(jnp.stack([chosen[number] for number in group]), axis=0)

        return mean(sorted(chosen)) if self.groups is None else jnp.stack([mean(group) for group in self.groups])

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
