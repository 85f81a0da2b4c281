"""Adaptive Prototype Refinement: prototypes follow the normal context of a sample (Sec. 3.3; appendix, Eqs. 5-8)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods.pirn import bpa
from pirn_jax.methods.pirn.patches import Patches
from pirn_jax.methods.pirn.precision import product

CONTEXTS = ("transport", "mean", "nearest")


def gru(weights: Mapping[str, Array], p: Float[Array, "k c"], context: Float[Array, "k c"]) -> Float[Array, "k c"]:
    """Gated update of prototypes by their contexts (appendix, Eqs. 5-8).

        u  = sigmoid([p; c] W_u + b_u)         r  = sigmoid([p; c] W_r + b_r)
        p~ = tanh([r * p; c] W + b)            p' = u * p + (1 - u) * p~

    The reset gate acts before the matrix product and `u` keeps the old prototype, as the appendix writes it;
    `flax.linen.GRUCell` resets after the product.

    Args:
      weights: `update`, `reset`, `candidate` of shape (2c, c), each with a `_bias` of shape (c,).
      p: prototypes, the hidden state.
      context: one context vector a prototype, the input.
    """
    joined = jnp.concatenate([p, context], axis=-1)
    update = jax.nn.sigmoid(product(joined, weights["update"]) + weights["update_bias"])
    reset = jax.nn.sigmoid(product(joined, weights["reset"]) + weights["reset_bias"])
    renewed = jnp.concatenate([reset * p, context], axis=-1)
    candidate = jnp.tanh(product(renewed, weights["candidate"]) + weights["candidate_bias"])
    return update * p + (1.0 - update) * candidate


class Refinement(nn.Module):
    """Transport, contexts and gated update of one modality's prototypes (Algorithm 1, lines 8-10).

    Attributes:
      contexts: patches that make a prototype's context: by "transport" (Eq. 3), or as the paper's Table 4 compares, the
        "mean" of all or of the "nearest".
      nearest: how many of these.
      iterations: Sinkhorn iterations.
      log_domain: how they are done, see `bpa.transport_plan`.
    """

    contexts: str
    nearest: int
    iterations: int
    log_domain: bool

    @nn.compact
    def __call__(
        self, z: Patches, p: Float[Array, "k c"], mask: Bool[Array, " n"], epsilon: bpa.Epsilon
    ) -> Float[Array, "k c"]:
        """Returns the refined prototypes; `epsilon` is the entropy of the transport plan."""
        channels = p.shape[-1]
        weights = {}
        for name in ("update", "reset", "candidate"):
            weights[name] = self.param(name, nn.initializers.lecun_normal(), (2 * channels, channels))
            weights[f"{name}_bias"] = self.param(f"{name}_bias", nn.initializers.zeros, (channels,))
        if self.contexts == "mean":
            plan = bpa.mean_plan(mask, len(p))
        elif self.contexts == "nearest":
            plan = bpa.nearest_plan(bpa.cosine_cost(z, p), mask, self.nearest)
        else:
            plan = bpa.transport_plan(bpa.cosine_cost(z, p), mask, epsilon, self.iterations, self.log_domain)
            self.sow("diagnostics", "column_error", bpa.column_error(plan))
        return gru(weights, p, bpa.contexts(plan, z))
