"""Local edits of an instance: a spot, and what is another thing there than in the rest of its family."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from tools.pretraining import draws


def draw(key: Key[Array, ""]) -> dict[str, Array]:
    """Draws a local edit: a spot, and what changes in it. `amount` 0 turns it off."""
    k = iter(jax.random.split(key, 24))
    long = jax.random.bernoulli(next(k), 0.35)
    breadth = draws.spread(next(k), 2.0, 18.0)
    kind = jax.random.choice(next(k), 5)
    also = jax.random.bernoulli(next(k), 0.25)
    colour = jax.random.uniform(next(k), (3,))
    return {
        "key": next(k),
        "radii": jnp.stack([jnp.where(long, breadth * draws.uniform(next(k), 3.0, 9.0), breadth), breadth]),
        "turn": draws.uniform(next(k), 0.0, 3.2),
        "bend": draws.uniform(next(k), -0.03, 0.03),
        "ragged": draws.uniform(next(k), 0.0, 0.5),
        "edge": draws.uniform(next(k), 0.15, 1.0),
        "height": ((kind == 0) | also) * draws.spread(next(k), 0.25, 1.2) * jnp.sign(draws.uniform(next(k), -1.0, 1.0)),
        "cover": ((kind == 1) | also) * draws.uniform(next(k), 0.4, 1.0),
        "colour": colour,
        "jump": (kind == 2) * draws.uniform(next(k), -1.0, 1.0, (2,)) * 20.0,
        "rough": (kind == 3) * draws.spread(next(k), 0.3, 1.5),
        "rough_grain": draws.spread(next(k), 0.8, 4.0),
        "wipe": (kind == 4) * 1.0,
        "amount": jnp.float32(1.0),
    }


def spot(change: dict[str, Array], body: Array, x: Array, y: Array) -> Array:
    """Extent of an edit, in [0, 1]: an uneven ellipse or a bent stroke, placed on the body where there is any."""
    where, rough = jax.random.split(change["key"])
    inner = body * (jnp.abs(x) < x.shape[0] * 0.45) * (jnp.abs(y) < x.shape[0] * 0.45)
    chosen = jax.random.categorical(where, jnp.log(inner.ravel() + 1e-3))
    dx, dy = x - x.ravel()[chosen], y - y.ravel()[chosen]
    cosine, sine = jnp.cos(change["turn"]), jnp.sin(change["turn"])
    a, b = cosine * dx + sine * dy, cosine * dy - sine * dx
    b = b - change["bend"] * a * a
    q = jnp.sqrt((a / change["radii"][0]) ** 2 + (b / change["radii"][1]) ** 2)
    field = draws.noise(rough, x.shape[0], change["radii"][1])
    return draws.ramp(-q - change["ragged"] * field * 0.5, -1.0, -1.0 + change["edge"]) * change["amount"]
