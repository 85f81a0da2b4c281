"""Nearest neighbours among the pixels around a point: the fast way, right for most points of most scans."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from pirn_jax import threads
from pirn_jax.geometry import kth_smallest, normals_plane

RADIUS = 4
"""Half the window in pixels: 81 pixels, enough for 30 neighbours on a surface tilted by 60 degrees (our choice)."""

TIE = 1e-6
"""Squared distances that differ by less than this share are equal: float32 does not tell them apart."""

_ROWS, _COLUMNS = 16, 64
"""Pixels of a block. One shape serves scans of every size, and the distances of a block stay in a core's cache."""

_WIDTH = _COLUMNS + 2 * RADIUS
_BLOCK = (_ROWS + 2 * RADIUS, _WIDTH)
"""The same with the windows of its outermost pixels."""

_STEPS = [row * _WIDTH + column for row in range(2 * RADIUS + 1) for column in range(2 * RADIUS + 1)]
"""Pixels of a window in a block whose rows make one line, from the window's first."""

_LENGTH = _BLOCK[0] * _WIDTH - _STEPS[-1]
_INNER = slice(_STEPS[len(_STEPS) // 2], _STEPS[len(_STEPS) // 2] + _LENGTH)
"""Pixels of the line whose windows lie in it: from the first inner pixel to the last, and what lies between rows."""

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
    """Normal and squared distance of the last neighbour of every inner pixel of a block, stacked.

    The rows of a block make one line, so that one step leads from every pixel to the same place in its window, and all
    reads are of runs of memory.
    """
    line = points.reshape(3, -1)
    distances = _distances(line)
    limit = kth_smallest.find(distances, neighbours)
    normal = normals_plane.normal(_moments(line, distances, kth_smallest.bits(within(limit))))
    found = jnp.pad(jnp.concatenate([normal, limit[None]]), ((0, 0), (0, _ROWS * _WIDTH - _LENGTH)))
    return found.reshape(4, _ROWS, _WIDTH)[..., :_COLUMNS]


def within(limit):
    """Largest squared distance that counts as that of the last neighbour.

    A hair more, so that rounding does not tell ties apart; but not infinity, which is invalid.
    """
    return jnp.minimum(limit * (1 + TIE), jnp.finfo(jnp.float32).max)


def _distances(line):
    """Bits of the squared distances to the points of the window; those to invalid points are infinite.

    Points are centred before anything else, so a large offset costs nothing that the input still has.
    """
    centres = line[:, _INNER]
    invalid = jnp.where(jnp.any(line != 0, axis=0), 0.0, jnp.inf)[None]
    padded = jnp.concatenate([line, invalid])

    def distance(step):
        x, y, z, far = jax.lax.dynamic_slice(padded, (0, step), (4, _LENGTH))
        x, y, z = x - centres[0], y - centres[1], z - centres[2]
        return kth_smallest.bits(x * x + y * y + z * z + far)

    return jax.lax.map(distance, jnp.array(_STEPS))


def _moments(line, distances, limit):
    """Moments of the points within the limit, relative to each pixel's point."""
    coordinates = jnp.concatenate([line, jnp.ones_like(line[:1])])
    centres = jnp.concatenate([line[:, _INNER], jnp.zeros_like(line[:1, _INNER])])

    def moment(pair):
        a, b = (jax.lax.dynamic_index_in_dim(coordinates, i, keepdims=False) for i in pair)
        p, q = (jax.lax.dynamic_index_in_dim(centres, i, keepdims=False) for i in pair)
        terms = ((a[step : step + _LENGTH] - p) * (b[step : step + _LENGTH] - q) for step in _STEPS)
        return sum(jnp.where(d <= limit, term, 0.0) for d, term in zip(distances, terms, strict=True))

    # One moment after another: together, XLA makes ten passes of them that each do the work of all.
    return jax.lax.map(moment, tuple(jnp.array(normals_plane.PAIRS).T))
