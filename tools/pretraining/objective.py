"""What the built-in encoder is trained for: features that are, patch by patch, the teacher's targets."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from pirn_jax.encoders import vit
from tools.pretraining import scenes
from tools.pretraining.teacher import Teacher, target


def draw(key: Key[Array, ""], size: int) -> Float[Array, "h w 3"]:
    """Draws one image in 0..255: an instance of a new family with an edit, as colour image or as normal map."""
    of_family, of_edit, of_instance, modality = jax.random.split(key, 4)
    views = scenes.render(scenes.family(of_family, size), of_instance, scenes.edit(of_edit), size)
    return jnp.where(jax.random.bernoulli(modality), views.rgb, views.normals)


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
    images: Float[Array, "m h w 3"],
    teacher: Teacher,
    config: vit.ViTConfig,
    blocks: tuple[int, ...],
) -> Float[Array, ""]:
    """Share of the variance of the descriptors that the features miss.

    Args:
      params: of the encoder.
      key: chooses the window of positions.
      images: in 0..255.
      teacher: see `teacher`.
      config: the encoder's architecture.
      blocks: whose mean output is trained.
    """
    features = encode(params, key, images, config, blocks)
    targets = jax.lax.map(lambda image: target(teacher, image, config.patch), images)
    return jnp.mean(jnp.sum((features - targets) ** 2, axis=-1)) / teacher.mean.size
