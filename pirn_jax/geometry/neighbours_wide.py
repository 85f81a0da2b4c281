"""Nearest neighbours in a wider window, for the points whose narrow one leaves them in doubt."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from pirn_jax import threads
from pirn_jax.geometry import kth_smallest, normals_plane
from pirn_jax.geometry.neighbours_window import within

RADIUS = 6
"""Half the window in pixels, 169 (our choice). On scans whose depth scatters by a pixel's width it leaves some
hundredths of the points in doubt, and a narrow window up to half."""

_SIDE = 2 * RADIUS + 1

_POINTS = 512
"""Points of a call, so that one program serves all and their distances stay in a core's cache."""


def normals(
    xyz: Float[np.ndarray, "h w 3"], wanted: Bool[np.ndarray, "h w"], neighbours: int
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """Normals of the wanted points, and how far the last neighbour is, as in `neighbours_window.normals`."""
    padded = np.pad(xyz.astype(np.float32), ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
    height, width, _ = padded.shape
    # A window is some runs of points, each of which is copied as one item.
    run = f"V{_SIDE * padded.strides[1]}"
    runs = np.ndarray((height * width - _SIDE + 1,), run, padded.tobytes(), strides=padded.strides[1:2])
    row, column = np.nonzero(wanted)
    first = row * width + column
    found = np.zeros((len(first), 4), np.float32)
    program = _program()

    def compute(start: int) -> None:
        places = first[start : start + _POINTS]
        windows = runs[places[:, None] + np.arange(_SIDE) * width].view(np.float32).reshape(len(places), _SIDE**2, 3)
        points = np.zeros((3, _SIDE**2, _POINTS), np.float32)
        points[..., : len(places)] = windows.transpose(2, 1, 0)
        found[start : start + _POINTS] = np.asarray(program(points, np.int32(neighbours))).T[: len(places)]

    threads.each(compute, range(0, len(first), _POINTS), at_once=os.cpu_count() or 1)
    return found[:, :3], found[:, 3]


@threads.once
def _program() -> jax.stages.Compiled:
    """From windows and a number of neighbours to normals and squared distances of the points in their middle."""
    points = jax.ShapeDtypeStruct((3, _SIDE**2, _POINTS), jnp.float32)
    return jax.jit(_planes).lower(points, jax.ShapeDtypeStruct((), jnp.int32)).compile()


def _planes(points, neighbours):
    steps = points - points[:, _SIDE**2 // 2, None]
    invalid = jnp.where(jnp.any(points != 0, axis=0), 0.0, jnp.inf)
    x, y, z = steps
    distances = kth_smallest.bits(x * x + y * y + z * z + invalid)
    limit = kth_smallest.find(distances, neighbours)
    near = distances <= kth_smallest.bits(within(limit))
    x, y, z = jnp.where(near, steps, 0.0)
    terms = (x * x, x * y, x * z, y * y, y * z, z * z, x, y, z, near.astype(jnp.float32))
    # One reduction of ten values: as ten, each would find out anew which points are near.
    moments = jax.lax.reduce(terms, (0.0,) * len(terms), _added, (0,))
    return jnp.concatenate([normals_plane.normal(jnp.stack(moments)), limit[None]])


def _added(some, others):
    return tuple(one + other for one, other in zip(some, others, strict=True))
