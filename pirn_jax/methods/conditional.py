"""Gaussian of the good parts' patches over all modalities, and the distance of each modality given the others.

What is normal in the image and normal in the surface need not be normal together: given one modality, the Gaussian
predicts the other linearly, and says how far from the prediction good patches lie and in which directions. It is
fitted in closed form, holds `d x d` numbers whatever the number of good parts, and a patch costs products with them.
`s` samples, `m` modalities, `n` patches, `c` channels, `d = m c`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

SHRINKAGE = 0.1
"""Share by which covariances of different channels are shrunk towards zero (our choice)."""

RIDGE = 0.1
"""Variance added to every channel, in units of the mean variance (our choice)."""

_BLOCK = 32
"""Rows that are eliminated at a time."""


def names(modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the maps of `distances`."""
    others = [[other for other in modalities if other != name] for name in modalities]
    return tuple(" given ".join([name, *rest]) for name, rest in zip(modalities, others, strict=True))


def inverse(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Inverse of a symmetric positive definite matrix, by Gauss-Jordan elimination of blocks without pivoting.

    Of products alone: on CPUs calls of LAPACK wait for each other in programs that run side by side.
    """
    size = len(matrix)
    padded = -(-size // _BLOCK) * _BLOCK
    whole = jnp.eye(padded, dtype=matrix.dtype).at[:size, :size].set(matrix)
    return _eliminate(whole, _BLOCK)[:size, :size]


def _eliminate(matrix: Float[Array, "d d"], block: int) -> Float[Array, "d d"]:
    size = len(matrix)

    def step(i, a):
        first = i * block
        columns = jax.lax.dynamic_slice(a, (0, first), (size, block))
        rows = jax.lax.dynamic_slice(a, (first, 0), (block, size))
        pivot = jax.lax.dynamic_slice(rows, (0, first), (block, block))
        inverted = _eliminate(pivot, 1) if block > 1 else 1.0 / pivot
        scaled = inverted @ rows
        a = a - columns @ scaled
        a = jax.lax.dynamic_update_slice(a, scaled, (first, 0))
        a = jax.lax.dynamic_update_slice(a, -columns @ inverted, (0, first))
        return jax.lax.dynamic_update_slice(a, inverted, (first, first))

    return jax.lax.fori_loop(0, size // block, step, matrix)


def fit(
    rows: Float[Array, "s m n c"],
    mask: Bool[Array, "s n"],
    shrinkage: float = SHRINKAGE,
    ridge: float = RIDGE,
) -> dict[str, Array]:
    """The Gaussian of some samples' patches, for `distances`.

    Args:
      rows: patches of every modality.
      mask: which of them count, at least one.
      shrinkage: see `SHRINKAGE`, from 0 to 1.
      ridge: see `RIDGE`.

    Returns:
      `mean` (m, c), `precision` (m, c, d), each modality's rows of the inverse covariance, and `within` (m, c, c), the
      inverse of each one's own block, which is its covariance given the others.
    """
    modalities, channels = rows.shape[1], rows.shape[-1]
    x = jnp.moveaxis(rows, 1, 2).reshape(mask.size, -1)
    shown, count = mask.reshape(-1, 1), jnp.sum(mask)
    mean = jnp.sum(jnp.where(shown, x, 0.0), axis=0) / count
    centred = jnp.where(shown, x - mean, 0.0)
    covariance = centred.T @ centred / count
    variance = jnp.diagonal(covariance)
    least = ridge * jnp.maximum(jnp.mean(variance), 1e-12)
    shrunk = (1.0 - shrinkage) * covariance + jnp.diag(shrinkage * variance + least)
    precision = inverse(shrunk).reshape(modalities, channels, -1)
    own = jnp.stack([of[:, i * channels : (i + 1) * channels] for i, of in enumerate(precision)])
    return {"mean": mean.reshape(modalities, channels), "precision": precision, "within": jax.vmap(inverse)(own)}


def distances(params: dict[str, Array], rows: Float[Array, "m n c"]) -> Float[Array, "m n"]:
    """Mahalanobis distance of each modality given the others, in units of the root of its channels: 1 on good parts.

    With deviations `x` from the mean and the precision matrix in blocks `P_ij`, modality `i` lies
    `e_i = P_ii^-1 sum_j P_ij x_j` off its prediction, whose covariance is `P_ii^-1`, so the squared distance is
    `e_i^T P_ii e_i`.
    """
    apart = rows - params["mean"][:, None]
    x = jnp.moveaxis(apart, 0, 1).reshape(apart.shape[1], -1)

    def of_modality(precision: Float[Array, "c d"], within: Float[Array, "c c"]) -> Float[Array, " n"]:
        weighted = x @ precision.T
        return jnp.sqrt(jnp.maximum(jnp.mean((weighted @ within) * weighted, axis=-1), 0.0))

    return jax.vmap(of_modality)(params["precision"], params["within"])
