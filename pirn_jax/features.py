"""Frozen patch features of samples: computed once, kept in a content-addressed cache on disk."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Bool, Float, UInt8

from pirn_jax import atomic, cache, inputs, threads
from pirn_jax.cache import Prepared
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.data.views import ORIGINAL, View
from pirn_jax.encoders import chroma, efficientnet, filter_bank, fpfh, joint, vit
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation
from pirn_jax.stopwatch import Stopwatch

BATCH = 8
"""Samples encoded at a time, each with both modalities; short batches are padded, so that one program serves all."""

BACKGROUNDS = ("ignore", "keep")

_DESCRIPTORS = {
    filter_bank.FilterBankConfig: filter_bank.describe,
    chroma.ChromaConfig: chroma.describe,
    fpfh.FpfhConfig: fpfh.describe,
}
"""Encoders that learn nothing, by their configs."""

_LOADED_AT_ONCE = 4
"""Samples read and prepared side by side: more would take memory rather than less time."""

_CACHE_VERSION = "7"
"""Part of every cache key; changes whenever the same inputs and encoder would give other features."""


class Extracted(NamedTuple):
    """Features of some samples.

    Attributes:
      values: features of every modality and layer group; of the samples that they were wanted of.
      mask: patches that show the part.
      notes: a sentence for the user on each sample, empty where there is nothing to say.
    """

    values: Float[np.ndarray, "s m g n c"]
    mask: Bool[np.ndarray, "s n"]
    notes: list[str]


def encoding(config: Any, groups: joint.Groups, grid: int) -> Callable[[Any, Array], Array]:
    """The function `(weights, images (b, m, size, size, 3) uint8) -> features (b, m, g, n, c)`, to be compiled.

    Features of an encoder whose own grid is another are resized bilinearly; those of several lie side by side.
    """

    def encode(params: Any, images: Array) -> Array:
        several = params if isinstance(config, joint.JointConfig) else (params,)

        def encode_one(image: Array) -> Float[Array, "g n c"]:
            found = [
                _encode_one(*part, weights, image, grid)
                for part, weights in zip(joint.parts(config, groups), several, strict=True)
            ]
            return jnp.concatenate(found, axis=-1)

        flat = images.reshape(-1, *images.shape[2:])
        tokens = jax.vmap(encode_one)(flat)
        return tokens.reshape(*images.shape[:2], *tokens.shape[1:])

    return encode


def _encode_one(config: Any, groups: joint.Groups, params: Any, image: Array, grid: int) -> Float[Array, "g n c"]:
    """Features of one image by one encoder."""
    if isinstance(config, efficientnet.EfficientNetConfig):
        outputs = efficientnet.encode(config, params, image)
        return jnp.concatenate([_on_grid(x[None], grid) for x in outputs], axis=-1)
    if type(config) in _DESCRIPTORS:
        tokens = _DESCRIPTORS[type(config)](image / jnp.float32(255), config.patch)[None]
    else:
        model = vit.ViT(config, tuple(sorted({number for group in groups for number in group})), groups)
        tokens = model.apply(params, vit.normalise(image, config))
    side = image.shape[0] // config.patch
    return _on_grid(tokens.reshape(-1, side, side, config.width), grid)  # pyright: ignore


def _on_grid(values: Float[Array, "g h w c"], grid: int) -> Float[Array, "g n c"]:
    """Values resized bilinearly to a grid, averaging where it is coarser, row by row."""
    resized = jax.image.resize(values, (len(values), grid, grid, values.shape[-1]), "linear")
    return resized.reshape(len(values), grid * grid, -1)


@functools.lru_cache(maxsize=2)
def _program(config: Any, groups: joint.Groups, grid: int) -> Callable:
    return jax.jit(encoding(config, groups, grid))


def encode(encoder: Encoder, grid: int, images: UInt8[np.ndarray, "s m h w 3"]) -> Float[np.ndarray, "s m g n c"]:
    """Features of images as `inputs.prepare` gives them, on a grid of so many patches along a side."""
    program = _program(encoder.config, encoder.groups, grid)
    shares = threads.shares(len(images))
    return np.concatenate(threads.each(lambda share: np.asarray(program(encoder.params, images[share])), shares))


def patch_mask(region: Bool[np.ndarray, "size size"], grid: int) -> Bool[np.ndarray, " n"]:
    """Patches that show the part or lie within half a patch of it, row by row; all if none does."""
    patch = len(region) // grid
    near = scipy.ndimage.maximum_filter(region, 2 * (patch // 2) + 1, mode="constant")
    mask = near.reshape(grid, patch, grid, patch).any((1, 3)).ravel()
    return mask if mask.any() else np.ones_like(mask)


def identify(name: str, encoder: Encoder, grid: int, view: View = ORIGINAL) -> str:
    """Name of the features of inputs with this name as a view shows them."""
    seen = "" if view == ORIGINAL else f" {view}"
    return hashlib.sha256(f"{_CACHE_VERSION} {encoder.digest} {grid} {name}{seen}".encode()).hexdigest()


def extract(
    records: Sequence[Record],
    names: Sequence[str],
    encoder: Encoder,
    grid: int,
    preparation: Preparation,
    home: pathlib.Path,
    watch: Stopwatch,
    progress: Callable[[int], None] = lambda done: None,
    wanted: Collection[int] | None = None,
) -> Extracted:
    """Features of samples, read from the cache where they are there already.

    Args:
      records: the samples.
      names: their inputs' names, see `inputs.identify`.
      encoder: frozen encoder.
      grid: patches along a side.
      preparation: how samples become the encoder's input; its size is a multiple of the encoder's patch and the grid.
      home: directory of the cache; it may be deleted between runs and shared by processes.
      watch: counts `normals_s`, reading included, and `features_s`.
      progress: told how many more samples are done.
      wanted: places of the samples whose features are returned, None for all; the others' are put into the cache alone.

    Raises:
      InputError: naming every sample that cannot be used, once all have been tried.
    """
    paths = [
        cache.path(home, "features", identify(name, encoder, grid, record.view))
        for record, name in zip(records, names, strict=True)
    ]
    wanted = range(len(records)) if wanted is None else frozenset(wanted)
    with watch.stage("features_s"):
        found = [cache.load(path, i in wanted) for i, path in enumerate(paths)]
    missing = [i for i, features in enumerate(found) if features is None]
    progress(len(records) - len(missing))
    for kind in ("inputs", "features") if missing else ():
        atomic.sweep(home / kind)
    problems = Problems()

    def prepared(i: int) -> Prepared | InputError:
        try:
            return _prepared(records[i], names[i], preparation, home)
        except InputError as error:
            return error

    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        with watch.stage("normals_s"):
            seen = threads.each(prepared, batch, at_once=_LOADED_AT_ONCE)
        ready = [one for one in seen if isinstance(one, Prepared)]
        for refused in (one for one in seen if isinstance(one, InputError)):
            problems.add(str(refused))
        if not problems.found:
            with watch.stage("features_s"):
                for i, entry in zip(batch, _encoded(encoder, grid, ready), strict=True):
                    cache.save(paths[i], entry)
                    found[i] = entry if i in wanted else entry._replace(values=np.zeros(0))
        progress(len(batch))
    problems.check()
    whole = [features for features in found if features is not None]
    values = [features.values for i, features in enumerate(whole) if i in wanted]
    nothing = np.zeros((0, 2, len(encoder.groups), grid**2, encoder.config.width), np.float32)
    return Extracted(
        np.stack(values) if values else nothing,
        np.stack([features.mask for features in whole]) if whole else np.zeros((0, grid**2), bool),
        [features.note for features in whole],
    )


def _prepared(record: Record, name: str, preparation: Preparation, home: pathlib.Path) -> Prepared:
    """Inputs of the encoder of a sample in its view."""
    found = inputs.load(record, name, preparation, home)
    return found if record.view == ORIGINAL else inputs.viewed(found, record.view, preparation.geometry)


def _encoded(encoder: Encoder, grid: int, batch: Sequence[Prepared]) -> list[Prepared]:
    """Features of up to `BATCH` samples, and their patches that show the part."""
    images = np.stack([sample.values for sample in batch])
    images = np.pad(images, ((0, BATCH - len(batch)), *((0, 0),) * (images.ndim - 1)))
    values = encode(encoder, grid, images)
    return [Prepared(values[i], patch_mask(sample.mask, grid), sample.note) for i, sample in enumerate(batch)]
