"""The file format of encoders: one .safetensors with our own names, and in its metadata what the encoder is.

All metadata stand as JSON under one key: their order, and with it the bytes of a file, are the same each time.
"""

import dataclasses
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from pirn_jax import atomic
from pirn_jax.data import kinds
from pirn_jax.encoders import vit

FORMAT = 1
"""Version of the format; another number means that the file cannot be read by this code."""

DTYPES = (np.dtype(np.float32), np.dtype(np.float16))
"""What numbers may be stored as."""

_KEY = "pirn_jax"

_LARGEST = {"width": 1 << 14, "depth": 1 << 10, "heads": 1 << 10, "patch": 1 << 9, "position_grid": 1 << 12}
_LARGEST |= {"registers": 1 << 12, "hidden": 1 << 16}
"""Numbers of an architecture beyond which a file is not believed, several times those of any public encoder."""

CONVERTER = "python -m tools.convert_dinov2"

_PYTORCH = {b"PK\x03\x04": "PyTorch's file", b"\x80": "a pickle, probably PyTorch's file"}


class WeightsError(ValueError):
    """A file holds no encoder; the message names the file and the remedy."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An encoder as it is stored.

    Attributes:
      config: architecture.
      params: parameters of all blocks as `vit.ViT` takes them, float32 when loaded.
      blocks: blocks whose patch tokens are averaged unless others are asked for, from 1.
      provenance: where the weights come from: at least source (name of the file), source_sha256, licence, layout and
        description; what stands under note is shown with every result of the encoder.
    """

    config: vit.ViTConfig
    params: Any
    blocks: tuple[int, ...]
    provenance: dict[str, str]


def describe(path: pathlib.Path) -> str | None:
    """Kind of a file that holds no encoder, by its name and first bytes, in words that follow "FILE is "; else None."""
    if path.is_dir():
        return "a directory; name the file"
    if not path.exists():
        return "not there; check the name"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        return "empty; download or convert it again"
    convert = f"convert it with {CONVERTER} --source=FILE"
    torch = next((f"{kind}; {convert}" for magic, kind in _PYTORCH.items() if head.startswith(magic)), None)
    return torch or kinds.stranger(head) or None


def save(path: str | os.PathLike[str], stored: Stored, dtype: Any = np.float32) -> None:
    """Writes an encoder; the file is whole or not there.

    Args:
      path: the file, its folders are made.
      stored: the encoder.
      dtype: float32, or float16 for half the bytes and about three digits.

    Raises:
      ValueError: if `dtype` is another, or a number is too large for it.
    """
    if np.dtype(dtype) not in DTYPES:
        raise ValueError(f"dtype {dtype}: encoders are stored as {' or '.join(map(str, DTYPES))}")
    tensors: dict[str, Any] = flatten_dict(stored.params["params"], sep=".")
    for name, leaf in tensors.items():
        with np.errstate(over="ignore"):
            tensors[name] = np.ascontiguousarray(leaf, dtype)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"tensor {name} has numbers that are not finite as {np.dtype(dtype)}; store it as float32")
    metadata = {
        "format": FORMAT,
        "config": dataclasses.asdict(stored.config),
        "blocks": list(stored.blocks),
        "provenance": stored.provenance,
    }
    data = safetensors.numpy.save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)})
    with atomic.replacing(path) as file:
        file.write(data)


def load(path: str | os.PathLike[str]) -> Stored:
    """Reads an encoder.

    Raises:
      WeightsError: if the file is missing, damaged, another program's or of another version of the format, or if its
        tensors are not those of its architecture.
    """
    path = pathlib.Path(path)
    try:
        fault = describe(path)
        if fault is not None:
            raise WeightsError(f"{path} is {fault}")
        with safetensors.safe_open(path, framework="numpy") as file:
            stored, names = _describe(path, file.metadata()), list(file.keys())
            _check_shapes(path, stored.config, {name: tuple(file.get_slice(name).get_shape()) for name in names})
            tensors = {name: _numbers(path, name, file.get_tensor(name)) for name in names}
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no .safetensors file ({error}); get or convert it again") from error
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}); check its permissions") from error
    return dataclasses.replace(stored, params={"params": unflatten_dict(tensors, sep=".")})


def _describe(path: pathlib.Path, metadata: dict[str, str] | None) -> Stored:
    """All but the parameters, from the metadata."""
    if not metadata or _KEY not in metadata:
        raise WeightsError(f"{path} is another program's .safetensors; convert it with {CONVERTER} --source={path}")
    try:
        found = json.loads(metadata[_KEY])
        version = found["format"]
        if version != FORMAT:
            raise WeightsError(
                f"{path} has version {version} of the format, this program reads {FORMAT}; convert the source again"
            )
        blocks = tuple(int(number) for number in found["blocks"])
        provenance = {str(name): str(value) for name, value in found["provenance"].items()}
        return Stored(_config(found["config"]), None, blocks, provenance)
    except WeightsError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise WeightsError(f"{path} has metadata that make no sense ({error}); convert the source again") from error


def _config(fields: dict[str, Any]) -> vit.ViTConfig:
    """The architecture, whose numbers are checked before anything of their size is made."""
    for name, largest in _LARGEST.items():
        value, least = fields.get(name), name != "registers"
        if name not in fields or (name == "hidden" and value is None):
            continue
        if type(value) is not int or not least <= value <= largest:
            raise ValueError(f"{name} is {value!r}, expected a whole number from {int(least)} to {largest}")
    for name in ("mean", "std"):
        colours = fields.get(name, (1, 1, 1))
        if len(colours) != 3 or not all(math.isfinite(value) for value in colours):
            raise ValueError(f"{name} is {colours!r}, expected three numbers")
    given: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in fields.items()}
    return vit.ViTConfig(**given)


def _check_shapes(path: pathlib.Path, config: vit.ViTConfig, found: dict[str, tuple[int, ...]]) -> None:
    expected = vit.shapes(config)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise WeightsError(
                f"{path}: tensor {name} has shape {found.get(name, 'none, for it is missing')}, expected "
                f"{expected.get(name, 'no such tensor')}; convert the source again"
            )


def _numbers(path: pathlib.Path, name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype not in DTYPES:
        raise WeightsError(f"{path}: tensor {name} holds {tensor.dtype}, expected {' or '.join(map(str, DTYPES))}")
    return tensor.astype(np.float32)
