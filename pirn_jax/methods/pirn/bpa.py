"""Balanced Prototype Assignment: optimal transport from patches to prototypes (Eqs. 1-3 of the paper).

`n` patches, `k` prototypes, `c` channels; everything is for one sample and one modality.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ott.geometry import geometry

from pirn_jax.methods.losses import unit
from pirn_jax.methods.pirn import patches
from pirn_jax.methods.pirn.patches import Factored, Patches
from pirn_jax.methods.pirn.precision import product

PLAN_SCALES = ("rows", "literal")

KERNEL_EPSILON = 0.03
"""From this epsilon on `exp(-C / epsilon)` and the scalings of its rows and columns fit into float32 for any cost."""

Epsilon = float | Float[Array, ""]
"""As an array it may differ between calls of one compiled program."""


def cosine_cost(z: Patches, p: Float[Array, "k c"]) -> Float[Array, "n k"]:
    """Cosine distance between patches and prototypes, `C_nk = 1 - cos(z_n, p_k)`, in [0, 2]."""
    # Only the prototypes are scaled before the product: another copy of all patches would cost more than the product.
    squared = patches.squared(z)[:, None]
    return 1.0 - patches.products(z, unit(p)) * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def marginals(mask: Bool[Array, " n"], k: int) -> tuple[Float[Array, " n"], Float[Array, " k"]]:
    """Row and column sums of a balanced plan: equal mass on the patches of the part, 1/k on each prototype."""
    rows = mask.astype(jnp.result_type(float))
    return rows / jnp.maximum(rows.sum(), 1.0), jnp.full(k, 1.0 / k)


def _sinkhorn(cost, mask, epsilon, iterations, log_domain):
    """Sinkhorn's updates by ott-jax, columns first, so that row sums are exact."""
    # With costs in units of epsilon, ott-jax's power of the kernel by a ratio of epsilons is one by 1.0.
    geom = geometry.Geometry(cost_matrix=cost / epsilon, epsilon=1.0)
    rows, columns = (x.astype(cost.dtype) for x in marginals(mask, cost.shape[1]))
    if log_domain:
        log_rows, log_columns = jnp.log(rows), jnp.log(columns)

        def update(_, potentials):
            f, g = potentials
            g = geom.update_potential(f, g, log_columns, axis=0)
            return geom.update_potential(f, g, log_rows, axis=1), g

        start = jnp.where(mask, 0.0, -jnp.inf).astype(cost.dtype), jnp.zeros_like(columns)
        return geom.transport_from_potentials(*jax.lax.fori_loop(0, iterations, update, start))

    def rescale(_, scalings):
        v = geom.update_scaling(scalings[0], columns, axis=0)
        return geom.update_scaling(v, rows, axis=1), v

    start = mask.astype(cost.dtype), jnp.ones_like(columns)
    return geom.transport_from_scalings(*jax.lax.fori_loop(0, iterations, rescale, start))


def transport_plan(
    cost: Float[Array, "n k"],
    mask: Bool[Array, " n"],
    epsilon: Epsilon,
    iterations: int,
    log_domain: bool = True,
) -> Float[Array, "n k"]:
    """Entropic balanced transport plan between patches and prototypes (Eq. 1), by ott-jax.

    `argmin_T <T, C> - epsilon H(T)` with row sums 1/n over the n patches of the part, rows of zeros for all others, and
    column sums 1/k. Rows are exact after any number of iterations, columns converge.

    The gradient is that of the plan itself, by the implicit function theorem. A plan `exp((f + g - C) / epsilon)` is
    the exact solution for its own marginals; holding these fixed, a change of the cost moves the plan by
    `dT = T * (df + dg - dC) / epsilon`, where `df, dg` keep both marginals. Eliminating the n row unknowns leaves
    one k-by-k system, so the backward pass costs O(n k^2) and stores the plan alone, whatever the iterations. (The
    solver's own implicit gradient is singular for a balanced problem, and unrolling it is several times slower.)

    Args:
      cost: distances in [0, 2].
      mask: patches that show the part, at least one.
      epsilon: strength of the entropy, in units of the cost; no gradient reaches it.
      iterations: Sinkhorn iterations, at least 1.
      log_domain: whether potentials are updated (`Geometry.update_potential`), for any epsilon; else scalings of the
        kernel (`Geometry.update_scaling`), the same to rounding and faster, for an epsilon from `KERNEL_EPSILON` on.
    """
    return _plan(cost, mask, jnp.asarray(epsilon, cost.dtype), iterations, log_domain)  # pyright: ignore


