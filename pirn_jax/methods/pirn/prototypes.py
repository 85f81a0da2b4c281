"""Start of the prototypes: noise, patches of the good parts, or the means of their clusters.

`N` patches of all good parts, `k` prototypes, `c` channels; everything is for one modality.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

STARTS = ("noise", "patches", "kmeans")

_ITERATIONS = 10
"""Of k-means (our choice)."""


def draw(key: Array, rows: Float[Array, "N c"], mask: Bool[Array, " N"], k: int) -> Float[Array, "k c"]:
    """Patches of the part, drawn without replacement; each again, where there are fewer than prototypes."""
    order = jnp.argsort(jnp.where(mask, jax.random.uniform(key, mask.shape), jnp.inf))
    return rows[order[jnp.arange(k) % jnp.maximum(jnp.sum(mask), 1)]]


def kmeans(key: Array, rows: Float[Array, "N c"], mask: Bool[Array, " N"], k: int) -> Float[Array, "k c"]:
    """Means of clusters by Lloyd's iterations from drawn patches; a cluster that loses all its patches stays."""

    def step(_, means):
        apart = jnp.sum(means**2, axis=-1) - 2.0 * rows @ means.T
        member = jax.nn.one_hot(jnp.argmin(apart, axis=-1), k) * mask[:, None]
        count = jnp.sum(member, axis=0)[:, None]
        return jnp.where(count > 0, member.T @ rows / jnp.maximum(count, 1.0), means)

    return jax.lax.fori_loop(0, _ITERATIONS, step, draw(key, rows, mask, k))


def start(
    form: str, key: Array, rows: Float[Array, "N c"], mask: Bool[Array, " N"], noise: Float[Array, "k c"]
) -> Float[Array, "k c"]:
    """Prototypes as one of `STARTS` has them, `noise` for the first."""
    if form == "noise":
        return noise
    return {"patches": draw, "kmeans": kmeans}[form](key, rows, mask, len(noise))
