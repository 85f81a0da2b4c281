"""Balanced Prototype Assignment: optimal transport from patches to prototypes (Eqs. 1-3 of the paper).

`n` patches, `k` prototypes, `c` channels; everything is for one sample and one modality.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from pirn_jax.pirn import patches
from pirn_jax.pirn.patches import Factored, Patches

PLAN_SCALES = ("rows", "literal")

KERNEL_EPSILON = 0.03
"""From this epsilon on `exp(-C / epsilon)` and the scalings of its rows and columns fit into float32 for any cost."""

Epsilon = float | Float[Array, ""]
"""As an array it may differ between calls of one compiled program."""


def unit(x: Float[Array, "*rows c"]) -> Float[Array, "*rows c"]:
    """Scales every row to length one; a zero row stays zero, and its gradient stays finite."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def cosine_cost(z: Patches, p: Float[Array, "k c"]) -> Float[Array, "n k"]:
    """Cosine distance between patches and prototypes, `C_nk = 1 - cos(z_n, p_k)`, in [0, 2]."""
    # Only the prototypes are scaled before the product: another copy of all patches would cost more than the product.
    squared = patches.squared(z)[:, None]
    return 1.0 - patches.products(z, unit(p)) * jax.lax.rsqrt(jnp.maximum(squared, 1e-12))


def _scale(cost: Float[Array, "n k"], epsilon: Epsilon, iterations: int) -> Float[Array, "n k"]:
    """Sinkhorn in the kernel domain: two thin products an iteration, where the log domain takes exponentials."""
    kernel = jnp.exp(-cost / epsilon)
    n, k = cost.shape

    def iterate(_, rows):
        columns = 1 / (k * (rows @ kernel))
        return 1 / (n * (kernel @ columns))

    rows = jax.lax.fori_loop(0, iterations - 1, iterate, jnp.ones(n, cost.dtype))
    columns = 1 / (k * (rows @ kernel))
    return kernel * columns / (n * (kernel @ columns))[:, None]


def solve_with_ott(
    cost: Float[Array, "n k"], epsilon: Epsilon, iterations: int, lse_mode: bool = True
) -> Float[Array, "n k"]:
    """Sinkhorn by ott-jax, in the log domain or, without `lse_mode`, in the kernel domain."""
    # All iterations in one block: ott-jax runs `max_iterations // inner_iterations` blocks, so the default block of
    # ten would turn five iterations into none. The last update is of the rows, so row sums are exact.
    solver = sinkhorn.Sinkhorn(
        lse_mode=lse_mode,
        threshold=1e-9,
        inner_iterations=iterations,
        min_iterations=iterations,
        max_iterations=iterations,
    )
    problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=epsilon))  # pyright: ignore
    return solver(problem).matrix


def transport_plan(
    cost: Float[Array, "n k"], epsilon: Epsilon, iterations: int, log_domain: bool = True
) -> Float[Array, "n k"]:
    """Entropic balanced transport plan between patches and prototypes (Eq. 1).

    `argmin_T <T, C> - epsilon H(T)` with row sums 1/n and column sums 1/k. Rows are exact after any number of
    iterations, columns converge.

    The gradient is that of the plan itself, by the implicit function theorem. A plan `exp((f + g - C) / epsilon)` is
    the exact solution for its own marginals; holding these fixed, a change of the cost moves the plan by
    `dT = T * (df + dg - dC) / epsilon`, where `df, dg` keep both marginals. Eliminating the n row unknowns leaves
    one k-by-k system, so the backward pass costs O(n k^2) and stores the plan alone, whatever the iterations. (The
    solver's own implicit gradient is singular for a balanced problem, and unrolling it is several times slower.)

    Args:
      cost: distances in [0, 2].
      epsilon: strength of the entropy, in units of the cost; no gradient reaches it.
      iterations: Sinkhorn iterations, at least 1.
      log_domain: whether ott-jax solves in the log domain, for any epsilon; else scalings of the kernel, the same to
        rounding and eight times as fast on a CPU, for an epsilon from `KERNEL_EPSILON` on.
    """
    return _plan(cost, jnp.asarray(epsilon, cost.dtype), iterations, log_domain)  # pyright: ignore


