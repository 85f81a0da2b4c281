"""Frozen patch features of parts: computed once, kept in a content-addressed cache on disk."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence

import jax
import numpy as np
import PIL.Image

from pirn_jax import atomic
from pirn_jax.data import sample
from pirn_jax.data.images import InputError
from pirn_jax.data.sample import Record, Sample
from pirn_jax.encoders import vit
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.geometry import normals
from pirn_jax.stopwatch import Stopwatch

BATCH = 8
"""Parts encoded at a time, each with both modalities; short batches are filled up, so that one program serves all."""

_RECIPE = "1"
"""Changes whenever the same files and settings would give other features; part of every cache key."""


def square(image: np.ndarray) -> np.ndarray:
    """Pads (h, w, ...) with zeros to a square, the image in the middle (top and left get the smaller half)."""
    side = max(image.shape[:2])
    missing = [side - image.shape[0], side - image.shape[1]]
    padding = [(m // 2, m - m // 2) for m in missing] + [(0, 0)] * (image.ndim - 2)
    return np.pad(image, padding)


def surface_normals(part: Sample) -> np.ndarray:
    """Normals of a part at full resolution, (h, w, 3) float32 in the camera frame, zero where unknown."""
    return np.asarray(normals.estimate(part.xyz))


def network_input(part: Sample, size: int) -> np.ndarray:
    """What the encoder sees of a part: RGB and surface normals as square images, (2, size, size, 3) uint8.

    Normals are computed at full resolution and resized without mixing in invalid pixels; RGB is resized bicubically.
    """
    rgb = PIL.Image.fromarray(square(part.rgb)).resize((size, size), PIL.Image.Resampling.BICUBIC)
    field = normals.resize(square(surface_normals(part)), (size, size))
    return np.stack([np.asarray(rgb), normals.to_image(field)])


@functools.lru_cache(maxsize=2)
def _program(config: vit.ViTConfig, blocks: tuple[int, ...]) -> Callable:
    model = vit.ViT(config, blocks)

    def encode(params, inputs):
        """(batch, 2, size, size, 3) uint8 -> (batch, 2, n, c) float32, both modalities in one batch of images."""
        images = vit.normalise(inputs.reshape(-1, *inputs.shape[2:]), config)
        tokens: jax.Array = jax.vmap(lambda image: model.apply(params, image))(images)  # pyright: ignore
        return tokens.reshape(*inputs.shape[:2], *tokens.shape[1:])

    return jax.jit(encode)


def encode(encoder: Encoder, inputs: np.ndarray) -> np.ndarray:
    """Features (parts, 2, n, c) float32 of what `network_input` makes of parts, (parts, 2, size, size, 3) uint8."""
    return np.asarray(_program(encoder.config, encoder.blocks)(encoder.params, inputs))


def identify(records: Sequence[Record], encoder: Encoder, size: int) -> list[str]:
    """Names of the features of parts: SHA-256 of the files' bytes and of everything that makes features of them.

    Raises:
      InputError: naming the file, if one cannot be read.
    """
    recipe = hashlib.sha256(f"{_RECIPE} {encoder.digest} {size} {normals.RADIUS}".encode()).digest()
    return [hashlib.sha256(recipe + _digest(record.rgb) + _digest(record.xyz)).hexdigest() for record in records]


def extract(
    records: Sequence[Record],
    names: Sequence[str],
    encoder: Encoder,
    size: int,
    cache: pathlib.Path,
    watch: Stopwatch,
    progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Features of parts, read from the cache where they are there already.

    Args:
      records: the parts.
      names: their features' names, see `identify`.
      encoder: frozen encoder.
      size: side of the encoder's input in pixels, a multiple of its patch.
      cache: directory of the cache; it may be deleted between runs and shared by processes.
      watch: counts `normals_s`, reading included, and `features_s`.
      progress: told how many more parts are done.

    Returns:
      (parts, 2, n, c) float32 with modalities RGB and surface normals.

    Raises:
      InputError: naming the file, if a part cannot be read.
    """
    paths = [cache / "features" / name[:2] / f"{name}.npy" for name in names]
    with watch.stage("features_s"):
        found = [_load(path) for path in paths]
    missing = [i for i, features in enumerate(found) if features is None]
    progress(len(records) - len(missing))
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        inputs = np.zeros((BATCH, 2, size, size, 3), np.uint8)
        with watch.stage("normals_s"):
            for row, i in enumerate(batch):
                inputs[row] = network_input(sample.load(records[i]), size)
        with watch.stage("features_s"):
            for i, features in zip(batch, encode(encoder, inputs), strict=False):
                _save(paths[i], features)
                found[i] = features
        progress(len(batch))
    return np.stack([features for features in found if features is not None])


def _digest(path: pathlib.Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _load(path: pathlib.Path) -> np.ndarray | None:
    """Features from the cache; None, which has them computed, where there is no whole and readable file."""
    try:
        return np.load(path)
    except (OSError, EOFError, ValueError):
        return None


def _save(path: pathlib.Path, features: np.ndarray) -> None:
    with atomic.replacing(path) as file:
        np.save(file, features)
