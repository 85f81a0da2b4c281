"""Reconstruction losses that methods share, computed from three inner products per patch."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import statistics

_DEVICES = contextvars.ContextVar[tuple[str, Sequence[Sequence[int]]] | None]("devices", default=None)


@contextlib.contextmanager
def batch_over_devices(axis: str, groups: Sequence[Sequence[int]]) -> Iterator[None]:
    """Makes `batch_mean`, where traced within, average over the devices that share a batch.

    Args:
      axis: name of the mapped axis of devices.
      groups: indices of the devices that share a batch, for every batch.
    """
    token = _DEVICES.set((axis, groups))
    try:
        yield
    finally:
        _DEVICES.reset(token)


def batch_mean(values: Any) -> Any:
    """Mean over the devices that share a batch of a pytree of means over each one's samples; else the values."""
    devices = _DEVICES.get()
    if devices is None:
        return values
    axis, groups = devices
    return jax.lax.pmean(values, axis, axis_index_groups=groups)


class Products(NamedTuple):
    """Inner products of corresponding rows of a target and its reconstruction.

    Attributes:
      mixed: target with reconstruction.
      rebuilt: reconstruction with itself.
      target: target with itself.
    """

    mixed: Float[Array, "*rows"]
    rebuilt: Float[Array, "*rows"]
    target: Float[Array, "*rows"]


def unit(x: Float[Array, "*rows c"]) -> Float[Array, "*rows c"]:
    """Scales every row to length one; a zero row stays zero, and its gradient stays finite."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def cosines(x: Float[Array, "n c"], rows: Float[Array, "k c"]) -> Float[Array, "n k"]:
    """Cosines of patches and rows; 0 where either is zero."""
    return unit(x) @ unit(rows).T


def inner(a: Float[Array, "*rows c"], b: Float[Array, "*rows c"]) -> Float[Array, "*rows"]:
    """Inner products of corresponding rows."""
    return jnp.sum(a * b, axis=-1)


def products(target: Float[Array, "*rows c"], rebuilt: Any, paired: Callable[[Any, Any], Array] = inner) -> Products:
    """Inner products of a target and its reconstruction; no gradient reaches the target.

    Args:
      target: rows.
      rebuilt: as many, in any form that `paired` takes.
      paired: inner products of corresponding rows.
    """
    target = jax.lax.stop_gradient(target)
    return Products(paired(target, rebuilt), paired(rebuilt, rebuilt), paired(target, target))


def cosine_distance(rows: Products) -> Float[Array, "*rows"]:
    """`1 - cos` of target and reconstruction, in [0, 2]; 1 where either row is zero."""
    return 1.0 - rows.mixed * jax.lax.rsqrt(jnp.maximum(rows.target * rows.rebuilt, 1e-24))


def residuals(target: Float[Array, "*m g n c"], rebuilt: Float[Array, "*m g n c"]) -> Float[Array, "*m n gc"]:
    """Differences of the unit vectors of patches and rebuilt ones, layer groups side by side."""
    return side_by_side(unit(target) - unit(rebuilt))


def side_by_side(values: Float[Array, "*m g n c"]) -> Float[Array, "*m n gc"]:
    """Layer groups one after the other along channels."""
    moved = jnp.moveaxis(values, -3, -2)
    return moved.reshape(*moved.shape[:-2], -1)


def soft_mining(rows: Products, mask: Bool[Array, "batch n"], exponent: float = 3.0) -> Float[Array, ""]:
    """Soft mining loss of INP-Former: badly rebuilt patches pull harder (Luo et al., 2025).

    The value is the mean cosine distance of whole feature maps, each flattened to one vector. The gradient that
    reaches patch `i` of the reconstruction is multiplied by `(d_i / mean d) ** exponent`, with `d` the cosine distance
    of each patch and the mean over the batch's patches of the part.

    Args:
      rows: products of encoder features and reconstruction, (batch, n).
      mask: patches that count; of each sample at least one.
      exponent: INP-Former uses 3.
    """
    distance = jax.lax.stop_gradient(cosine_distance(rows))
    total, count = batch_mean((jnp.sum(jnp.where(mask, distance, 0.0)), jnp.sum(mask.astype(distance.dtype))))
    weight = (distance / jnp.maximum(total / count, 1e-12)) ** exponent
    # A patch reaches the loss through these two numbers alone: weighting their gradients weights the patch's.
    weighted = Products(_weighted(rows.mixed, weight), _weighted(rows.rebuilt, weight), rows.target)
    whole = jax.tree.map(lambda x: jnp.sum(jnp.where(mask, x, 0.0), axis=1), weighted)
    return jnp.mean(cosine_distance(whole))


def gather(maps: Float[Array, "m n c"], p: Float[Array, "k c"], mask: Bool[Array, " n"]) -> Float[Array, ""]:
    """INP-Former's gather loss: mean distance of patches to their nearest prototype, over several maps of a sample."""
    return jnp.mean(jnp.stack([statistics.mean(1.0 - jnp.max(cosines(of, p), axis=-1), mask) for of in maps]))


def _weighted(x: Float[Array, "batch n"], weight: Float[Array, "batch n"]) -> Float[Array, "batch n"]:
    """The same value with its gradient multiplied."""
    frozen = jax.lax.stop_gradient(x)
    return frozen + weight * (x - frozen)
