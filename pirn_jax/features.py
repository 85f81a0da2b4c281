"""Frozen patch features of samples: computed once, kept in a content-addressed cache on disk."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Bool, Float, UInt8

from pirn_jax import inputs, threads
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.encoders import efficientnet, filter_bank, vit
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation, Prepared
from pirn_jax.stopwatch import Stopwatch

BATCH = 8
"""Samples encoded at a time, each with both modalities; short batches are padded, so that one program serves all."""

BACKGROUNDS = ("ignore", "keep")

_LOADED_AT_ONCE = 4
"""Samples read and prepared side by side: more would take memory rather than less time."""

_CACHE_VERSION = "4"
"""Part of every cache key; changes whenever the same inputs and encoder would give other features."""


class Extracted(NamedTuple):
    """Features of some samples.

    Attributes:
      values: features of every modality and layer group.
      mask: patches that show the part.
      notes: a sentence for the user on each sample, empty where there is nothing to say.
    """

    values: Float[np.ndarray, "s m g n c"]
    mask: Bool[np.ndarray, "s n"]
    notes: list[str]


def encoding(config: Any, groups: tuple[tuple[int, ...], ...]) -> Callable[[Any, Array], Array]:
    """The function `(weights, images (b, m, size, size, 3) uint8) -> features (b, m, g, n, c)`, to be compiled."""
    if isinstance(config, filter_bank.FilterBankConfig):

        def encode_one(params: Any, image: Array) -> Float[Array, "g n c"]:
            del params
            return filter_bank.describe(image / jnp.float32(255), config.patch)[None]
    elif isinstance(config, efficientnet.EfficientNetConfig):

        def encode_one(params: Any, image: Array) -> Float[Array, "g n c"]:
            return efficientnet.encode(config, params, image)[None]
    else:
        model = vit.ViT(config, tuple(sorted({number for group in groups for number in group})), groups)

        def encode_one(params: Any, image: Array) -> Float[Array, "g n c"]:
            return model.apply(params, vit.normalise(image, config))  # pyright: ignore

    def encode(params: Any, images: Array) -> Array:
        flat = images.reshape(-1, *images.shape[2:])
        tokens = jax.vmap(lambda image: encode_one(params, image))(flat)
        return tokens.reshape(*images.shape[:2], *tokens.shape[1:])

    return encode


@functools.lru_cache(maxsize=2)
def _program(config: Any, groups: tuple[tuple[int, ...], ...]) -> Callable:
    return jax.jit(encoding(config, groups))


def encode(encoder: Encoder, images: UInt8[np.ndarray, "s m h w 3"]) -> Float[np.ndarray, "s m g n c"]:
    """Features of images as `inputs.prepare` gives them."""
    program = _program(encoder.config, encoder.groups)
    shares = threads.shares(len(images))
    return np.concatenate(threads.each(lambda share: np.asarray(program(encoder.params, images[share])), shares))


def patch_mask(region: Bool[np.ndarray, "size size"], patch: int) -> Bool[np.ndarray, " n"]:
    """Patches that show the part or lie within half a patch of it, row by row; all if none does."""
    near = scipy.ndimage.maximum_filter(region, 2 * (patch // 2) + 1, mode="constant")
    grid = region.shape[0] // patch
    mask = near[: grid * patch, : grid * patch].reshape(grid, patch, grid, patch).any((1, 3)).ravel()
    return mask if mask.any() else np.ones_like(mask)


def identify(name: str, encoder: Encoder) -> str:
    """Name of the features of inputs with this name."""
    return hashlib.sha256(f"{_CACHE_VERSION} {encoder.digest} {name}".encode()).hexdigest()


def extract(
    records: Sequence[Record],
    names: Sequence[str],
    encoder: Encoder,
    preparation: Preparation,
    cache: pathlib.Path,
    watch: Stopwatch,
    progress: Callable[[int], None] = lambda done: None,
) -> Extracted:
    """Features of samples, read from the cache where they are there already.

    Args:
      records: the samples.
      names: their inputs' names, see `inputs.identify`.
      encoder: frozen encoder.
      preparation: how samples become the encoder's input; its size is a multiple of the encoder's patch.
      cache: directory of the cache; it may be deleted between runs and shared by processes.
      watch: counts `normals_s`, reading included, and `features_s`.
      progress: told how many more samples are done.

    Raises:
      InputError: naming every sample that cannot be used, once all have been tried.
    """
    paths = [inputs.cached_path(cache, "features", identify(name, encoder)) for name in names]
    with watch.stage("features_s"):
        found = [inputs.load_cached(path) for path in paths]
    missing = [i for i, features in enumerate(found) if features is None]
    progress(len(records) - len(missing))
    problems = Problems()

    def load(i: int) -> Prepared | InputError:
        try:
            return inputs.load(records[i], names[i], preparation, cache)
        except InputError as error:
            return error

    size = preparation.size
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        seen = [Prepared(np.zeros((2, size, size, 3), np.uint8), np.zeros((size, size), bool), "")] * BATCH
        with watch.stage("normals_s"):
            for row, sample in enumerate(threads.each(load, batch, at_once=_LOADED_AT_ONCE)):
                if isinstance(sample, InputError):
                    problems.add(str(sample))
                else:
                    seen[row] = sample
        if not problems.found:
            with watch.stage("features_s"):
                values = encode(encoder, np.stack([sample.values for sample in seen]))
                for row, i in enumerate(batch):
                    mask = patch_mask(seen[row].mask, encoder.config.patch)
                    found[i] = entry = Prepared(values[row], mask, seen[row].note)
                    inputs.save_cached(paths[i], entry)
        progress(len(batch))
    problems.check()
    whole = [features for features in found if features is not None]
    return Extracted(
        np.stack([features.values for features in whole]),
        np.stack([features.mask for features in whole]),
        [features.note for features in whole],
    )