def _solve(matrix: Float[Array, "k k"], right: Float[Array, " k"]) -> Float[Array, " k"]:
    """Solves a symmetric positive definite system by Gauss-Jordan elimination, which needs no pivoting there.

    Not by `jnp.linalg.solve`: on CPUs LAPACK waits in XLA's pool of threads for tasks in the same pool, so programs
    that run side by side can block each other for good.
    """

    def eliminate(i: Array, rows: Float[Array, "k w"]) -> Float[Array, "k w"]:
        row = rows[i] / rows[i, i]
        return (rows - rows[:, i, None] * row).at[i].set(row)

    return jax.lax.fori_loop(0, len(right), eliminate, jnp.concatenate([matrix, right[:, None]], axis=1))[:, -1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _plan(cost, mask, epsilon, iterations, log_domain):
    return _sinkhorn(cost, mask, epsilon, iterations, log_domain)


def _plan_forward(cost, mask, epsilon, iterations, log_domain):
    plan = _plan(cost, mask, epsilon, iterations, log_domain)
    return plan, (plan, epsilon)


def _plan_backward(iterations, log_domain, saved, cotangent):
    del iterations, log_domain
    plan, epsilon = saved
    rows, columns = plan.sum(1), plan.sum(0)
    inverse = jnp.where(rows > 0, 1.0 / jnp.where(rows > 0, rows, 1.0), 0.0)
    moved = plan * cotangent
    # Row equation: rows * alpha + plan @ beta = moved.sum(1); column equation: plan.T @ alpha + columns * beta =
    # moved.sum(0). A constant can be shifted between alpha and beta, and so it can within every group of patches and
    # prototypes that the plan ties to each other alone; a ridge at the level of rounding pins these free directions.
    share = plan * inverse[:, None]
    ridge = 100 * jnp.finfo(plan.dtype).eps * columns.mean()
    schur = jnp.diag(columns) - share.T @ plan + ridge * jnp.eye(columns.size, dtype=plan.dtype)
    beta = _solve(schur, moved.sum(0) - share.T @ moved.sum(1))
    alpha = (moved.sum(1) - plan @ beta) * inverse
    return (-(moved - plan * (alpha[:, None] + beta)) / epsilon, None, jnp.zeros_like(epsilon))


_plan.defvjp(_plan_forward, _plan_backward)


def prototype_use(plan: Float[Array, "n k"]) -> Float[Array, ""]:
    """Effective share of the prototypes that patches are assigned to, in [1/k, 1].

    The exponential of the entropy of the share of patches that each prototype gets most mass of, over k: balanced
    columns force mass onto every prototype, so the mass itself would always say 1 (our choice).
    """
    k = plan.shape[1]
    share = plan.sum(1) @ jax.nn.one_hot(jnp.argmax(plan, axis=1), k)
    share = share / share.sum()
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)))
    return jnp.exp(entropy) / k


def column_error(plan: Float[Array, "n k"]) -> Float[Array, ""]:
    """Largest relative error of a column sum, `max_k |k sum_n T_nk - 1|`: 0 where Sinkhorn has converged."""
    return jnp.max(jnp.abs(plan.shape[1] * plan.sum(0) - 1.0))


def softmax_plan(cost: Float[Array, "n k"], mask: Bool[Array, " n"], epsilon: Epsilon) -> Float[Array, "n k"]:
    """The unbalanced assignment that the paper ablates: a softmax per patch of the part, columns free."""
    rows, _ = marginals(mask, cost.shape[1])
    return jax.nn.softmax(-cost / epsilon, axis=1) * rows.astype(cost.dtype)[:, None]


