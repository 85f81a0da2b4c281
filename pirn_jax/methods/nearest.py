"""Nearest rows of memory banks. `m` modalities, `k` maps, `N` rows, `n` patches, `c` channels.

A bank has the same rows in every modality, and each map looks at some of the modalities: its squared distances are the
mean of theirs. A map of both sees what is normal in each of them and not together, and costs no further product.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Maps = tuple[tuple[int, ...], ...]
"""The modalities that each map looks at."""

REACH_FLOOR = 3.0
"""Smallest reach of a row in units of the mean reach (our choice)."""

_TILE = 2048
"""Rows of a bank that a sample is compared with at a time: memory grows with a tile, not with the bank."""


def each(modalities: int) -> Maps:
    """One map a modality."""
    return tuple((i,) for i in range(modalities))


def together(modalities: int) -> Maps:
    """One map of all."""
    return (tuple(range(modalities)),)


def squared_distances(x: Float[Array, "n c"], rows: Float[Array, "t c"]) -> Float[Array, "n t"]:
    """Squared Euclidean distances by inner products."""
    products = jnp.sum(x**2, -1)[:, None] + jnp.sum(rows**2, -1) - 2.0 * x @ rows.T
    return jnp.maximum(products, 0.0)


def nearest_rows(
    x: Float[Array, "m n c"],
    bank: Float[Array, "m N c"],
    counted: Bool[Array, "k N"],
    maps: Maps,
    neighbours: int,
    reach: Float[Array, "k N"] | None = None,
) -> tuple[Float[Array, "k n q"], Int[Array, "k n q"]]:
    """Squared distances to the nearest rows of a bank, rising, and their indices; the bank is read tile by tile.

    Rows that do not count are infinitely far; they are returned where the bank has too few others. With `reach` the
    distances to each row are divided by its own first.
    """

    def visit(best, tile):
        index, apart = tile
        both = jnp.concatenate([best[0], apart], axis=-1)
        indices = jnp.concatenate([best[1], jnp.broadcast_to(index, apart.shape)], axis=-1)
        kept = jax.lax.top_k(-both, neighbours)[1]
        return jnp.take_along_axis(both, kept, axis=-1), jnp.take_along_axis(indices, kept, axis=-1)

    shape = len(maps), x.shape[1], neighbours
    far = jnp.full(shape, jnp.inf, x.dtype), jnp.zeros(shape, jnp.int32)
    return _over_tiles(visit, far, x, bank, counted, maps, reach)


def nearest_row(
    x: Float[Array, "m n c"],
    bank: Float[Array, "m N c"],
    counted: Bool[Array, "k N"],
    maps: Maps,
    reach: Float[Array, "k N"] | None = None,
) -> Float[Array, "k n"]:
    """Squared distances to the nearest row of a bank, like those of `nearest_rows` for one neighbour and faster."""

    def visit(best, tile):
        return jnp.minimum(best, jnp.min(tile[1], axis=-1))

    far = jnp.full((len(maps), x.shape[1]), jnp.inf, x.dtype)
    return _over_tiles(visit, far, x, bank, counted, maps, reach)


def reaches(
    rows: Float[Array, "m s n c"], mask: Bool[Array, "s n"], maps: Maps, floor: float = REACH_FLOOR
) -> Float[Array, "k s*n"]:
    """Reach of each row of a bank: its squared distance to the nearest row of another sample, of a single one its own.

    Leaves of a berry are never twice the same, its skin is; so a row of leaves reaches farther. `floor` times the mean
    is added. Where all rows are one, or there is one alone, they reach equally far.

    Args:
      rows: the bank, by the samples that its rows are from.
      mask: which of them count.
      maps: what each map looks at.
      floor: smallest reach, in units of the mean.
    """
    samples = len(mask)
    bank = rows.reshape(len(rows), mask.size, -1)

    def of_sample(i: Int[Array, ""]) -> Float[Array, "k n"]:
        others = mask.at[i].set(False).ravel()
        return nearest_row(rows[:, i], bank, jnp.broadcast_to(others, (len(maps), mask.size)), maps)

    if samples > 1:
        apart = jnp.moveaxis(jax.lax.map(of_sample, jnp.arange(samples)), 1, 0)
    else:
        # The nearest is the row itself.
        counted = jnp.broadcast_to(mask.ravel(), (len(maps), mask.size))
        apart = nearest_rows(rows[:, 0], bank, counted, maps, 2)[0][:, None, :, 1]
    mean = jnp.mean(apart, axis=(1, 2), where=mask, keepdims=True)
    return jnp.where((mean > 0) & jnp.isfinite(mean), apart + floor * mean, 1.0).reshape(len(maps), -1)


def remember(rows: Float[Array, "s m n c"], mask: Bool[Array, "s n"], maps: Maps) -> dict[str, Any]:
    """A bank of all rows of some samples, for `distances` and `forget`.

    `bank` (m, s n, c), and for each map `reach`, `counted` and `origins` (k, s n).
    """
    of_modalities, (samples, count) = jnp.moveaxis(rows, 1, 0), mask.shape
    shape = len(maps), mask.size
    return {
        "bank": of_modalities.reshape(len(of_modalities), mask.size, -1),
        "reach": reaches(of_modalities, mask, maps),
        "counted": jnp.broadcast_to(mask.ravel(), shape),
        "origins": jnp.broadcast_to(jnp.repeat(jnp.arange(samples), count), shape),
    }


def distances(params: dict[str, Any], rows: Float[Array, "m n c"], maps: Maps) -> Float[Array, "k n"]:
    """Squared distances to the nearest row of a bank of `remember`, in units of its reach."""
    return nearest_row(rows, params["bank"], params["counted"], maps, params["reach"])


def forget(params: dict[str, Any], i: Array) -> dict[str, Any]:
    """Parameters whose bank lacks the rows of sample `i`: `counted` says which rows count, `origins` whose they are."""
    return {**params, "counted": params["counted"] & (params["origins"] != i)}


def _over_tiles(
    visit: Callable, start: Any, x: Array, bank: Array, counted: Array, maps: Maps, reach: Array | None
) -> Any:
    """Folds `visit(carry, (indices of rows, distances to them))` over tiles of a bank."""
    rows = bank.shape[1]
    tiles = -(-rows // _TILE)
    size = -(-rows // tiles)

    def tile(of: Array, first: Array) -> Array:
        """Some rows of an array (..., N) or (..., N, c) whose axis 1 was padded."""
        return jax.lax.dynamic_slice_in_dim(of, first, size, axis=1)

    padding = (0, 0), (0, tiles * size - rows)
    bank, counted = jnp.pad(bank, (*padding, (0, 0))), jnp.pad(counted, padding)
    reach = None if reach is None else jnp.pad(reach, padding, constant_values=1.0)

    def step(carry, first):
        of_modalities = jax.vmap(squared_distances)(x, tile(bank, first))
        apart = jnp.stack([sum(of_modalities[i] for i in seen) / len(seen) for seen in maps])
        if reach is not None:
            apart = apart / tile(reach, first)[:, None]
        return visit(carry, (first + jnp.arange(size), jnp.where(tile(counted, first)[:, None], apart, jnp.inf))), None

    return jax.lax.scan(step, start, size * jnp.arange(tiles))[0]
