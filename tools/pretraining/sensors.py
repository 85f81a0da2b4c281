"""Sensors that see a surface: a camera under one lamp, and a scanner that measures surface normals."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from pirn_jax.encoders.filter_bank import blur
from tools.pretraining import draws


def photograph(shape: dict[str, Array], key: Key[Array, ""], height: Array, albedo: Array, body: Array) -> Array:
    """Lambert and Blinn shading under one lamp, with darker hollows."""
    turned, raised, power = jax.random.split(key, 3)
    azimuth = shape["azimuth"] + shape["light_spread"] * jax.random.normal(turned)
    elevation = jnp.clip(shape["elevation"] + 0.3 * shape["light_spread"] * jax.random.normal(raised), 0.4, 1.5)
    lamp = jnp.stack([jnp.cos(azimuth) * jnp.cos(elevation), jnp.sin(azimuth) * jnp.cos(elevation), jnp.sin(elevation)])
    down, right = jnp.gradient(height)
    length = jnp.sqrt(1.0 + right**2 + down**2)
    facing = jnp.maximum((lamp[2] - lamp[0] * right - lamp[1] * down) / length, 0.0)
    half = (lamp + jnp.array([0.0, 0.0, 1.0])) / jnp.linalg.norm(lamp + jnp.array([0.0, 0.0, 1.0]))
    glint = jnp.maximum((half[2] - half[0] * right - half[1] * down) / length, 0.0) ** shape["shine"]
    hollow = jnp.clip((blur(height, 4.0) - height) * 0.15, -0.1, 0.5)
    diffuse = shape["ambient"] * (1.0 - hollow) + (1.1 - shape["ambient"]) * facing
    image = albedo * diffuse[..., None] + (shape["gloss"] * glint * body)[..., None]
    gain = 1.0 + 0.04 * jax.random.normal(power, (3,))
    return 255.0 * jnp.clip(image * gain, 0.0, 1.0)


def normal_map(shape: dict[str, Array], key: Key[Array, ""], height: Array, body: Array) -> Array:
    """Normals as a scanner's smoothed ones, in the colours of `geometry.normal_images`; black where it sees none.

    It sees no steep slopes, and loses single pixels and, with some families, small regions.
    """
    of_noise, of_dropout, of_holes = jax.random.split(key, 3)
    down, right = jnp.gradient(blur(height, shape["normals_blur"]))
    steep = jnp.hypot(right, down) > shape["steepest"]
    lost = jax.random.uniform(of_dropout, height.shape) < shape["dropout"]
    field = draws.noise(of_holes, height.shape[0], 6.0)
    noise = shape["normals_noise"] * jax.random.normal(of_noise, (2, *height.shape))
    right, down = (
        slope + 2.0 * blur(shade, shape["normals_blur"]) for slope, shade in zip((right, down), noise, strict=True)
    )
    normals = jnp.stack([-right, down, jnp.ones_like(right)], axis=-1)
    normals = normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)
    seen = (shape["sees_support"] | (body > 0.5)) & ~steep & ~lost & ~(shape["holes"] & (field > 2.2))
    return jnp.where(seen[..., None], (normals + 1.0) * 127.5, 0.0)
