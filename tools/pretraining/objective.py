"""What the built-in encoder is trained for, in two stages.

First its features are fitted to `teacher`'s targets, patch by patch. Then episodes: two good instances of a family are
the memory, a third one is shown as it is and with an edit. Patches are compared with the memory by cosine, as
nearest-neighbour inspection does, and the distance has to tell edited patches from all others, of whatever family: the
features must forget pose, light, noise and scatter and keep everything else. The labels are the generator's own edits.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from pirn_jax.encoders import vit
from tools.pretraining import scenes
from tools.pretraining.teacher import Teacher, target

MEMORY = 2
"""Good instances of an episode that the others are compared with."""

_VISIBLE = 10.0  # of 255, in the channel that changes most
_TEMPERATURE = 0.01  # of the soft minimum over the memory; our choice
_WRONG = 0.06  # share of a patch's pixels from which it counts as edited
_RIGHT = 0.005  # and up to which as untouched; in between it does not count
_FITTED = 0.5  # weight of the first stage's loss in the second


class Episode(NamedTuple):
    """An episode, all images as colour image or all as normal map.

    Attributes:
      images: (MEMORY + 2, h, w, 3) in 0..255: the memory, another instance, and the same one with an edit.
      edited: (h, w), the pixels of the last image in which the edit shows.
    """

    images: Array
    edited: Array


def single(key: Key[Array, ""], size: int) -> Float[Array, "h w 3"]:
    """Draws one image of one family, edited as it may be, of either modality."""
    of_family, of_edit, of_instance, modality = jax.random.split(key, 4)
    views = scenes.render(scenes.family(of_family, size), of_instance, scenes.edit(of_edit), size)
    return jnp.where(jax.random.bernoulli(modality), views.rgb, views.normals)


def episode(key: Key[Array, ""], size: int) -> Episode:
    """Draws a family, its instances and an edit."""
    of_family, of_edit, of_instances, modality = jax.random.split(key, 4)
    shape, change = scenes.family(of_family, size), scenes.edit(of_edit)
    colour = jax.random.bernoulli(modality)

    def look(instance, amount):
        views = scenes.render(shape, instance, {**change, "amount": amount}, size)
        return jnp.where(colour, views.rgb, views.normals)

    keys = jax.random.split(of_instances, MEMORY + 1)
    images = jax.vmap(look)(jnp.stack([*keys, keys[-1]]), jnp.array([0.0] * (MEMORY + 1) + [1.0]))
    return Episode(images, jnp.max(jnp.abs(images[-1] - images[-2]), axis=-1) > _VISIBLE)


def patch_shares(pixels: Bool[Array, "*batch h w"], patch: int) -> Float[Array, "*batch n"]:
    """Share of each patch's pixels that are true."""
    *batch, height, width = pixels.shape
    cells = pixels.reshape(*batch, height // patch, patch, width // patch, patch)
    return jnp.mean(cells, axis=(-3, -1), dtype=jnp.float32).reshape(*batch, -1)


def distances(tokens: Float[Array, "i n c"]) -> Float[Array, "2 n"]:
    """Cosine distances to the nearest patch of the memory, of the other instance without and with its edit.

    The minimum is a soft one.
    """
    unit = tokens / jnp.sqrt(jnp.sum(tokens**2, axis=-1, keepdims=True) + 1e-12)
    similar = jnp.einsum("inc,gkc->ingk", unit[MEMORY:], unit[:MEMORY]) / _TEMPERATURE
    return 1.0 - _TEMPERATURE * jax.nn.logsumexp(similar, axis=(-2, -1))


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


def unexplained(features: Float[Array, "m n c"], images: Float[Array, "m h w 3"], teacher: Teacher, patch: int):
    """Share of the descriptors' variance that the features miss."""
    targets = jax.lax.map(lambda image: target(teacher, image, patch), images)
    return jnp.mean(jnp.sum((features - targets) ** 2, axis=-1)) / teacher.mean.size


def compare(
    features: Float[Array, "b i n c"], edited: Bool[Array, "b h w"], head: Float[Array, "2"], patch: int
) -> dict[str, Float[Array, ""]]:
    """Losses of the second stage, each a cross-entropy of distances, scaled and shifted by the head.

    Returns:
      `missed` of edited patches; `alarms` of untouched ones; `moved`, of edited patches against the same ones before;
      `instances`, of the instance with against that without its edit, by the log-sum-exp over patches. And `ranked`,
      the share of instances whose edit raises the highest distance. Edits that do not show count for nothing.
    """
    logits = jnp.exp(head[0]) * (jax.vmap(distances)(features) - head[1])
    before, after = logits[:, 0], logits[:, 1]
    shares = patch_shares(edited, patch)
    wrong, right = shares > _WRONG, shares < _RIGHT
    shows = jnp.any(wrong, axis=-1)

    def mean(values, chosen):
        return jnp.sum(values * chosen) / jnp.maximum(jnp.sum(chosen), 1.0)

    loss = jax.nn.softplus
    return {
        "missed": mean(loss(-after), wrong),
        "alarms": 0.5 * (jnp.mean(loss(before)) + mean(loss(after), right)),
        "moved": mean(loss(before - after), wrong),
        "instances": mean(loss(jax.nn.logsumexp(before, axis=-1) - jax.nn.logsumexp(after, axis=-1)), shows),
        "ranked": mean(jnp.max(before, axis=-1) < jnp.max(after, axis=-1), shows),
    }


def first_loss(weights: Any, key: Key[Array, ""], images: Array, teacher: Teacher, config: vit.ViTConfig, blocks):
    """Loss of the first stage and its metrics; `weights` as in `second_loss`, `images` (m, h, w, 3) in 0..255."""
    value = unexplained(encode(weights["encoder"], key, images, config, blocks), images, teacher, config.patch)
    return value, {"unexplained": value}


def second_loss(weights: Any, key: Key[Array, ""], drawn: Episode, teacher: Teacher, config: vit.ViTConfig, blocks):
    """Loss of the second stage and its metrics.

    Args:
      weights: {"encoder": parameters, "head": (2,) log scale and threshold of distances}.
      key: chooses the window of positions.
      drawn: episodes with a leading batch axis.
      teacher: whose targets the features stay near.
      config: the encoder's architecture.
      blocks: whose mean output is trained.
    """
    images = drawn.images.reshape(-1, *drawn.images.shape[2:])
    features = encode(weights["encoder"], key, images, config, blocks)
    parts = compare(
        features.reshape(*drawn.images.shape[:2], *features.shape[1:]), drawn.edited, weights["head"], config.patch
    )
    kept = unexplained(features, images, teacher, config.patch)
    value = parts["missed"] + parts["alarms"] + parts["moved"] + parts["instances"] + _FITTED * kept
    return value, {"unexplained": kept, **parts}
