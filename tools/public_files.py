"""Files that public weights come in, PyTorch's and safetensors, read without executing anything in them."""

import argparse
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from pirn_jax.encoders import weights

_TORCH = (2, 10)
"""Older ones had holes through which torch.load(weights_only=True) executed code."""

_WRAPPERS = ("teacher", "state_dict", "model", "model_state_dict", "student")
"""Under which names checkpoints of training hold the tensors; DINO's teacher is what its authors evaluate."""


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a file of PyTorch or of safetensors, by their names.

    Raises:
      ValueError: if it is neither, is damaged, or needs more than reading.
    """
    fault = weights.describe(path)
    if fault is not None and not fault.startswith(("PyTorch", "a pickle")):
        raise ValueError(f"{path} is {fault}")
    if fault is not None:
        torch = _import_torch()
        return _tensors(torch, _load(torch, path), path)
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, or neither PyTorch's file nor .safetensors ({error}); get it again"
        ) from error


def _load(torch: Any, path: pathlib.Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    # The list of contents stands at the end of a zipped file.
    if not zipped and _starts(path, b"PK"):
        raise ValueError(f"{path} is damaged, probably truncated; get it again")
    if zipped and any("/code/" in name for name in zipfile.ZipFile(path).namelist()):
        raise ValueError(f"{path} is a TorchScript program, not tensors; save the model's state_dict and give that")
    try:
        # Checkpoints of DINO hold their flags as a Namespace, which only has attributes.
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is damaged, or holds objects besides tensors, which are not loaded because they could run code; "
            "save its state_dict alone"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged, probably truncated; get it again") from error


def _starts(path: pathlib.Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _import_torch() -> Any:
    needed = ".".join(map(str, _TORCH))
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"PyTorch's files need torch {needed} or newer: pip install 'pirn_jax[convert]', or give a .safetensors"
        ) from error
    if tuple(int(number) for number in torch.__version__.split("+")[0].split(".")[:2]) < _TORCH:
        raise ValueError(
            f"torch {torch.__version__} may execute code in a file; install {needed} or newer: "
            "pip install 'pirn_jax[convert]'"
        )
    return torch


def _tensors(torch: Any, found: Any, path: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint, unwrapped; of floating point as float32."""
    while isinstance(found, Mapping) and not any(isinstance(value, torch.Tensor) for value in found.values()):
        found = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds no tensors by name, and none under {', '.join(_WRAPPERS)}")
    tensors = {str(name): value.detach() for name, value in found.items() if isinstance(value, torch.Tensor)}
    return {name: (value.float() if value.is_floating_point() else value).numpy() for name, value in tensors.items()}
