"""The encoders that can be asked for by name."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax.encoders import vit


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A frozen encoder.

    Attributes:
      name: catalogue name.
      config: architecture.
      params: weights, a pytree.
      blocks: blocks whose patch tokens are averaged, from 1.
      digest: SHA-256 of architecture, weights and blocks, in hexadecimal; features are cached under it.
      note: a sentence that every output has to show, empty if there is nothing to say.
    """

    name: str
    config: vit.ViTConfig
    params: Any
    blocks: tuple[int, ...]
    digest: str
    note: str


def _random() -> Encoder:
    config = vit.ViTConfig(width=192, depth=4, heads=6, position_grid=16, position_mode="plain")
    blocks = (1, 2, 3, 4)
    params = jax.jit(lambda key: vit.ViT(config, blocks).init(key, jnp.zeros((224, 224, 3))))(jax.random.key(0))
    note = (
        "The encoder has seeded random weights: it shows that everything runs and what the method makes of "
        "untrained features, not how well PIRN detects."
    )
    return _make("random", config, params, blocks, note)


def _make(name: str, config: vit.ViTConfig, params: Any, blocks: tuple[int, ...], note: str) -> Encoder:
    digest = hashlib.sha256(repr((config, blocks)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return Encoder(name, config, params, blocks, digest.hexdigest(), note)


CATALOGUE: dict[str, Callable[[], Encoder]] = {"random": _random}


def load(name: str) -> Encoder:
    """Loads an encoder by its catalogue name.

    Raises:
      ValueError: listing the names, if there is none like this.
    """
    if name not in CATALOGUE:
        raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]()
