"""StableAdamW, INP-Former's optimiser (Wortsman et al., NeurIPS 2023, as the published code has it)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

_EPSILON = 1e-10


def _scale_by_stable_amsgrad() -> optax.GradientTransformation:
    """Adam's direction with the largest second moment so far; where gradients exceed it, a tensor steps less.

    A tensor's step is divided by `max(1, RMS(gradient / sqrt(second moment)))`, so that moments which lag behind a
    sudden gradient do not make a leap of it.
    """
    adam = optax.scale_by_amsgrad(eps=_EPSILON)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step, after = adam.update(updates, state, params)

        def calmed(step: jax.Array, gradient: jax.Array, largest: jax.Array) -> jax.Array:
            relative = gradient / (jnp.sqrt(largest) + _EPSILON)
            return step / jnp.maximum(1.0, jnp.sqrt(jnp.mean(relative**2)))

        largest: Any = after
        return jax.tree.map(calmed, step, updates, largest.nu_max), after

    return optax.GradientTransformation(adam.init, update)


STABLE_ADAMW = optax.chain(optax.clip_by_global_norm(0.1), _scale_by_stable_amsgrad(), optax.add_decayed_weights(1e-4))
"""With the published code's gradient clipping and decoupled weight decay."""
