"""The encoder beside the same one in PyTorch, eager and under torch.compile, with the same weights.

ViT-B/14 at 224 pixels, all twelve blocks, random weights. On a CPU ours takes the images of a batch side by side, as
`features.encode` does. `floor_fraction` is the share of the machine's matrix-product ceiling in that precision that
ours reaches, `reference_fraction` the reference's.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.suites import timing
from pirn_jax import threads
from pirn_jax.encoders import conversion, vit

_SIDE, _BATCHES, _DTYPES = 224, (1, 8), ("float32", "bfloat16")


def operations(config: vit.ViTConfig, images: int) -> float:
    """Multiplications and additions of the matrix products of all blocks."""
    tokens = (_SIDE // config.patch) ** 2 + 1 + config.registers
    linear = config.width * (4 * config.width + 2 * config.inner)
    return 2.0 * images * config.depth * tokens * (linear + 2 * tokens * config.width)


def _reference() -> tuple[Any, conversion.Converted]:
    """PyTorch's model with random weights, and its conversion."""
    from experiments.baselines_torch import dinov2

    model = dinov2.TorchViT(dinov2.Form(768, 12, 12)).eval()
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    return model, conversion.convert(tensors)


def _ours(converted: conversion.Converted, images: np.ndarray, dtype: str) -> Callable[[], Any]:
    model = vit.ViT(converted.config, (converted.config.depth,))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), converted.params)
    run = jax.jit(lambda params, images: jax.vmap(lambda image: model.apply(params, image))(images))
    pixels = jnp.asarray(images, dtype)
    shares = threads.shares(len(images))
    return lambda: threads.each(lambda share: run(params, pixels[share]).block_until_ready(), shares)


def _theirs(model: Any, images: np.ndarray, dtype: str) -> Callable[[], Any]:
    import torch

    model = model.to(getattr(torch, dtype))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(getattr(torch, dtype))

    def run() -> Any:
        with torch.inference_mode():
            return model(pixels)

    return run


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times every precision and batch."""
    import torch

    found, compiles = {}, timing.compiles()
    for dtype in _DTYPES:
        ceiling = max(timing.ceilings(dtype).values())
        for batch in _BATCHES:
            model, converted = _reference()
            images = np.random.default_rng(0).normal(size=(batch, _SIDE, _SIDE, 3)).astype(np.float32)
            theirs = _theirs(model, images, dtype)
            functions: dict[str, Callable[[], Any]] = {"ours": _ours(converted, images, dtype), "eager": theirs}
            if compiles:
                functions["compiled"] = _theirs(torch.compile(model), images, dtype)
            times = timing.medians(functions, repeats)
            times["floor"] = operations(converted.config, batch) / ceiling
            for name in functions.keys() - {"ours"}:
                case = timing.judge(times, name)
                found[f"{dtype}, batch {batch}, {name}"] = {**case, "ceiling_gflops": ceiling / 1e9}
    return found
