"""Small features with layer groups, and methods on them with parameters none of which is zero."""

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax.methods.base import Features

PARTS, GROUPS, N, C = 2, 2, 9, 8


def quick(function):
    """Compiled without optimisation: few operations are run."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def parts(mask=None):
    """Good parts of two modalities."""
    values = jax.random.normal(jax.random.key(0), (PARTS, 2, GROUPS, N, C), float)
    return Features(values, jnp.ones((PARTS, N), bool) if mask is None else jnp.asarray(mask))


def started(built):
    """A method, what it learns, and what stays fixed."""
    learned, fixed = quick(built.start)(jax.random.key(0), parts())
    rng = np.random.default_rng(1)
    return built, jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape), learned), fixed
