"""Made-up surfaces: families of things that look alike, instances of a family, and local edits of an instance.

A family is drawn at random from closed-form parts: a silhouette with a rounded rim, layers of elements on straight or
polar lattices (studs, pits, bars, rings, stripes), and noise in relief and colour. An instance of it has its own pose,
light, noise and scatter. An edit changes an instance within a small spot: relief, colour, grain, or the place that is
shown there. No shape is modelled after any object.

Lengths and heights are pixels of the rendered image, angles radians, colours in [0, 1].
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tools.pretraining import draws, edits, elements, sensors

LAYERS = 3
_HARMONICS = 4


class Views(NamedTuple):
    """One instance as the encoder sees it: colour image and normal map, each (h, w, 3) in 0..255, without noise."""

    rgb: Array
    normals: Array


def family(key: Key[Array, ""], size: int) -> dict[str, Any]:
    """Draws the parameters that all instances of a family share.

    Args:
      key: random key; the same key gives the same family.
      size: side of the images in pixels; things are placed and sized for it.
    """
    k = iter(jax.random.split(key, 96))
    ring = jax.random.bernoulli(next(k), 0.25)
    # What may lie any way round is seen near its middle, so that all instances show the same.
    free = jax.random.bernoulli(next(k), 0.35)
    radius = draws.spread(next(k), 0.25 * size, 1.1 * size)
    rim = draws.spread(next(k), 1.5, 0.8 * size)
    wobble = draws.uniform(next(k), -1.0, 1.0, (_HARMONICS,)) * jnp.array([0.0, 0.2, 0.15, 0.1])
    base = draws.uniform(next(k), 0.05, 0.95, (3,))
    # Half of the materials are nearly grey.
    grey = jnp.mean(base)
    base = jnp.where(jax.random.bernoulli(next(k), 0.4), grey + 0.15 * (base - grey), base)
    return {
        "filled": jax.random.bernoulli(next(k), 0.3),
        "centre": draws.uniform(next(k), -0.45 * size, 0.45 * size, (2,)) * jnp.where(free, 0.3, 1.0),
        "radius": radius,
        "hole": jnp.where(ring, radius * draws.uniform(next(k), 0.2, 0.6), -2.0 * size),
        "corners": draws.spread(next(k), 1.6, 12.0),
        "aspect": draws.uniform(next(k), 0.6, 1.0),
        "wobble": wobble * jax.random.bernoulli(next(k), 0.5),
        "phases": draws.uniform(next(k), 0.0, 6.3, (_HARMONICS,)),
        "rim": rim,
        "height": rim * draws.uniform(next(k), 0.1, 1.4),
        "base": base,
        "support": draws.uniform(next(k), 0.05, 0.95) + draws.uniform(next(k), -0.05, 0.05, (3,)),
        "support_grain": draws.spread(next(k), 0.003, 0.03),
        "gloss": draws.uniform(next(k), 0.0, 0.7) * jax.random.bernoulli(next(k), 0.6),
        "shine": draws.spread(next(k), 4.0, 60.0),
        "layers": jax.vmap(lambda one: elements.parameters(one, size))(jax.random.split(next(k), LAYERS)),
        "relief_grain": draws.spread(next(k), 1.0, 0.2 * size),
        "relief_depth": draws.spread(next(k), 0.01, 0.8),
        "relief_turn": draws.uniform(next(k), 0.0, 3.2),
        "relief_stretch": draws.spread(next(k), 1.0, 6.0) ** jax.random.bernoulli(next(k), 0.5),
        "tint_grain": draws.spread(next(k), 0.8, 0.2 * size),
        "tint_depth": draws.spread(next(k), 0.005, 0.15),
        "tint": draws.uniform(next(k), -1.0, 1.0, (3,)),
        "speckle": draws.spread(next(k), 0.002, 0.04),
        "turn": jnp.where(free, 3.15, draws.spread(next(k), 0.02, 0.4)),
        "shift": draws.spread(next(k), 0.5, 5.0),
        "light_spread": draws.spread(next(k), 0.02, 0.4),
        "elevation": draws.uniform(next(k), 0.5, 1.4),
        "azimuth": draws.uniform(next(k), 0.0, 6.3),
        "ambient": draws.uniform(next(k), 0.2, 0.8),
        "normals_blur": draws.uniform(next(k), 0.6, 2.2),
        "normals_noise": draws.spread(next(k), 0.004, 0.08),
        "sees_support": jax.random.bernoulli(next(k), 0.8),
        "steepest": draws.spread(next(k), 0.8, 8.0),
        "dropout": draws.spread(next(k), 1e-4, 0.03),
        "holes": jax.random.bernoulli(next(k), 0.4),
        "cut_out": jax.random.bernoulli(next(k), 0.5),
    }


def _silhouette(shape: dict[str, Array], u: Array, v: Array) -> Array:
    """Roughly the distance inwards from the outline, negative outside."""
    e = shape["corners"]
    r = ((jnp.abs(u) + 1e-3) ** e + (jnp.abs(v) / shape["aspect"] + 1e-3) ** e) ** (1.0 / e)
    angle = jnp.arctan2(v, u + 1e-3)
    waves = sum(shape["wobble"][n] * jnp.cos((n + 1) * angle + shape["phases"][n]) for n in range(_HARMONICS))
    inside = jnp.minimum(shape["radius"] * (1.0 + waves) - r, r - shape["hole"])
    return jnp.where(shape["filled"], 1e3, inside)


def render(shape: dict[str, Any], key: Key[Array, ""], change: dict[str, Array], size: int) -> Views:
    """Makes an instance of a family; the same key with an edit of `amount` 0 gives the same instance without it.

    Args:
      shape: the family's parameters.
      key: makes the instance: pose, light, noise and scatter.
      change: the edit.
      size: side of the images in pixels.
    """
    k = iter(jax.random.split(key, 12))
    side = jnp.arange(size) - (size - 1) / 2.0
    y, x = jnp.meshgrid(side, side, indexing="ij")
    turn = shape["turn"] * draws.uniform(next(k), -1.0, 1.0)
    shift = shape["shift"] * jax.random.normal(next(k), (2,))
    salt = draws.uniform(next(k), 0.0, 50.0)
    cosine, sine = jnp.cos(turn), jnp.sin(turn)

    def place(x, y):
        x, y = x - shift[0] - shape["centre"][0], y - shift[1] - shape["centre"][1]
        return cosine * x + sine * y, cosine * y - sine * x

    inside = _silhouette(shape, *place(x, y))
    spot = edits.spot(change, draws.ramp(inside, 0.0, 2.0), x, y)
    u, v = place(x + spot * change["jump"][0], y + spot * change["jump"][1])
    inside = _silhouette(shape, u, v)
    body = draws.ramp(inside, -0.7, 0.7)
    keep = 1.0 - spot * change["wipe"]

    t = 1.0 - jnp.clip(inside / shape["rim"], 0.0, 1.0)
    height = shape["height"] * jnp.sqrt(jnp.maximum(1.0 - t * t, 0.0) + 1e-4)
    grain, tint, speckle, dust, stray = (next(k) for _ in range(5))
    relief = draws.noise(grain, size, shape["relief_grain"], shape["relief_stretch"], shape["relief_turn"] + turn)
    relief = relief * shape["relief_depth"] * jnp.minimum(0.2 * shape["relief_grain"], 1.0)
    mottle = draws.noise(tint, size, shape["tint_grain"], shape["relief_stretch"], shape["relief_turn"] + turn)
    albedo = shape["base"] + (shape["tint_depth"] * keep * mottle)[..., None] * shape["tint"]
    height = height + keep * relief
    for number in range(LAYERS):
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], shape["layers"])
        element, chance = elements.place(layer, u, v, salt)
        element = element * keep
        height = height + layer["height"] * jnp.where(layer["flat"], 0.0, element)
        mix = (element * layer["cover"])[..., None]
        albedo = albedo + mix * (layer["colour"] + (layer["variety"] * chance)[..., None] - albedo)
    strange = draws.noise(stray, size, change["rough_grain"])
    breadth = jnp.min(change["radii"])
    height = height + spot * (change["height"] * jnp.minimum(breadth, 6.0) + change["rough"] * strange)
    height = height * body
    albedo = albedo * (1.0 + 0.3 * change["rough"] * spot * strange)[..., None]
    albedo = albedo + (spot * change["cover"])[..., None] * (change["colour"] - albedo)
    albedo = albedo + shape["speckle"] * jax.random.normal(speckle, (size, size, 1))
    grit = shape["support_grain"] * jax.random.normal(dust, (size, size, 1))
    albedo = shape["support"] + grit + body[..., None] * (albedo - shape["support"] - grit)
    light, sensor = next(k), next(k)
    rgb = sensors.photograph(shape, light, height, jnp.clip(albedo, 0.0, 1.0), body)
    normals = sensors.normal_map(shape, sensor, height, body)
    # Half of the families lie before black, as parts do whose support was found and cut away.
    kept = (~shape["cut_out"] | (body > 0.5))[..., None]
    return Views(jnp.where(kept, rgb, 0.0), jnp.where(kept, normals, 0.0))
