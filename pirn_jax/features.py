"""Frozen patch features of parts: computed once, kept in a content-addressed cache on disk."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from pirn_jax import inputs, threads
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.encoders import vit
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Noted, Preparation
from pirn_jax.stopwatch import Stopwatch

BATCH = 8
"""Parts encoded at a time, each with both modalities; short batches are filled up, so that one program serves all."""

_LOADED_AT_ONCE = 4
"""Parts that are read and whose normals are estimated side by side: more would take memory rather than less time."""

_RECIPE = "3"
"""Changes whenever the same inputs and encoder would give other features; part of every cache key."""


def encoding(config: vit.ViTConfig, blocks: tuple[int, ...]) -> Callable[[Any, Array], Array]:
    """The function from an encoder's weights and images of parts to their features, to be compiled."""
    model = vit.ViT(config, blocks)

    def encode(params, images):
        """(batch, 2, size, size, 3) uint8 -> (batch, 2, n, c) float32, both modalities in one batch of images."""
        flat = vit.normalise(images.reshape(-1, *images.shape[2:]), config)
        tokens: jax.Array = jax.vmap(lambda image: model.apply(params, image))(flat)  # pyright: ignore
        return tokens.reshape(*images.shape[:2], *tokens.shape[1:])

    return encode


@functools.lru_cache(maxsize=2)
def _program(config: vit.ViTConfig, blocks: tuple[int, ...]) -> Callable:
    return jax.jit(encoding(config, blocks))


def encode(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    """Features (parts, 2, n, c) float32 of what `inputs.prepare` makes of parts, (parts, 2, size, size, 3) uint8."""
    program = _program(encoder.config, encoder.blocks)
    shares = threads.shares(len(images))
    return np.concatenate(threads.each(lambda share: np.asarray(program(encoder.params, images[share])), shares))


def extract(
    records: Sequence[Record],
    names: Sequence[str],
    encoder: Encoder,
    preparation: Preparation,
    cache: pathlib.Path,
    watch: Stopwatch,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, list[str]]:
    """Features of parts, read from the cache where they are there already.

    Args:
      records: the parts.
      names: their inputs' names, see `inputs.identify`.
      encoder: frozen encoder.
      preparation: how parts become the encoder's input; its size is a multiple of the encoder's patch.
      cache: directory of the cache; it may be deleted between runs and shared by processes.
      watch: counts `normals_s`, reading included, and `features_s`.
      progress: told how many more parts are done.

    Returns:
      (parts, 2, n, c) float32 with modalities RGB and surface normals, and a note for each part, empty where there is
      nothing to say.

    Raises:
      InputError: naming every part that cannot be used, once all have been tried.
    """
    recipe = f"{_RECIPE} {encoder.digest}"
    paths = [
        inputs.cached_path(cache, "features", hashlib.sha256(f"{recipe} {name}".encode()).hexdigest()) for name in names
    ]
    with watch.stage("features_s"):
        found = [inputs.load_cached(path) for path in paths]
    missing = [i for i, features in enumerate(found) if features is None]
    progress(len(records) - len(missing))
    problems = Problems()

    def load(i: int) -> Noted | InputError:
        try:
            return inputs.load(records[i], names[i], preparation, cache)
        except InputError as error:
            return error

    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        seen = [Noted(np.zeros((2, preparation.size, preparation.size, 3), np.uint8), "")] * BATCH
        with watch.stage("normals_s"):
            for row, part in enumerate(threads.each(load, batch, at_once=_LOADED_AT_ONCE)):
                if isinstance(part, InputError):
                    problems.add(str(part))
                else:
                    seen[row] = part
        if not problems.found:
            with watch.stage("features_s"):
                values = encode(encoder, np.stack([part.values for part in seen]))
                for row, i in enumerate(batch):
                    found[i] = noted = Noted(values[row], seen[row].note)
                    inputs.save_cached(paths[i], noted)
        progress(len(batch))
    problems.check()
    whole = [features for features in found if features is not None]
    return np.stack([features.values for features in whole]), [features.note for features in whole]
