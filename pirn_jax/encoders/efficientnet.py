"""EfficientNet-Lite (Tan and Le, 2019; the lite variants of 2020) as a frozen encoder: outputs of chosen blocks.

Inference only: batch norm is folded into the convolutions. Written for one image; `jax.vmap` it. Blocks are numbered
from 1, and none past the last chosen one is computed. Lite variants have ReLU6, no squeeze and excitation, and a stem,
a first and a last stage that do not grow.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192))
STAGES += ((1, 3, 1, 6, 320),)
"""Repeats, kernel, stride of the first block, expansion and channels of each stage of lite0."""

STEM = 32
SCALES = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors of channels and of repeats."""

BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """One inverted residual block.

    Attributes:
      kernel: side of the depthwise convolution.
      stride: of it.
      expansion: factor of the channels within; 1 leaves the first convolution out.
      inputs: channels that come in.
      outputs: channels that go out.
    """

    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int


@dataclasses.dataclass(frozen=True)
class EfficientNetConfig:
    """Architecture and the choice of outputs.

    Attributes:
      variant: one of `SCALES`.
      blocks: numbers of the blocks whose outputs are taken, from 1, side by side along channels.
    """

    variant: str
    blocks: tuple[int, ...]

    def __post_init__(self):
        if self.variant not in SCALES:
            raise ValueError(f"unknown variant {self.variant!r}; choose one of {', '.join(SCALES)}")
        count = len(blocks(self.variant))
        if not self.blocks or min(self.blocks) < 1 or max(self.blocks) > count:
            raise ValueError(f"blocks {self.blocks} of {self.variant}, which has blocks 1 to {count}")

    @property
    def patch(self) -> int:
        """Stride in pixels of the first chosen output, the finest grid that there is something to see on."""
        return 2 * math.prod(block.stride for block in blocks(self.variant)[: min(self.blocks)])

    @property
    def width(self) -> int:
        """Channels of all outputs together."""
        every = blocks(self.variant)
        return sum(every[number - 1].outputs for number in self.blocks)


def blocks(variant: str) -> list[BlockConfig]:
    """All blocks of a variant."""
    width, depth = SCALES[variant]
    found, inputs = [], STEM
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
        outputs = _rounded(channels * width)
        grows = 0 < i < len(STAGES) - 1
        for repeat in range(math.ceil(repeats * depth) if grows else repeats):
            found.append(BlockConfig(kernel, stride if repeat == 0 else 1, expansion, inputs, outputs))
            inputs = outputs
    return found


def default_blocks(variant: str) -> tuple[int, ...]:
    """Last blocks of the third and of the fifth stage, at strides 8 and 16: 5 and 11 of lite0 (our choice)."""
    outputs = [block.outputs for block in blocks(variant)]
    ends = [number for number, pair in enumerate(zip(outputs, [*outputs[1:], 0], strict=True), 1) if pair[0] != pair[1]]
    return ends[2], ends[4]


