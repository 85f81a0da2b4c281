"""Writes small encoders and their tokens beside this file, so that tests can compare with PyTorch without having it.

Run as `python -m tests.golden.make`. Each file holds the weights under Facebook's names ("tensors/…") and, for some
sizes in patches, an image and the tokens that leave each block ("2x6/image", "2x6/block_1").
"""

import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
GRID = 4
SIZES = ((4, 4), (2, 6))
"""The grid that positions are stored for, and one with fewer rows and more columns."""

FORMS = {
    "dinov2": {"patch": 14},
    "dinov2_registers_swiglu": {"patch": 4, "registers": 4, "swiglu": True, "mode": "antialias"},
    "dino": {"patch": 4, "layer_scale": False},
}
HEADS = 2


def pixels(image: np.ndarray) -> np.ndarray:
    """Pixels as the encoder takes them; a file holds them in 64ths, which need a quarter of the space."""
    return np.float32(image) / 64


def make(name: str) -> dict[str, np.ndarray]:
    """Arrays of one file."""
    from experiments.baselines_torch.dinov2 import Form, TorchViT
    from tests import parity
    from tests.torch_vit import randomise

    model = randomise(TorchViT(Form(width=16, depth=2, heads=HEADS, grid=GRID, **FORMS[name])))
    found = {f"tensors/{key}": value for key, value in parity.arrays(model).items()}
    rng = np.random.default_rng(2)
    for rows, columns in SIZES:
        patch = model.form.patch
        image = rng.integers(-128, 128, (rows * patch, columns * patch, 3), np.int8)
        found[f"{rows}x{columns}/image"] = image
        for number, tokens in enumerate(parity.torch_tokens(model, model.blocks, pixels(image)), start=1):
            found[f"{rows}x{columns}/block_{number}"] = tokens
    return found


if __name__ == "__main__":
    for form in FORMS:
        np.savez_compressed(HERE / f"{form}.npz", **make(form))
