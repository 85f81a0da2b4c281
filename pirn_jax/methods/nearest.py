"""Nearest rows of a memory bank. `N` rows, `n` patches, `c` channels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_TILE = 2048
"""Rows of a bank that a sample is compared with at a time: memory grows with a tile, not with the bank."""


def squared_distances(x: Float[Array, "n c"], rows: Float[Array, "k c"]) -> Float[Array, "n k"]:
    """Squared Euclidean distances by inner products."""
    products = jnp.sum(x**2, -1)[:, None] + jnp.sum(rows**2, -1) - 2.0 * x @ rows.T
    return jnp.maximum(products, 0.0)


def nearest_rows(
    x: Float[Array, "n c"], bank: Float[Array, "N c"], mask: Bool[Array, " N"], neighbours: int
) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
    """Squared distances to the nearest rows of a bank, rising, and their indices; the bank is read tile by tile.

    Rows off the mask are infinitely far; they are returned where the bank has too few others.
    """

    def visit(best, tile):
        index, apart = tile
        both = jnp.concatenate([best[0], apart], axis=1)
        indices = jnp.concatenate([best[1], jnp.broadcast_to(index, apart.shape)], axis=1)
        kept = jax.lax.top_k(-both, neighbours)[1]
        return jnp.take_along_axis(both, kept, axis=1), jnp.take_along_axis(indices, kept, axis=1)

    far = jnp.full((len(x), neighbours), jnp.inf, x.dtype), jnp.zeros((len(x), neighbours), jnp.int32)
    return _over_tiles(visit, far, x, bank, mask)


def nearest_row(x: Float[Array, "n c"], bank: Float[Array, "N c"], mask: Bool[Array, " N"]) -> Float[Array, " n"]:
    """Squared distances to the nearest row of a bank, like those of `nearest_rows` for one neighbour and faster."""
    return _over_tiles(
        lambda best, tile: jnp.minimum(best, jnp.min(tile[1], axis=1)),
        jnp.full(len(x), jnp.inf, x.dtype),
        x,
        bank,
        mask,
    )


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
