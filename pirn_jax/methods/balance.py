"""Encoders side by side with equal weight: each one's feature vectors have unit mean square over the good parts.

Else the encoder with the largest numbers, or the most channels, would decide alone, for distances as for cosines.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax.methods.base import Features, Method, Metrics, Params

_SCALE = "encoder_scale"


def mean_length(support: Features, widths: tuple[int, ...]) -> Float[Array, "m c"]:
    """Root mean square length of each encoder's vectors over the patches of the part, repeated for its channels.

    Args:
      support: good parts of a run.
      widths: channels of each encoder.
    """
    shown = support.mask[:, None, None, :, None]
    squares = jnp.sum(jnp.where(shown, support.values.astype(jnp.float32) ** 2, 0.0), axis=(0, 2, 3))
    count = jnp.sum(support.mask) * support.values.shape[2]
    parts = [jnp.sum(of, axis=-1) / count for of in jnp.split(squares, np.cumsum(widths)[:-1], axis=-1)]
    return jnp.sqrt(jnp.maximum(jnp.repeat(jnp.stack(parts, -1), np.array(widths), axis=-1), 1e-12))


def balanced(method: Method, widths: tuple[int, ...]) -> Method:
    """The method on features of several encoders, whose vectors are brought to unit mean square each.

    The scale is part of `fixed`, so each run has that of its own good parts.

    Args:
      method: a method whose `fixed` is a dictionary.
      widths: channels of each encoder.
    """
    parts = method.init, method.score, method.loss, method.finalize, method.forget
    init, score, loss, finalize, forget = _functions(*parts, widths)
    return method._replace(init=init, score=score, loss=loss, finalize=finalize, forget=forget)


@functools.lru_cache
def _functions(
    init: Callable,
    score: Callable,
    loss: Callable | None,
    finalize: Callable,
    forget: Callable,
    widths: tuple[int, ...],
) -> tuple[Callable, Callable, Callable | None, Callable, Callable]:
    def scaled(features: Features, scale: Float[Array, "m c"]) -> Features:
        values = features.values.astype(jnp.float32) / scale[:, None, None]
        return features._replace(values=values.astype(features.values.dtype))

    def scaled_init(key: Array, support: Features) -> tuple[Params, Params]:
        scale = mean_length(support, widths)
        learned, fixed = init(key, scaled(support, scale))
        return learned, {**fixed, _SCALE: scale}

    def scaled_loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], Metrics]:
        assert loss is not None
        return loss(learned, fixed, scaled(batch, fixed[_SCALE]), key)

    def scaled_finalize(learned: Params, fixed: Params, support: Features) -> Any:
        return fixed[_SCALE], finalize(learned, fixed, scaled(support, fixed[_SCALE]))

    def scaled_score(params: Params, features: Features) -> Float[Array, "k n"]:
        scale, inner = params
        return score(inner, scaled(features, scale))

    def scaled_forget(params: Params, i: Array) -> Any:
        scale, inner = params
        return scale, forget(inner, i)

    return scaled_init, scaled_score, None if loss is None else scaled_loss, scaled_finalize, scaled_forget
