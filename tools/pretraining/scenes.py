"""Made-up surfaces: families of things that look alike, instances of a family, and local edits of an instance.

A family is drawn at random from closed-form parts: a silhouette with a rounded rim, layers of elements on straight or
polar lattices (studs, pits, bars, rings, stripes), and noise in relief and colour. An instance of it has its own pose,
light, noise and scatter. An edit changes an instance within a small spot: relief, colour, grain, or the place that is
shown there. No shape is modelled after any object, and every element that an edit could look like is normal in other
families, so that only the comparison with other instances tells what is out of place.

Lengths and heights are pixels of the rendered image, angles radians, colours in [0, 1].
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LAYERS = 3
_HARMONICS = 4


class Views(NamedTuple):
    """One instance as the encoder sees it: colour image and normal map, each (h, w, 3) in 0..255, without noise."""

    rgb: Array
    normals: Array


def _uniform(key: Key[Array, ""], low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
    return jax.random.uniform(key, shape, minval=low, maxval=high)


def _spread(key: Key[Array, ""], low: float, high: float, shape: tuple[int, ...] = ()) -> Array:
    """Log-uniform."""
    return jnp.exp(_uniform(key, math.log(low), math.log(high), shape))


def _ramp(x: Array, low: Array | float, high: Array | float) -> Array:
    t = jnp.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _hash(i: Array, j: Array, salt: Array) -> Array:
    """Pseudo-random numbers in [0, 1) of lattice cells."""
    value = jnp.sin(i * 12.9898 + j * 78.233 + salt * 37.719) * 43758.5453
    return value - jnp.floor(value)


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
    radius = _spread(next(k), 0.25 * size, 1.1 * size)
    rim = _spread(next(k), 1.5, 0.8 * size)
    wobble = _uniform(next(k), -1.0, 1.0, (_HARMONICS,)) * jnp.array([0.0, 0.2, 0.15, 0.1])
    base = _uniform(next(k), 0.05, 0.95, (3,))
    # Half of the materials are nearly grey.
    grey = jnp.mean(base)
    base = jnp.where(jax.random.bernoulli(next(k), 0.4), grey + 0.15 * (base - grey), base)
    return {
        "filled": jax.random.bernoulli(next(k), 0.3),
        "centre": _uniform(next(k), -0.45 * size, 0.45 * size, (2,)) * jnp.where(free, 0.3, 1.0),
        "radius": radius,
        "hole": jnp.where(ring, radius * _uniform(next(k), 0.2, 0.6), -2.0 * size),
        "corners": _spread(next(k), 1.6, 12.0),
        "aspect": _uniform(next(k), 0.6, 1.0),
        "wobble": wobble * jax.random.bernoulli(next(k), 0.5),
        "phases": _uniform(next(k), 0.0, 6.3, (_HARMONICS,)),
        "rim": rim,
        "height": rim * _uniform(next(k), 0.1, 1.4),
        "base": base,
        "support": _uniform(next(k), 0.05, 0.95) + _uniform(next(k), -0.05, 0.05, (3,)),
        "support_grain": _spread(next(k), 0.003, 0.03),
        "gloss": _uniform(next(k), 0.0, 0.7) * jax.random.bernoulli(next(k), 0.6),
        "shine": _spread(next(k), 4.0, 60.0),
        "layers": jax.vmap(lambda one: _layer_parameters(one, size))(jax.random.split(next(k), LAYERS)),
        "relief_grain": _spread(next(k), 1.0, 0.2 * size),
        "relief_depth": _spread(next(k), 0.01, 0.8),
        "relief_turn": _uniform(next(k), 0.0, 3.2),
        "relief_stretch": _spread(next(k), 1.0, 6.0) ** jax.random.bernoulli(next(k), 0.5),
        "tint_grain": _spread(next(k), 0.8, 0.2 * size),
        "tint_depth": _spread(next(k), 0.005, 0.15),
        "tint": _uniform(next(k), -1.0, 1.0, (3,)),
        "speckle": _spread(next(k), 0.002, 0.04),
        "turn": jnp.where(free, 3.15, _spread(next(k), 0.02, 0.4)),
        "shift": _spread(next(k), 0.5, 5.0),
        "light_spread": _spread(next(k), 0.02, 0.4),
        "elevation": _uniform(next(k), 0.5, 1.4),
        "azimuth": _uniform(next(k), 0.0, 6.3),
        "ambient": _uniform(next(k), 0.2, 0.8),
        "normals_blur": _uniform(next(k), 0.6, 2.2),
        "normals_noise": _spread(next(k), 0.004, 0.08),
        "sees_support": jax.random.bernoulli(next(k), 0.8),
        "steepest": _spread(next(k), 0.8, 8.0),
        "dropout": _spread(next(k), 1e-4, 0.03),
        "holes": jax.random.bernoulli(next(k), 0.2),
    }


def _layer_parameters(key: Key[Array, ""], size: int) -> dict[str, Array]:
    k = iter(jax.random.split(key, 32))
    period = _spread(next(k), 6.0, 0.9 * size)
    ratio = _spread(next(k), 0.4, 2.5)
    cover = _uniform(next(k), 0.12, 0.48, (2,))
    bars = jax.random.bernoulli(next(k), 0.3)
    jitter = _uniform(next(k), 0.0, 0.4) * jax.random.bernoulli(next(k), 0.5)
    return {
        "on": jax.random.bernoulli(next(k), 0.65),
        "polar": jax.random.bernoulli(next(k), 0.35),
        "turn": _uniform(next(k), 0.0, 3.2),
        "period": period * jnp.array([1.0, 1.0]) * jnp.stack([ratio, 1.0 / ratio]) ** 0.5,
        "offset": _uniform(next(k), 0.0, 1.0, (2,)),
        "brick": 0.5 * jax.random.bernoulli(next(k), 0.4),
        "radii": cover.at[1].set(jnp.where(bars, 5.0, cover[1])),
        "exponent": _spread(next(k), 1.5, 8.0),
        "hollow": jax.random.bernoulli(next(k), 0.2),
        "edge": _spread(next(k), 0.1, 1.0),
        "jitter": jitter,
        "loose": jax.random.bernoulli(next(k), 0.3),
        "spin": _uniform(next(k), 0.0, 3.2) * jax.random.bernoulli(next(k), 0.3),
        "presence": jnp.where(jax.random.bernoulli(next(k), 0.6), 1.0, _uniform(next(k), 0.2, 0.9)),
        "salt": _uniform(next(k), 0.0, 10.0),
        "height": _spread(next(k), 0.3, 10.0) * jnp.sign(_uniform(next(k), -1.0, 1.0)),
        "flat": jax.random.bernoulli(next(k), 0.25),
        "colour": _uniform(next(k), 0.0, 1.0, (3,)),
        "cover": _uniform(next(k), 0.0, 1.0) * jax.random.bernoulli(next(k), 0.6),
        "variety": _uniform(next(k), 0.0, 0.3) * jax.random.bernoulli(next(k), 0.3),
    }


def _layer(layer: dict[str, Array], u: Array, v: Array, salt: Array) -> tuple[Array, Array]:
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
    chance = [_hash(row, column, salt + number) for number in range(5)]
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
    element = _ramp(-q, -1.0, -1.0 + edge) * (chance[3] < layer["presence"]) * layer["on"]
    return element, 2.0 * chance[4] - 1.0


def _silhouette(shape: dict[str, Array], u: Array, v: Array) -> Array:
    """Roughly the distance inwards from the outline, negative outside."""
    e = shape["corners"]
    r = ((jnp.abs(u) + 1e-3) ** e + (jnp.abs(v) / shape["aspect"] + 1e-3) ** e) ** (1.0 / e)
    angle = jnp.arctan2(v, u + 1e-3)
    waves = sum(shape["wobble"][n] * jnp.cos((n + 1) * angle + shape["phases"][n]) for n in range(_HARMONICS))
    inside = jnp.minimum(shape["radius"] * (1.0 + waves) - r, r - shape["hole"])
    return jnp.where(shape["filled"], 1e3, inside)


def _noise(key: Key[Array, ""], size: int, grain: Array, stretch: Array, turn: Array) -> Float[Array, "n n"]:
    """Band-limited noise of unit variance, stretched along one direction."""
    white = jnp.fft.rfft2(jax.random.normal(key, (size, size)))
    fy, fx = jnp.fft.fftfreq(size)[:, None], jnp.fft.rfftfreq(size)[None]
    along = (jnp.cos(turn) * fx + jnp.sin(turn) * fy) * grain * stretch
    across = (jnp.cos(turn) * fy - jnp.sin(turn) * fx) * grain
    field = jnp.fft.irfft2(white * jnp.exp(-10.0 * (along**2 + across**2)), (size, size))
    return field / (jnp.std(field) + 1e-6)


def _blur(x: Float[Array, "h w"], deviation: Array) -> Float[Array, "h w"]:
    """Gaussian blur with a kernel of nine taps."""
    taps = jnp.arange(-4.0, 5.0)
    kernel = jnp.exp(-0.5 * (taps / deviation) ** 2)
    kernel = kernel / jnp.sum(kernel)
    size = x.shape[0]
    padded = jnp.pad(x, 4, mode="edge")
    down: Any = sum(kernel[i] * padded[i : i + size] for i in range(9))
    blurred: Any = sum(kernel[i] * down[:, i : i + size] for i in range(9))
    return blurred


def edit(key: Key[Array, ""]) -> dict[str, Array]:
    """Draws a local edit: a spot, and what changes in it. `amount` 0 turns it off."""
    k = iter(jax.random.split(key, 24))
    long = jax.random.bernoulli(next(k), 0.35)
    breadth = _spread(next(k), 2.0, 18.0)
    kind = jax.random.choice(next(k), 5)
    also = jax.random.bernoulli(next(k), 0.25)
    colour = jax.random.uniform(next(k), (3,))
    return {
        "key": next(k),
        "radii": jnp.stack([jnp.where(long, breadth * _uniform(next(k), 3.0, 9.0), breadth), breadth]),
        "turn": _uniform(next(k), 0.0, 3.2),
        "bend": _uniform(next(k), -0.03, 0.03),
        "ragged": _uniform(next(k), 0.0, 0.5),
        "edge": _uniform(next(k), 0.15, 1.0),
        "height": ((kind == 0) | also) * _spread(next(k), 0.25, 1.2) * jnp.sign(_uniform(next(k), -1.0, 1.0)),
        "cover": ((kind == 1) | also) * _uniform(next(k), 0.4, 1.0),
        "colour": colour,
        "jump": (kind == 2) * _uniform(next(k), -1.0, 1.0, (2,)) * 20.0,
        "rough": (kind == 3) * _spread(next(k), 0.3, 1.5),
        "rough_grain": _spread(next(k), 0.8, 4.0),
        "wipe": (kind == 4) * 1.0,
        "amount": jnp.float32(1.0),
    }


def _spot(change: dict[str, Array], body: Array, x: Array, y: Array) -> Array:
    """Where an edit is, in [0, 1]: an uneven ellipse or a bent stroke, placed on the body where there is any."""
    where, rough = jax.random.split(change["key"])
    inner = body * (jnp.abs(x) < x.shape[0] * 0.45) * (jnp.abs(y) < x.shape[0] * 0.45)
    chosen = jax.random.categorical(where, jnp.log(inner.ravel() + 1e-3))
    dx, dy = x - x.ravel()[chosen], y - y.ravel()[chosen]
    cosine, sine = jnp.cos(change["turn"]), jnp.sin(change["turn"])
    a, b = cosine * dx + sine * dy, cosine * dy - sine * dx
    b = b - change["bend"] * a * a
    q = jnp.sqrt((a / change["radii"][0]) ** 2 + (b / change["radii"][1]) ** 2)
    field = _noise(rough, x.shape[0], change["radii"][1], jnp.float32(1.0), jnp.float32(0.0))
    return _ramp(-q - change["ragged"] * field * 0.5, -1.0, -1.0 + change["edge"]) * change["amount"]


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
    turn = shape["turn"] * _uniform(next(k), -1.0, 1.0)
    shift = shape["shift"] * jax.random.normal(next(k), (2,))
    salt = _uniform(next(k), 0.0, 50.0)
    cosine, sine = jnp.cos(turn), jnp.sin(turn)

    def place(x, y):
        x, y = x - shift[0] - shape["centre"][0], y - shift[1] - shape["centre"][1]
        return cosine * x + sine * y, cosine * y - sine * x

    inside = _silhouette(shape, *place(x, y))
    spot = _spot(change, _ramp(inside, 0.0, 2.0), x, y)
    u, v = place(x + spot * change["jump"][0], y + spot * change["jump"][1])
    inside = _silhouette(shape, u, v)
    body = _ramp(inside, -0.7, 0.7)
    keep = 1.0 - spot * change["wipe"]

    t = 1.0 - jnp.clip(inside / shape["rim"], 0.0, 1.0)
    height = shape["height"] * jnp.sqrt(jnp.maximum(1.0 - t * t, 0.0) + 1e-4)
    grain, tint, speckle, dust, stray = (next(k) for _ in range(5))
    relief = _noise(grain, size, shape["relief_grain"], shape["relief_stretch"], shape["relief_turn"] + turn)
    relief = relief * shape["relief_depth"] * jnp.minimum(0.2 * shape["relief_grain"], 1.0)
    mottle = _noise(tint, size, shape["tint_grain"], shape["relief_stretch"], shape["relief_turn"] + turn)
    albedo = shape["base"] + (shape["tint_depth"] * keep * mottle)[..., None] * shape["tint"]
    height = height + keep * relief
    for number in range(LAYERS):
        layer = jax.tree.map(lambda leaf, number=number: leaf[number], shape["layers"])
        element, chance = _layer(layer, u, v, salt)
        element = element * keep
        height = height + layer["height"] * jnp.where(layer["flat"], 0.0, element)
        mix = (element * layer["cover"])[..., None]
        albedo = albedo + mix * (layer["colour"] + (layer["variety"] * chance)[..., None] - albedo)
    strange = _noise(stray, size, change["rough_grain"], jnp.float32(1.0), jnp.float32(0.0))
    breadth = jnp.min(change["radii"])
    height = height + spot * (change["height"] * jnp.minimum(breadth, 6.0) + change["rough"] * strange)
    height = height * body
    albedo = albedo * (1.0 + 0.3 * change["rough"] * spot * strange)[..., None]
    albedo = albedo + (spot * change["cover"])[..., None] * (change["colour"] - albedo)
    albedo = albedo + shape["speckle"] * jax.random.normal(speckle, (size, size, 1))
    grit = shape["support_grain"] * jax.random.normal(dust, (size, size, 1))
    albedo = shape["support"] + grit + body[..., None] * (albedo - shape["support"] - grit)
    light, sensor = next(k), next(k)
    rgb = _photograph(shape, light, height, jnp.clip(albedo, 0.0, 1.0), body)
    return Views(rgb, _normal_map(shape, sensor, height, body))


def _slopes(height: Float[Array, "h w"]) -> tuple[Array, Array]:
    padded = jnp.pad(height, 1, mode="edge")
    return (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2.0, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2.0


def _photograph(shape: dict[str, Array], key: Key[Array, ""], height: Array, albedo: Array, body: Array) -> Array:
    """Lambert and Blinn shading under one lamp, with darker hollows."""
    turned, raised, power = jax.random.split(key, 3)
    azimuth = shape["azimuth"] + shape["light_spread"] * jax.random.normal(turned)
    elevation = jnp.clip(shape["elevation"] + 0.3 * shape["light_spread"] * jax.random.normal(raised), 0.4, 1.5)
    lamp = jnp.stack([jnp.cos(azimuth) * jnp.cos(elevation), jnp.sin(azimuth) * jnp.cos(elevation), jnp.sin(elevation)])
    right, down = _slopes(height)
    length = jnp.sqrt(1.0 + right**2 + down**2)
    facing = jnp.maximum((lamp[2] - lamp[0] * right - lamp[1] * down) / length, 0.0)
    half = (lamp + jnp.array([0.0, 0.0, 1.0])) / jnp.linalg.norm(lamp + jnp.array([0.0, 0.0, 1.0]))
    glint = jnp.maximum((half[2] - half[0] * right - half[1] * down) / length, 0.0) ** shape["shine"]
    hollow = jnp.clip((_blur(_blur(height, jnp.float32(3.0)), jnp.float32(3.0)) - height) * 0.15, -0.1, 0.5)
    diffuse = shape["ambient"] * (1.0 - hollow) + (1.1 - shape["ambient"]) * facing
    image = albedo * diffuse[..., None] + (shape["gloss"] * glint * body)[..., None]
    gain = 1.0 + 0.04 * jax.random.normal(power, (3,))
    return 255.0 * jnp.clip(image * gain, 0.0, 1.0)


def _normal_map(shape: dict[str, Array], key: Key[Array, ""], height: Array, body: Array) -> Array:
    """Normals as a scanner's smoothed ones, in the colours of `geometry.normals.to_image`; black where it sees none.

    It sees no steep slopes, and loses single pixels and, with some families, small regions.
    """
    of_noise, of_dropout, of_holes = jax.random.split(key, 3)
    right, down = _slopes(_blur(height, shape["normals_blur"]))
    steep = jnp.hypot(right, down) > shape["steepest"]
    lost = jax.random.uniform(of_dropout, height.shape) < shape["dropout"]
    field = _noise(of_holes, height.shape[0], jnp.float32(6.0), jnp.float32(1.0), jnp.float32(0.0))
    noise = shape["normals_noise"] * jax.random.normal(of_noise, (2, *height.shape))
    right, down = (
        slope + 2.0 * _blur(shade, shape["normals_blur"]) for slope, shade in zip((right, down), noise, strict=True)
    )
    normals = jnp.stack([-right, down, jnp.ones_like(right)], axis=-1)
    normals = normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)
    seen = (shape["sees_support"] | (body > 0.5)) & ~steep & ~lost & ~(shape["holes"] & (field > 2.2))
    return jnp.where(seen[..., None], (normals + 1.0) * 127.5, 0.0)
