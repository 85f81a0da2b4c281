"""Every block's tokens of a PyTorch model against those of the encoder with the model's converted parameters."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pirn_jax.encoders import conversion, vit

TOLERANCE = 2e-5
"""Of the largest difference in a block's tokens, as a share of the largest of them; float32 leaves about 2e-6."""

MARKS = [
    pytest.mark.torch,
    # Only where a JUnit file is asked for, whose newest format has no place for what the tests record.
    pytest.mark.filterwarnings("ignore:record_property is incompatible with junit_family"),
]

SIZES = {"224": (224, 224), "518": (518, 518), "112x560": (112, 560)}
"""The last has fewer rows and more columns of patches than the positions are stored for."""


class Pair:
    """A PyTorch model, and what the conversion makes of its tensors."""

    def __init__(self, model: torch.nn.Module, blocks: torch.nn.ModuleList, tensors: dict | None = None, **options):
        self.model = model
        self.blocks = blocks
        self.converted = conversion.convert(arrays(model) if tensors is None else tensors, **options)

    def check(self, height: int, width: int, record, **options) -> None:
        """Compares the tokens of every block, and the mean of their patch tokens.

        Args:
          height: of the image, in pixels.
          width: of the image.
          record: pytest's `record_property`, which is given the largest relative difference and its block.
          **options: for the PyTorch model's call.
        """
        image = np.random.default_rng(1).standard_normal((height, width, 3), dtype=np.float32)
        expected = torch_tokens(self.model, self.blocks, image, **options)
        config = self.converted.config
        with jax.default_matmul_precision("highest"):
            mean, found = encode(config)(self.converted.params, jnp.asarray(image))
        differences = [difference(*pair) for pair in zip(found, expected, strict=True)]
        worst = int(np.argmax(differences))
        record("block", f"{worst + 1} of {len(differences)}")
        record("difference", f"{differences[worst]:.1e}")
        assert differences[worst] <= TOLERANCE, f"block {worst + 1}: {differences}"
        patches = [tokens[1 + config.registers :] for tokens in expected]
        assert difference(mean, np.mean(patches, axis=0)) <= TOLERANCE


@functools.cache
def encode(config: vit.ViTConfig):
    """A program from parameters and an image to the encoder's own output and the tokens of every block."""
    encoder = vit.ViT(config, range(1, config.depth + 1))

    def tokens(params, image):
        mean, seen = encoder.apply(params, image, capture_intermediates=lambda module, _: isinstance(module, vit.Block))
        return mean, [seen["intermediates"][f"block_{number}"]["__call__"][0] for number in encoder.blocks]

    return jax.jit(tokens)


def difference(found, expected: np.ndarray) -> float:
    """Largest absolute difference, as a share of the largest expected value; no number counts as infinite."""
    assert found.shape == expected.shape
    share = np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()
    return float(share) if np.isfinite(share) else np.inf


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The model's tensors under its own names."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def torch_tokens(model: torch.nn.Module, blocks: torch.nn.ModuleList, image: np.ndarray, **options) -> list[np.ndarray]:
    """All tokens, as they leave each block, of an image (h, w, 3)."""
    tokens = []

    def keep(module, inputs, output):
        tokens.append((output[0] if isinstance(output, tuple) else output)[0].numpy())

    with contextlib.ExitStack() as hooks, torch.no_grad():
        for block in blocks:
            hooks.enter_context(block.register_forward_hook(keep))
        model(torch.from_numpy(image).permute(2, 0, 1)[None], **options)
    return tokens


def declare_torchvision() -> None:
    """Lets packages import a torchvision that was built for another kind of PyTorch.

    Beside a CPU build of PyTorch, torchvision as published cannot load its compiled operators and stops at naming two
    that it has not declared. Nothing here runs them.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        return
    except RuntimeError:
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
