"""Numbers of scores above some levels: one sort a run, the only heavy step of the metrics.

Counts are whole numbers, so a device finds the same ones as NumPy, which is the faster on CPUs.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from pirn_jax.metrics import exact

_MOST_SCORES = 2**31 - 1
"""Of a run on a device: counts are 32-bit integers there."""

_AT_ONCE = 1 << 28
"""Scores that are sorted at a time on a device (our choice)."""

Ranked = tuple[Int[np.ndarray, "r p"], Int[np.ndarray, "r p"], Float[np.ndarray, "r k"]]


def runs_at_once(scores: int) -> int:
    """Number of runs, of so many scores each, to give to `count` together."""
    return 1 if jax.default_backend() == "cpu" else max(1, _AT_ONCE // scores)


def count(levels: Float[np.ndarray, "r p"], scores: Float[np.ndarray, "r n"], places: Int[np.ndarray, " k"]) -> Ranked:
    """Counts scores above levels, run by run, on the default device if that is no CPU.

    Args:
      levels: float32, falling.
      scores: float32 without NaN, in any order.
      places: from 0 for the lowest score.

    Returns:
      How many scores are higher than each level, how many are higher or the same, and the scores at the places.
    """
    on_host = jax.default_backend() == "cpu" or scores.shape[1] > _MOST_SCORES
    return (count_in_numpy if on_host else count_in_jax)(levels, scores, places)


def count_in_numpy(
    levels: Float[np.ndarray, "r p"], scores: Float[np.ndarray, "r n"], places: Int[np.ndarray, " k"]
) -> Ranked:
    """`count` on the host."""
    ordered = np.sort(scores)
    ranks = [exact.rank(*of_run) for of_run in zip(levels, ordered, strict=True)]
    return np.stack([r.above for r in ranks]), np.stack([r.reached for r in ranks]), ordered[:, places]


def count_in_jax(
    levels: Float[np.ndarray, "r p"], scores: Float[np.ndarray, "r n"], places: Int[np.ndarray, " k"]
) -> Ranked:
    """`count` on the default device."""
    above, reached, keys = map(np.asarray, _count(_keys(levels), _keys(scores), places))
    return above, reached, _turn(keys).view(np.float32)


@jax.jit
def _count(levels: Int32[Array, "r p"], scores: Int32[Array, "r n"], places: Int[Array, " k"]) -> tuple[Array, ...]:
    ordered = jnp.sort(scores)
    search = jax.vmap(jnp.searchsorted, (0, 0, None))
    above, reached = (scores.shape[1] - search(ordered, levels, side) for side in ("right", "left"))
    return above, reached, ordered[:, places]


def _keys(scores: np.ndarray) -> Int32[np.ndarray, "..."]:
    """Whole numbers in the order of the scores: devices may take the tiniest floats for zero."""
    return _turn((scores + np.float32(0.0)).view(np.int32))  # -0.0 becomes 0.0.


def _turn(bits: np.ndarray) -> np.ndarray:
    """Reverses the order of negative numbers, whose bits rise as they fall; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
