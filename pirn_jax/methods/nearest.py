"""Nearest rows of a memory bank. `N` rows, `n` patches, `c` channels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

REACH_FLOOR = 3.0
"""Smallest reach of a row in units of the mean reach (our choice)."""

_TILE = 2048
"""Rows of a bank that a sample is compared with at a time: memory grows with a tile, not with the bank."""


def squared_distances(x: Float[Array, "n c"], rows: Float[Array, "k c"]) -> Float[Array, "n k"]:
    """Squared Euclidean distances by inner products."""
    products = jnp.sum(x**2, -1)[:, None] + jnp.sum(rows**2, -1) - 2.0 * x @ rows.T
    return jnp.maximum(products, 0.0)


def nearest_rows(
    x: Float[Array, "n c"],
    bank: Float[Array, "N c"],
    mask: Bool[Array, " N"],
    neighbours: int,
    reach: Float[Array, " N"] | None = None,
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """Squared distances to the nearest rows of a bank, rising, and their indices; the bank is read tile by tile.

    Rows off the mask are infinitely far; they are returned where the bank has too few others. With `reach` the
    distances to each row are divided by its own first.
    """

    def visit(best, tile):
        index, apart = tile
        apart = apart if reach is None else apart / reach[index]
        both = jnp.concatenate([best[0], apart], axis=1)
        indices = jnp.concatenate([best[1], jnp.broadcast_to(index, apart.shape)], axis=1)
        kept = jax.lax.top_k(-both, neighbours)[1]
        return jnp.take_along_axis(both, kept, axis=1), jnp.take_along_axis(indices, kept, axis=1)

    far = jnp.full((len(x), neighbours), jnp.inf, x.dtype), jnp.zeros((len(x), neighbours), jnp.int32)
    return _over_tiles(visit, far, x, bank, mask)


def nearest_row(
    x: Float[Array, "n c"],
    bank: Float[Array, "N c"],
    mask: Bool[Array, " N"],
    reach: Float[Array, " N"] | None = None,
) -> Float[Array, " n"]:
    """Squared distances to the nearest row of a bank, like those of `nearest_rows` for one neighbour and faster."""

    def visit(best, tile):
        index, apart = tile
        return jnp.minimum(best, jnp.min(apart if reach is None else apart / reach[index], axis=1))

    return _over_tiles(visit, jnp.full(len(x), jnp.inf, x.dtype), x, bank, mask)


def reaches(rows: Float[Array, "s n c"], mask: Bool[Array, "s n"], floor: float = REACH_FLOOR) -> Float[Array, " s*n"]:
    """Reach of each row of a bank: its squared distance to the nearest row of another sample.

    Leaves of a berry are never twice the same, its skin is; so a row of leaves reaches farther. `floor` times the mean
    is added. Of a single sample all rows reach equally far.

    Args:
      rows: the bank, by the samples that its rows are from.
      mask: which of them count.
      floor: smallest reach, in units of the mean.
    """
    if len(rows) == 1:
        return jnp.ones(mask.size, rows.dtype)
    bank = rows.reshape(-1, rows.shape[-1])

    def of_sample(i: Int[Array, ""]) -> Float[Array, " n"]:
        return nearest_row(rows[i], bank, mask.at[i].set(False).ravel())

    apart = jax.lax.map(of_sample, jnp.arange(len(rows)))
    return (apart + floor * jnp.mean(apart, where=mask)).ravel()


def forget(params: dict[str, Any], i: Array) -> dict[str, Any]:
    """Parameters whose bank lacks the rows of sample `i`: `counted` says which rows count, `origins` whose they are."""
    return {**params, "counted": params["counted"] & (params["origins"] != i)}


def _over_tiles(visit: Callable, start: Any, x: Array, bank: Array, mask: Array) -> Any:
    """Folds `visit(carry, (indices of rows, squared distances to them))` over tiles of a bank."""
    tiles = -(-len(bank) // _TILE)
    size = -(-len(bank) // tiles)
    padded = jnp.pad(bank, ((0, tiles * size - len(bank)), (0, 0)))
    counts = jnp.pad(mask, (0, tiles * size - len(bank)))

    def step(carry, first):
        rows, counted = (jax.lax.dynamic_slice_in_dim(of, first, size) for of in (padded, counts))
        apart = jnp.where(counted, squared_distances(x, rows), jnp.inf)
        return visit(carry, (first + jnp.arange(size), apart)), None

    return jax.lax.scan(step, start, size * jnp.arange(tiles))[0]
