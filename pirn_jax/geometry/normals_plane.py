"""The plane that fits points best, from their moments."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (3, 3))
"""The moments: sums of products of two homogeneous coordinates (x, y, z, 1). The last one is the number of points."""

_SPREAD = 1e-5
"""Least share of the variance across the line that fits the points best; below it they are collinear. Rounding gives
points on a line about 1e-7 in float32."""

_SQUARINGS = 16
"""Two smallest variances whose ratio is 0.9999 are told apart: 0.9999 ** 2 ** 16 is 1e-3."""


def normal(moments: Float[Array, "10 ..."]) -> Float[Array, "3 ..."]:
    """Unit normals of best-fitting planes, on either side; zero for fewer than three points or points on one line.

    The least eigenvector of the covariance is the leading one of its adjugate, whose eigenvalues are the products of
    two of the covariance's. Squaring it leaves only the leading one. Unlike a closed form this passes through no
    arccosine, which near a line turns rounding errors of 1e-7 into 1e-4.

    Args:
      moments: of points relative to one near them, so that centring costs no precision; see `PAIRS`.
    """
    count = jnp.maximum(moments[9], 1.0)
    x, y, z = moments[6:9] / count
    xx, xy, xz, yy, yz, zz = moments[:6] / count - jnp.stack([x * x, x * y, x * z, y * y, y * z, z * z])
    trace = xx + yy + zz
    xx, xy, xz, yy, yz, zz = jnp.stack([xx, xy, xz, yy, yz, zz]) / jnp.where(trace > 0, trace, 1.0)
    adjugate = (
        yy * zz - yz * yz, xz * yz - xy * zz, xy * yz - xz * yy, xx * zz - xz * xz, xy * xz - xx * yz, xx * yy - xy * xy
    )  # fmt: skip
    spread = adjugate[0] + adjugate[3] + adjugate[5]
    power = jax.lax.fori_loop(0, _SQUARINGS, lambda _, a: _square(a), jnp.stack(adjugate))
    direction = _longest_column(power)
    usable = (moments[9] >= 3) & (spread > _SPREAD)
    return jnp.where(usable, direction, 0.0)


def _square(a):
    """Square of symmetric matrices, for a trace of one."""
    xx, xy, xz, yy, yz, zz = a
    squared = jnp.stack(
        [
            xx * xx + xy * xy + xz * xz,
            xx * xy + xy * yy + xz * yz,
            xx * xz + xy * yz + xz * zz,
            xy * xy + yy * yy + yz * yz,
            xy * xz + yy * yz + yz * zz,
            xz * xz + yz * yz + zz * zz,
        ]
    )
    trace = squared[0] + squared[3] + squared[5]
    return squared / jnp.where(trace > 0, trace, 1.0)


def _longest_column(a):
    """Unit vectors along the longest columns of symmetric positive matrices: those with the largest diagonal."""
    xx, xy, xz, yy, yz, zz = a
    columns = jnp.stack([jnp.stack([xx, xy, xz]), jnp.stack([xy, yy, yz]), jnp.stack([xz, yz, zz])])
    second = jnp.where(yy > xx, columns[1], columns[0])
    column = jnp.where(zz > jnp.maximum(xx, yy), columns[2], second)
    length = jnp.sqrt(jnp.sum(column * column, axis=0))
    return column / jnp.where(length > 0, length, 1.0)