def sigmoid_plan(cost: Float[Array, "n k"], mask: Bool[Array, " n"], epsilon: Epsilon) -> Float[Array, "n k"]:
    """Assignment by sigmoid attention, `sigmoid(cos / epsilon - log k)` (Ramapuram et al., 2024); columns free.

    The paper names it without an equation. Prototypes do not compete, as they do in a softmax; each patch's weights are
    then divided by their sum, so that its row has the mass of every other plan's (our choice).
    """
    rows, _ = marginals(mask, cost.shape[1])
    weights = jax.nn.log_sigmoid((1.0 - cost) / epsilon - jnp.log(cost.shape[1]))
    # The quotient by the sum, which underflows where no prototype is near, is a softmax of logarithms.
    return jax.nn.softmax(weights, axis=1) * rows.astype(cost.dtype)[:, None]


def linear_plan(z: Patches, p: Float[Array, "k c"], mask: Bool[Array, " n"]) -> Float[Array, "n k"]:
    """Assignment by linear attention, `phi(z) phi(p)^T` with `phi = elu + 1` (Katharopoulos et al., 2020).

    The paper names it without an equation. Patches and prototypes are scaled to unit mean square, so that it does not
    depend on their lengths, as no other assignment does (our choice); each row is divided by its sum.
    """

    def phi(x: Float[Array, "rows c"]) -> Float[Array, "rows c"]:
        return jax.nn.elu(unit(x) * x.shape[-1] ** 0.5) + 1.0

    rows, _ = marginals(mask, len(p))
    weights = product(phi(patches.dense(z)), phi(p).T)
    return weights / weights.sum(1, keepdims=True) * rows.astype(weights.dtype)[:, None]


def mean_plan(mask: Bool[Array, " n"], k: int) -> Float[Array, "n k"]:
    """Weights of global averaging (Table 4): all patches of the part alike, so all prototypes have one context."""
    rows, columns = marginals(mask, k)
    return rows[:, None] * columns


def nearest_plan(cost: Float[Array, "n k"], mask: Bool[Array, " n"], count: int) -> Float[Array, "n k"]:
    """Weights of top-k averaging (Table 4): of each prototype its nearest patches of the part, all alike.

    Args:
      cost: cosine distances.
      mask: patches that show the part.
      count: how many are averaged; all where the part has fewer.
    """
    n, k = cost.shape
    _, nearest = jax.lax.top_k(jnp.where(mask[:, None], -cost, -jnp.inf).T, min(count, n))
    chosen = jnp.zeros((k, n), cost.dtype).at[jnp.arange(k)[:, None], nearest].set(1.0).T
    chosen = jnp.where(mask[:, None], chosen, 0.0)
    return chosen / jnp.maximum(chosen.sum(0), 1.0) / k


def contexts(plan: Float[Array, "n k"], z: Patches) -> Float[Array, "k c"]:
    """Context of each prototype, the column-normalised average of patches (Eq. 3)."""
    # A prototype that softmax gives no mass at all has no context.
    return patches.mix(plan, z) / jnp.maximum(plan.sum(0), jnp.finfo(plan.dtype).tiny)[:, None]


def reconstruct(plan: Float[Array, "n k"], p: Float[Array, "k c"], scale: str = "rows") -> Factored:
    """Patches rebuilt from prototypes, `z_bpa = T p` (Eq. 2); zero off the part.

    Eq. 2 taken literally makes `z_bpa` n times smaller than a patch, because the rows of the plan sum to 1/n. With
    `scale="rows"` each row is normalised first (the barycentric projection); `scale="literal"` is Eq. 2 as printed.
    """
    if scale == "rows":
        rows = plan.sum(1, keepdims=True)
        plan = plan / jnp.where(rows > 0, rows, 1.0)
    elif scale != "literal":
        raise ValueError(f"unknown plan scale {scale!r}; choose one of {', '.join(PLAN_SCALES)}")
    return Factored(plan, p)
