"""Matrix products of factors in float32 or bfloat16; all else that the decoder computes is float32.

`jax.default_matmul_precision` asks XLA for the same, but XLA takes no notice of it on CPUs. Rounding the factors here
gives a setting one meaning on all devices; the algorithm that is asked for then makes it fast where it can be.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

PRECISIONS = ("float32", "bfloat16")

_CURRENT = contextvars.ContextVar("precision", default="float32")


@contextlib.contextmanager
def factors(precision: str) -> Iterator[None]:
    """Sets the precision of matmul operands in `product` for all that is traced within."""
    token = _CURRENT.set(precision)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def product(a: Float[Array, "n m"], b: Float[Array, "m k"]) -> Float[Array, "n k"]:
    """`a @ b` of factors rounded as `factors` says, summed in float32; products of its gradient likewise."""
    return _of_rounded(a, b) if _CURRENT.get() == "bfloat16" else a @ b


def rounded(x: Float[Array, "*shape"], precision: str) -> Float[Array, "*shape"]:
    """Numbers that a precision can hold, in float32."""
    if precision == "float32":
        return x
    # XLA may drop a conversion to bfloat16 and back, but never this.
    return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)


@jax.custom_vjp
def _of_rounded(a: Float[Array, "n m"], b: Float[Array, "m k"]) -> Float[Array, "n k"]:
    # Factors of type bfloat16 would say the same, but XLA cannot run all such products on CPUs.
    algorithm = jax.lax.DotAlgorithmPreset.BF16_BF16_F32
    return jnp.matmul(rounded(a, "bfloat16"), rounded(b, "bfloat16"), precision=algorithm)


def _forward(a, b):
    return _of_rounded(a, b), (a, b)


def _backward(saved, cotangent):
    a, b = saved
    return _of_rounded(cotangent, b.T), _of_rounded(a.T, cotangent)


_of_rounded.defvjp(_forward, _backward)
