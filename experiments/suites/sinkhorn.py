"""The transport plan's solver beside ott-jax's and a plain loop, forward and with the gradient.

80 problems of 256 patches and 10 prototypes at once, as a step of ten runs has them in each half of a layer: epsilon
.05, 20 iterations, costs of random unit vectors. Ours are
ott-jax's updates of scalings in a loop of their own; the references are its updates of potentials likewise, its whole
solver in the kernel domain, and log-domain updates without it. `difference` is the largest entry of the plans'
difference over the largest entry. The gradient is the implicit one for all: unrolling is several times slower.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from experiments.suites import timing
from pirn_jax.methods.pirn import bpa

_PROBLEMS, _PATCHES, _PROTOTYPES, _CHANNELS = 80, 256, 10, 256
_EPSILON, _ITERATIONS = 0.05, 20


def _loop(cost: Float[Array, "n k"]) -> Float[Array, "n k"]:
    n, k = cost.shape
    scores = -cost / _EPSILON

    def iterate(_, potentials):
        columns = -jnp.log(k) - jax.nn.logsumexp(scores + potentials[0][:, None], axis=0)
        return -jnp.log(n) - jax.nn.logsumexp(scores + columns, axis=1), columns

    rows, columns = jax.lax.fori_loop(0, _ITERATIONS, iterate, (jnp.zeros(n), jnp.zeros(k)))
    return jnp.exp(scores + rows[:, None] + columns)


def _solver(cost: Float[Array, "n k"]) -> Float[Array, "n k"]:
    # All iterations in one block: ott-jax runs `max_iterations // inner_iterations` blocks.
    counts = dict.fromkeys(("inner_iterations", "min_iterations", "max_iterations"), _ITERATIONS)
    solver = sinkhorn.Sinkhorn(lse_mode=False, threshold=1e-9, **counts)
    problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=_EPSILON))  # pyright: ignore
    return solver(problem).matrix


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times all solvers in turns."""
    keys = jax.random.split(jax.random.key(0))
    z, p = (
        bpa.unit(jax.random.normal(key, (_PROBLEMS, rows, _CHANNELS)))
        for key, rows in zip(keys, (_PATCHES, _PROTOTYPES), strict=True)
    )
    cost = jax.vmap(bpa.cosine_cost)(z, p)
    mask = jnp.ones(_PATCHES, bool)
    ours, potentials = (
        functools.partial(bpa.transport_plan, mask=mask, epsilon=_EPSILON, iterations=_ITERATIONS, log_domain=log)
        for log in (False, True)
    )
    solvers = {"ours": ours, "potentials": potentials, "ott-jax's solver": _solver, "plain loop": _loop}
    forward = {name: jax.jit(jax.vmap(solve)) for name, solve in solvers.items()}
    plans = {name: solve(cost) for name, solve in forward.items()}

    def gradient(solve):
        return jax.jit(jax.grad(lambda cost: jnp.sum(jax.vmap(solve)(cost) * z[..., :_PROTOTYPES])))

    both = {name: gradient(solvers[name]) for name in ("ours", "potentials")}
    found = {}
    for title, functions in (("plan", forward), ("plan and gradient", both)):
        calls = {name: functools.partial(_wait, function, cost) for name, function in functions.items()}
        times = timing.medians(calls, 10 * repeats)
        for name in functions.keys() - {"ours"}:
            found[f"{title}, {name}"] = {
                "ours": times["ours"],
                "reference": times[name],
                "ratio": times[name] / times["ours"],
                "difference": float(jnp.abs(plans[name] - plans["ours"]).max() / plans["ours"].max()),
            }
    return dict(sorted(found.items()))


def _wait(function, cost):
    return function(cost).block_until_ready()