def _rounded(channels: float) -> int:
    """The nearest multiple of eight, at most a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def normalise(images: Array) -> Float[Array, "*batch h w 3"]:
    """Pixels of uint8 as the networks were trained on: (x - 127) / 128."""
    return (images.astype(jnp.float32) - 127.0) / 128.0


class Convolution(nn.Module):
    """A convolution with bias and TensorFlow's padding.

    One pixel wide it is a product, and channel by channel a sum of shifted images: XLA's own convolutions take
    ten times as long on a CPU.

    Attributes:
      channels: outputs.
      kernel: side of the window.
      stride: of the window.
      depthwise: whether each channel is convolved by itself.
    """

    channels: int
    kernel: int
    stride: int = 1
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "_ _ d"]:
        """Returns the convolved image."""
        shape = (self.kernel, self.kernel, 1 if self.depthwise else x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        if self.depthwise:
            return _each_channel(x, kernel[:, :, 0], self.stride) + bias
        if self.kernel == self.stride == 1:
            return x @ kernel[0, 0] + bias
        strides, layout = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x[None], kernel, strides, "SAME", dimension_numbers=layout)[0] + bias


def _each_channel(
    x: Float[Array, "h w c"], kernel: Float[Array, "k k c"], stride: int
) -> Float[Array, "h_out w_out c"]:
    """A depthwise convolution with TensorFlow's padding."""
    side, pads = len(kernel), jax.lax.padtype_to_pads(x.shape[:2], kernel.shape[:2], (stride, stride), "SAME")
    x = jnp.pad(x, (*pads, (0, 0)))
    rows, columns = ((length - side) // stride * stride + 1 for length in x.shape[:2])
    found = jnp.zeros((), x.dtype)
    for i, j in itertools.product(range(side), repeat=2):
        found += x[i : i + rows : stride, j : j + columns : stride] * kernel[i, j]
    return found


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and the input added where shapes agree.

    Attributes:
      config: of the block.
    """

    config: BlockConfig

    @nn.compact
    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "_ _ d"]:
        """Returns the block's output."""
        config, wide = self.config, self.config.inputs * self.config.expansion
        y = x if config.expansion == 1 else jax.nn.relu6(Convolution(wide, 1, name="expand")(x))
        y = jax.nn.relu6(Convolution(wide, config.kernel, config.stride, True, name="depthwise")(y))
        y = Convolution(config.outputs, 1, name="project")(y)
        return x + y if config.stride == 1 and config.inputs == config.outputs else y


class EfficientNet(nn.Module):
    """The network up to the last chosen block.

    Attributes:
      variant: one of `SCALES`.
      blocks: numbers of the chosen blocks, from 1.
    """

    variant: str
    blocks: Sequence[int]

    @nn.compact
    def __call__(self, image: Float[Array, "h w 3"]) -> list[Float[Array, "_ _ _"]]:
        """Returns the outputs of the chosen blocks, in rising order."""
        x, chosen = jax.nn.relu6(Convolution(STEM, 3, 2, name="stem")(image)), []
        for number, config in enumerate(blocks(self.variant)[: max(self.blocks)], 1):
            x = InvertedResidual(config, name=f"block_{number}")(x)
            if number in self.blocks:
                chosen.append(x)
        return chosen


def encode(config: EfficientNetConfig, params: Any, image: Array) -> list[Float[Array, "_ _ _"]]:
    """Outputs of the chosen blocks for an image of uint8, each at its stride."""
    return EfficientNet(config.variant, sorted(config.blocks)).apply(params, normalise(image))  # pyright: ignore


def convert(tensors: Mapping[str, np.ndarray], variant: str) -> dict[str, Any]:
    """Parameters of all blocks from the tensors of `efficientnet-lite-pytorch`, batch norm folded.

    Raises:
      ValueError: naming the tensor, if one is missing or has another shape.
    """
    params = {"stem": _folded(tensors, "_conv_stem", "_bn0", (STEM, 3, 3, 3))}
    for i, config in enumerate(blocks(variant)):
        wide, prefix = config.inputs * config.expansion, f"_blocks.{i}."
        block = {}
        if config.expansion != 1:
            block["expand"] = _folded(tensors, f"{prefix}_expand_conv", f"{prefix}_bn0", (wide, config.inputs, 1, 1))
        window = (wide, 1, config.kernel, config.kernel)
        block["depthwise"] = _folded(tensors, f"{prefix}_depthwise_conv", f"{prefix}_bn1", window)
        block["project"] = _folded(tensors, f"{prefix}_project_conv", f"{prefix}_bn2", (config.outputs, wide, 1, 1))
        params[f"block_{i + 1}"] = block
    return {"params": params}


def _folded(tensors: Mapping[str, np.ndarray], convolution: str, norm: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Kernel and bias of a convolution followed by batch norm."""

    def get(name: str, expected: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise ValueError(f"tensor {name} is missing")
        if tensors[name].shape != expected:
            raise ValueError(f"tensor {name} has shape {tensors[name].shape}, not {expected}")
        return tensors[name].astype(np.float64)

    kernel, channels = get(f"{convolution}.weight", shape), shape[:1]
    gain, bias, mean, variance = (
        get(f"{norm}.{name}", channels) for name in ("weight", "bias", "running_mean", "running_var")
    )
    factor = gain / np.sqrt(variance + BATCH_NORM_EPSILON)
    scaled = (kernel * factor[:, None, None, None]).transpose(2, 3, 1, 0)
    return {"kernel": scaled.astype(np.float32), "bias": (bias - mean * factor).astype(np.float32)}
