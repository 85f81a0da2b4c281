"""Methods that learn from several views of each good part."""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array

from pirn_jax.methods.base import Method, Params


def viewed(method: Method, views: int) -> Method:
    """The method with a support of so many views a part, one behind the other: `forget` takes the index of a part.

    Rows of a bank reach as far as the nearest row of another view or part (`nearest.reaches`).
    """
    return method._replace(forget=_forgetting(method.forget, views))


@functools.lru_cache
def _forgetting(forget: Callable, views: int) -> Callable:
    def forget_part(params: Params, i: Array) -> Params:
        return jax.lax.fori_loop(0, views, lambda view, left: forget(left, i * views + view), params)

    return forget_part
