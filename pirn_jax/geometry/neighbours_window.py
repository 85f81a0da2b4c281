"""Nearest neighbours among the pixels around a point: the fast way, right for most points of most scans."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pirn_jax import threads
from pirn_jax.geometry import normals_plane

RADIUS = 4
"""Half the window in pixels: 81 pixels, enough for 30 neighbours on a surface tilted by 60 degrees (our choice)."""

TIE = 1e-6
"""Squared distances that differ by less than this share are equal: float32 does not tell them apart."""

_SIDE = 2 * RADIUS + 1
_ROWS, _COLUMNS = 16, 64
"""Pixels of a block. One shape serves scans of every size, and the distances of a block stay in a core's cache."""

_BLOCK = (_ROWS + 2 * RADIUS, _COLUMNS + 2 * RADIUS)
"""The same with the windows of its outermost pixels."""

_CPU_CHUNK, _ACCELERATOR_CHUNK = (16, 1), (512, 512)
"""Blocks of a call, and how many of them are computed together."""


def normals(
    xyz: Float[np.ndarray, "h w 3"], neighbours: int
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Normals from the nearest points of each window, and how far the last of these is.

    Args:
      xyz: points, exactly zero where invalid.
      neighbours: points to fit a plane to, itself included; more where several are as far as the last one.

    Returns:
      Unit normals on either side of the surface, and squared distances of the last neighbour: infinite where a window
      has fewer valid points, all of which then count. Both are meaningless where the point itself is invalid.
    """
    height, width = xyz.shape[:2]
    rows, columns = -(-height // _ROWS), -(-width // _COLUMNS)
    bottom, right = rows * _ROWS - height, columns * _COLUMNS - width
    padded = np.pad(xyz, ((RADIUS, RADIUS + bottom), (RADIUS, RADIUS + right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _BLOCK, axis=(0, 1))[::_ROWS, ::_COLUMNS]
    inner = padded[RADIUS : RADIUS + rows * _ROWS, RADIUS : RADIUS + columns * _COLUMNS]
    places = np.argwhere(inner.reshape(rows, _ROWS, columns, -1).any(axis=(1, 3)))
    found = np.zeros((rows, columns, 4, _ROWS, _COLUMNS), np.float32)
    size, together = _CPU_CHUNK if jax.default_backend() == "cpu" else _ACCELERATOR_CHUNK
    program = _program(size, together)

    def compute(start: int) -> None:
        row, column = places[start : start + size].T
        blocks = np.zeros((size, 3, *_BLOCK), np.float32)
        blocks[: len(row)] = windows[row, column]
        found[row, column] = np.asarray(program(blocks, np.int32(neighbours)))[: len(row)]

    threads.each(compute, range(0, len(places), size), at_once=os.cpu_count() or 1)
    image = found.transpose(0, 3, 1, 4, 2).reshape(rows * _ROWS, columns * _COLUMNS, 4)[:height, :width]
    return image[..., :3], image[..., 3]


@threads.once
def _program(size: int, together: int) -> jax.stages.Compiled:
    """From blocks and a number of neighbours to results for the blocks' pixels; compiled before threads need it."""

    def compute(blocks, neighbours):
        return jax.lax.map(lambda block: _block(block, neighbours), blocks, batch_size=together)

    blocks = jax.ShapeDtypeStruct((size, 3, *_BLOCK), jnp.float32)
    return jax.jit(compute).lower(blocks, jax.ShapeDtypeStruct((), jnp.int32)).compile()


def _block(points, neighbours):
    """Normal and squared distance of the last neighbour of every inner pixel of a block, stacked."""
    distances = _distances(points)
    last = _kth_smallest(distances, neighbours)
    limit = jax.lax.bitcast_convert_type(last, jnp.float32)
    # A hair more than the last one, so that rounding does not tell ties apart; but not infinity, which is invalid.
    reach = jnp.minimum(limit * (1 + TIE), jnp.finfo(jnp.float32).max)
    normal = normals_plane.normal(_moments(points, distances, jax.lax.bitcast_convert_type(reach, jnp.int32)))
    return jnp.concatenate([normal, limit[None]])


def _shifted(image):
    """Values at each place of the window around the inner pixels of a block."""
    return [image[..., i : i + _ROWS, j : j + _COLUMNS] for i in range(_SIDE) for j in range(_SIDE)]


def _centre(image):
    return image[..., RADIUS : RADIUS + _ROWS, RADIUS : RADIUS + _COLUMNS]


def _distances(points):
    """Squared distances to the points of the window, as the bits of floats: these order non-negative ones alike.

    Points are centred before anything else, so a large offset costs nothing that the input still has.
    """
    centre = _centre(points)
    invalid = jnp.where(jnp.any(points != 0, axis=0), 0.0, jnp.inf)[None]
    padded = jnp.concatenate([points, invalid])

    def distance(corner):
        x, y, z, far = jax.lax.dynamic_slice(padded, (0, *corner), (4, _ROWS, _COLUMNS))
        x, y, z = x - centre[0], y - centre[1], z - centre[2]
        return jax.lax.bitcast_convert_type(x * x + y * y + z * z + far, jnp.int32)

    corners = jnp.arange(_SIDE * _SIDE)
    return jax.lax.map(distance, (corners // _SIDE, corners % _SIDE))


def _kth_smallest(values, k):
    """The k-th smallest along the first axis, bit by bit: 31 counts are many times faster than `top_k`."""

    def step(i, found):
        larger = found | jnp.left_shift(jnp.int32(1), (30 - i).astype(jnp.int32))
        smaller = sum((value < larger).astype(jnp.int32) for value in values)
        return jnp.where(smaller < k, larger, found)

    return jax.lax.fori_loop(0, 31, step, jnp.zeros_like(values[0]))


def _moments(points, distances, limit):
    """Moments of the points within the limit, relative to each pixel's point."""
    ones = jnp.ones((1, *points.shape[1:]), points.dtype)
    coordinates = jnp.concatenate([points, ones])
    centres = jnp.concatenate([_centre(points), 0 * _centre(ones)])

    def moment(pair):
        a, b = (_shifted(jax.lax.dynamic_index_in_dim(coordinates, i, keepdims=False)) for i in pair)
        p, q = (jax.lax.dynamic_index_in_dim(centres, i, keepdims=False) for i in pair)
        terms = zip(distances, a, b, strict=True)
        return sum(jnp.where(d <= limit, (x - p) * (y - q), 0.0) for d, x, y in terms)

    # One moment after another: together, XLA makes ten passes of them that each do the work of all.
    return jax.lax.map(moment, tuple(jnp.array(normals_plane.PAIRS).T))
