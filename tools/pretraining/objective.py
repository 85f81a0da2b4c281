"""Objective of the built-in encoder: features that are, patch by patch, the teacher's targets."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pirn_jax.encoders import vit
from tools.pretraining import edits, scenes
from tools.pretraining.teacher import Teacher, target


def draw(key: Key[Array, ""], size: int) -> Float[Array, "2 h w 3"]:
    """Draws an instance of a new family with an edit: colour image and normal map in 0..255."""
    of_family, of_edit, of_instance = jax.random.split(key, 3)
    return jnp.stack(scenes.render(scenes.family(of_family, size), of_instance, edits.draw(of_edit), size))


def draw_pair(key: Key[Array, ""], size: int) -> Float[Array, "2 2 h w 3"]:
    """Draws two good instances of a new family: colour image and normal map of each, in 0..255."""
    of_family, of_edit, *of_instances = jax.random.split(key, 4)
    shape, unchanged = scenes.family(of_family, size), {**edits.draw(of_edit), "amount": 0.0}
    return jnp.stack([jnp.stack(scenes.render(shape, one, unchanged, size)) for one in of_instances])


def encode(
    params: Any, key: Key[Array, ""], images: Float[Array, "m h w 3"], config: vit.ViTConfig, blocks: tuple[int, ...]
) -> Float[Array, "m n c"]:
    """Features of small images, under a random window of the position embeddings, so that all of them learn."""
    grid = images.shape[1] // config.patch
    row, column = jax.random.randint(key, (2,), 0, config.position_grid - grid + 1)
    positions = params["params"]["positions"]
    window = jax.lax.dynamic_slice(positions, (row, column, 0), (grid, grid, config.width))
    model = vit.ViT(vit.ViTConfig(**{**vars(config), "position_grid": grid}), blocks)
    seen = {"params": {**params["params"], "positions": window}}
    tokens: Array = jax.vmap(lambda image: model.apply(seen, image))(vit.normalise(images, config))  # pyright: ignore
    return tokens


def loss(
    params: Any,
    key: Key[Array, ""],
    images: Float[Array, "m 2 h w 3"],
    teacher: Teacher,
    config: vit.ViTConfig,
    blocks: tuple[int, ...],
) -> Float[Array, "2"]:
    """Share of the variance of the descriptors that the features miss, of colour images and of normal maps.

    Args:
      params: of the encoder.
      key: chooses the window of positions.
      images: in 0..255.
      teacher: see `teacher`.
      config: the encoder's architecture.
      blocks: whose mean output is trained.
    """
    features = encode(params, key, images.reshape(-1, *images.shape[2:]), config, blocks)
    targets = jax.lax.map(lambda pair: target(teacher, pair, config.patch), images)
    missed = jnp.mean(jnp.sum((features.reshape(targets.shape) - targets) ** 2, axis=-1), axis=(0, 2))
    return missed / jnp.array([one.mean.size for one in teacher])
