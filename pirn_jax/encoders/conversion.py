"""Public weights of DINO and DINOv2 as parameters of `vit.ViT`.

Every tensor of the source is used, or known to be of no use for patch features, or refused by its name.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from pirn_jax.encoders import layouts, vit
from pirn_jax.encoders.layouts import ConversionError as ConversionError
from pirn_jax.encoders.layouts import Slot

HEAD_WIDTH = 64
"""Channels of an attention head in all public models; no file tells."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """An encoder made of public weights.

    Attributes:
      config: architecture.
      params: parameters as `vit.ViT` takes them, float32 NumPy arrays.
      layout: whose names the source has: "facebook", "huggingface" or "timm".
      ignored: the source's names of tensors that patch features do not need.
    """

    config: vit.ViTConfig
    params: dict[str, Any]
    layout: str
    ignored: tuple[str, ...]


def convert(tensors: Mapping[str, np.ndarray], heads: int | None = None, position_mode: str | None = None) -> Converted:
    """Parameters of our encoder from the tensors of a public one.

    Args:
      tensors: by the source's names; floating point of any precision.
      heads: attention heads; by default one for each 64 channels, as in all public models.
      position_mode: see `vit.ViTConfig`; by default what the source's own code does: "offset" for Facebook's and
        "plain" for Hugging Face's weights without registers, "antialias" with registers and for timm's. timm's files
        of DINO cannot be told from Facebook's.

    Raises:
      ConversionError: naming the tensor, if one is missing, unknown, twice there, of another shape than the
        architecture's, not of floating point or not finite; or if this is another architecture.
    """
    layout = layouts.detect(map(layouts.short, tensors))
    ignored = tuple(sorted(name for name in tensors if layouts.unused(layouts.short(name))))
    names: dict[Slot, str] = {}
    for name in sorted(set(tensors) - set(ignored)):
        slot = layouts.slot(layouts.short(name), layout)
        if slot is None:
            raise ConversionError(
                f"tensor {name} of shape {tensors[name].shape} has no place in an encoder with {layout}'s names; "
                f"supported are {layouts.SUPPORTED}"
            )
        if slot in names:
            raise ConversionError(f"tensors {names[slot]} and {name} stand for the same parameter; give one model")
        names[slot] = name
    config = _config(tensors, names, layout, heads, position_mode)
    return Converted(config, {"params": _parameters(tensors, names, config, layout)}, layout, ignored)


def _config(
    tensors: Mapping[str, np.ndarray],
    names: Mapping[Slot, str],
    layout: str,
    heads: int | None,
    position_mode: str | None,
) -> vit.ViTConfig:
    """The architecture that shapes tell; that all others agree with it is left to `_parameters`."""
    shapes = {slot.path: tensors[name].shape for slot, name in names.items()}
    for path, rank in (("cls", 3), ("positions", 3), ("registers", 3), ("embed.kernel", 4)):
        if path in shapes and (len(shapes[path]) != rank or 0 in shapes[path]):
            raise ConversionError(
                f"tensor {names[Slot(path)]} has shape {shapes[path]}, expected {rank} dimensions, none of them 0"
            )
    width = shapes["cls"][-1]
    registers = shapes["registers"][1] if "registers" in shapes else 0
    if heads is None and width % HEAD_WIDTH:
        raise ConversionError(
            f"tensor {names[Slot('cls')]} has shape {shapes['cls']}, expected a multiple of {HEAD_WIDTH} channels; "
            "the number of attention heads cannot be told"
        )
    config = vit.ViTConfig(
        width,
        _depth(names),
        heads or width // HEAD_WIDTH,
        patch=shapes["embed.kernel"][-1],
        registers=registers,
        position_grid=_grid(names[Slot("positions")], shapes["positions"], layout),
        position_mode=position_mode or _position_mode(layout, registers),
        layer_scale=any(".scale_" in path for path in shapes),
    )
    return _with_mlp(config, tensors, names)


def _position_mode(layout: str, registers: int) -> str:
    if registers or layout == "timm":
        return "antialias"
    return {"facebook": "offset", "huggingface": "plain"}[layout]


def _depth(names: Mapping[Slot, str]) -> int:
    numbers = {int(slot.path.split(".")[0][len("block_") :]) for slot in names if slot.path.startswith("block_")}
    gaps = [number for number in range(1, len(numbers) + 1) if number not in numbers]
    if gaps:
        raise ConversionError(
            f"block {gaps[0] - 1}, counted from 0, is missing, but there is a block {max(numbers) - 1}"
        )
    return len(numbers)


def _grid(name: str, shape: tuple[int, ...], layout: str) -> int:
    """Side of the square grid of position embeddings; timm stores none for the class token of models with registers."""
    for extra in (1, 0) if layout == "timm" else (1,):
        side = math.isqrt(shape[1] - extra)
        if side > 0 and side**2 + extra == shape[1]:
            return side
    raise ConversionError(f"tensor {name} has shape {shape}, expected a class token and a square grid of positions")


def _with_mlp(config: vit.ViTConfig, tensors: Mapping[str, np.ndarray], names: Mapping[Slot, str]) -> vit.ViTConfig:
    """The architecture with the kind and width of the first block's MLP; a gated one has twice the inputs' outputs."""
    sizes = {"expand": 0, "shrink": 0}
    for slot, name in names.items():
        for module, axis in (("expand", 0), ("shrink", -1)):
            if slot.path == f"block_1.{module}.kernel" and tensors[name].ndim == 2:
                sizes[module] += tensors[name].shape[axis]
    hidden = sizes["shrink"]
    if not hidden:
        return config
    config = dataclasses.replace(config, mlp="swiglu" if sizes["expand"] == 2 * hidden else "gelu")
    return config if config.inner == hidden else dataclasses.replace(config, hidden=hidden)


def _parameters(
    tensors: Mapping[str, np.ndarray], names: Mapping[Slot, str], config: vit.ViTConfig, layout: str
) -> dict[str, Any]:
    """All parameters of the architecture; that each tensor has the shape it should is checked on the way."""
    expected = dict(vit.shapes(config))
    count = tensors[names[Slot("positions")]].shape[1]
    expected["positions"] = (count, config.width)
    del expected["cls_position"]
    held: dict[str, list[Slot]] = {path: [] for path in expected}
    for slot in sorted(names):
        held[slot.path].append(slot)
    for path, slots in held.items():
        if not slots or [(slot.part, slot.parts) for slot in slots] != [(i, len(slots)) for i in range(len(slots))]:
            called = ", ".join(layouts.names_of(path, layout))
            raise ConversionError(f"tensor missing for {path}, of shape {expected[path]} here; {layout} has {called}")
    flat = {}
    for path, slots in held.items():
        pieces = [_piece(names[slot], tensors[names[slot]], slot, expected[path], config.patch) for slot in slots]
        flat[path] = np.ascontiguousarray(np.concatenate(pieces, axis=-1))
    positions = flat["positions"]
    grid = config.position_grid
    flat["cls_position"] = positions[:1] if count > grid**2 else np.zeros((1, config.width), np.float32)
    flat["positions"] = positions[-(grid**2) :].reshape(grid, grid, config.width)
    return unflatten_dict(flat, sep=".")


def _piece(name: str, tensor: np.ndarray, slot: Slot, shape: tuple[int, ...], patch: int) -> np.ndarray:
    """The part of a parameter of this shape that a tensor holds, its outputs last."""
    outputs = shape[-1] // slot.parts
    ours = (*shape[:-1], outputs)
    if slot.path in ("cls", "registers", "positions"):
        expected = (1, *ours)
    elif slot.path == "embed.kernel":
        expected = (outputs, 3, patch, patch)
    else:
        expected = ours[::-1]
    if tensor.shape != expected:
        raise ConversionError(f"tensor {name} has shape {tensor.shape}, expected {expected}")
    numbers = _numbers(name, tensor)
    if slot.path == "embed.kernel":
        numbers = numbers.transpose(2, 3, 1, 0)
    elif len(expected) == 2:
        numbers = numbers.T
    return numbers.reshape(ours)


def _numbers(name: str, tensor: np.ndarray) -> np.ndarray:
    """A tensor as float32.

    Raises:
      ConversionError: if it is not of floating point, or has numbers that are not finite as float32.
    """
    # NumPy does not count bfloat16 among floating point.
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise ConversionError(f"tensor {name} holds {tensor.dtype}, expected floating point; give unquantised weights")
    with np.errstate(over="ignore"):
        numbers = tensor.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ConversionError(f"tensor {name} has numbers that are not finite; the file is damaged")
    return numbers
