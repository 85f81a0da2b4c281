"""Layers of elements on straight or polar lattices: studs, pits, bars, rings, stripes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tools.pretraining import draws


def parameters(key: Key[Array, ""], size: int) -> dict[str, Array]:
    """Draws what the elements of one layer share, for images of `size` pixels."""
    k = iter(jax.random.split(key, 32))
    period = draws.spread(next(k), 6.0, 0.9 * size)
    ratio = draws.spread(next(k), 0.4, 2.5)
    cover = draws.uniform(next(k), 0.12, 0.48, (2,))
    bars = jax.random.bernoulli(next(k), 0.3)
    jitter = draws.uniform(next(k), 0.0, 0.4) * jax.random.bernoulli(next(k), 0.5)
    return {
        "on": jax.random.bernoulli(next(k), 0.65),
        "polar": jax.random.bernoulli(next(k), 0.35),
        "turn": draws.uniform(next(k), 0.0, 3.2),
        "period": period * jnp.array([1.0, 1.0]) * jnp.stack([ratio, 1.0 / ratio]) ** 0.5,
        "offset": draws.uniform(next(k), 0.0, 1.0, (2,)),
        "brick": 0.5 * jax.random.bernoulli(next(k), 0.4),
        "radii": cover.at[1].set(jnp.where(bars, 5.0, cover[1])),
        "exponent": draws.spread(next(k), 1.5, 8.0),
        "hollow": jax.random.bernoulli(next(k), 0.2),
        "edge": draws.spread(next(k), 0.1, 1.0),
        "jitter": jitter,
        "loose": jax.random.bernoulli(next(k), 0.3),
        "spin": draws.uniform(next(k), 0.0, 3.2) * jax.random.bernoulli(next(k), 0.3),
        "presence": jnp.where(jax.random.bernoulli(next(k), 0.6), 1.0, draws.uniform(next(k), 0.2, 0.9)),
        "salt": draws.uniform(next(k), 0.0, 10.0),
        "height": draws.spread(next(k), 0.3, 10.0) * jnp.sign(draws.uniform(next(k), -1.0, 1.0)),
        "flat": jax.random.bernoulli(next(k), 0.25),
        "colour": draws.uniform(next(k), 0.0, 1.0, (3,)),
        "cover": draws.uniform(next(k), 0.0, 1.0) * jax.random.bernoulli(next(k), 0.6),
        "variety": draws.uniform(next(k), 0.0, 0.3) * jax.random.bernoulli(next(k), 0.3),
    }


def place(layer: dict[str, Array], u: Array, v: Array, salt: Array) -> tuple[Array, Array]:
    """One layer's elements on coordinates that start in the family's centre.

    Returns:
      how much of an element there is, in [0, 1], and a random number in [-1, 1] for each element.
    """
    cosine, sine = jnp.cos(layer["turn"]), jnp.sin(layer["turn"])
    distance = jnp.sqrt(u * u + v * v + 1.0)
    # Whole numbers of elements around, all as wide as at their own ring's radius.
    around = jnp.maximum(jnp.round(6.283 * 40.0 / layer["period"][1]), 2.0)
    pitch = 6.2832 * distance / around
    a = jnp.where(layer["polar"], distance, cosine * u + sine * v) / layer["period"][0] + layer["offset"][0]
    angle = (jnp.arctan2(v, u + 1e-3) / 6.2832 + 0.5) * around
    row = jnp.round(a)
    b = jnp.where(layer["polar"], angle, (cosine * v - sine * u) / layer["period"][1]) + layer["offset"][1]
    b = b + layer["brick"] * row
    column = jnp.round(b)
    # Around a ring the last cell is the first one again.
    column = jnp.where(layer["polar"], jnp.mod(column, around), column)
    salt = layer["salt"] + jnp.where(layer["loose"], salt, 0.0)
    chance = [draws.of_cells(row, column, salt + number) for number in range(5)]
    width = jnp.where(layer["polar"], pitch, layer["period"][1])
    x = (a - row + layer["jitter"] * (chance[0] - 0.5)) * layer["period"][0]
    y = (b - jnp.round(b) + layer["jitter"] * (chance[1] - 0.5)) * width
    turn = layer["spin"] + jnp.where((layer["spin"] > 0) & layer["loose"], 6.28 * chance[2], 0.0)
    x, y = jnp.cos(turn) * x + jnp.sin(turn) * y, jnp.cos(turn) * y - jnp.sin(turn) * x
    least = jnp.min(layer["period"])
    radii = jnp.where(layer["spin"] > 0, layer["radii"] * least, layer["radii"] * layer["period"])
    e = layer["exponent"]
    q = ((jnp.abs(x) / radii[0] + 1e-4) ** e + (jnp.abs(y) / radii[1] + 1e-4) ** e) ** (1.0 / e)
    q = jnp.where(layer["hollow"], jnp.abs(q - 0.75) * 4.0, q)
    edge = jnp.maximum(layer["edge"], 1.0 / jnp.min(radii))
    element = draws.ramp(-q, -1.0, -1.0 + edge) * (chance[3] < layer["presence"]) * layer["on"]
    return element, 2.0 * chance[4] - 1.0