def _solve(matrix: Float[Array, "k k"], right: Float[Array, " k"]) -> Float[Array, " k"]:
    """Solves a symmetric positive definite system by Gauss-Jordan elimination, which needs no pivoting there.

    Not by `jnp.linalg.solve`: on CPUs LAPACK waits in XLA's pool of threads for tasks in the same pool, so programs
    that run side by side can block each other for good.
    """

    def eliminate(i: Array, rows: Float[Array, "k w"]) -> Float[Array, "k w"]:
        row = rows[i] / rows[i, i]
        return (rows - rows[:, i, None] * row).at[i].set(row)

    return jax.lax.fori_loop(0, len(right), eliminate, jnp.concatenate([matrix, right[:, None]], axis=1))[:, -1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _plan(cost, epsilon, iterations, log_domain):
    return (solve_with_ott if log_domain else _scale)(cost, epsilon, iterations)


def _plan_forward(cost, epsilon, iterations, log_domain):
    plan = _plan(cost, epsilon, iterations, log_domain)
    return plan, (plan, epsilon)


def _plan_backward(iterations, log_domain, saved, cotangent):
    del iterations, log_domain
    plan, epsilon = saved
    rows, columns = plan.sum(1), plan.sum(0)
    moved = plan * cotangent
    # Row equation: rows * alpha + plan @ beta = moved.sum(1); column equation: plan.T @ alpha + columns * beta =
    # moved.sum(0). A constant can be shifted between alpha and beta, and so it can within every group of patches and
    # prototypes that the plan ties to each other alone; a ridge at the level of rounding pins these free directions.
    share = plan / rows[:, None]
    ridge = 100 * jnp.finfo(plan.dtype).eps * columns.mean()
    schur = jnp.diag(columns) - share.T @ plan + ridge * jnp.eye(columns.size, dtype=plan.dtype)
    beta = _solve(schur, moved.sum(0) - share.T @ moved.sum(1))
    alpha = (moved.sum(1) - plan @ beta) / rows
    return (-(moved - plan * (alpha[:, None] + beta)) / epsilon, jnp.zeros_like(epsilon))


_plan.defvjp(_plan_forward, _plan_backward)


def prototype_use(plan: Float[Array, "n k"]) -> Float[Array, ""]:
    """Effective share of the prototypes that patches are assigned to, in [1/k, 1].

    The exponential of the entropy of the share of patches that each prototype gets most mass of, over k: balanced
    columns force mass onto every prototype, so the mass itself would always say 1 (our choice).
    """
    k = plan.shape[1]
    share = jnp.mean(jax.nn.one_hot(jnp.argmax(plan, axis=1), k), axis=0)
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1.0)))
    return jnp.exp(entropy) / k


def softmax_plan(cost: Float[Array, "n k"], epsilon: Epsilon) -> Float[Array, "n k"]:
    """The unbalanced assignment that the paper ablates: a softmax per patch, row sums 1/n, columns free."""
    return jax.nn.softmax(-cost / epsilon, axis=1) / cost.shape[0]


def contexts(plan: Float[Array, "n k"], z: Patches) -> Float[Array, "k c"]:
    """What each prototype is matched with: the column-normalised average of patches (Eq. 3)."""
    return patches.mix(plan, z) / plan.sum(0)[:, None]


def reconstruct(plan: Float[Array, "n k"], p: Float[Array, "k c"], scale: str = "rows") -> Factored:
    """Patches rebuilt from prototypes, `z_bpa = T p` (Eq. 2).

    Eq. 2 taken literally makes `z_bpa` n times smaller than a patch, because the rows of the plan sum to 1/n. With
    `scale="rows"` each row is normalised first (the barycentric projection); `scale="literal"` is Eq. 2 as printed.
    """
    if scale == "rows":
        plan = plan / plan.sum(1, keepdims=True)
    elif scale != "literal":
        raise ValueError(f"unknown plan scale {scale!r}; choose one of {', '.join(PLAN_SCALES)}")
    return Factored(plan, p)
