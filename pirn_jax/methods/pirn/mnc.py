"""Multi-modal Normality Communication: prototypes of both modalities inform each other (Sec. 3.4, Eqs. 4-5)."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
from jaxtyping import Array, Float, Int

from pirn_jax.methods import losses
from pirn_jax.methods.pirn import patches
from pirn_jax.methods.pirn.patches import Factored, Patches
from pirn_jax.methods.pirn.precision import product

INJECTIONS = ("query_only", "paper", "stop_gradient", "bottleneck", "dropout")

_DROPOUT = 0.5
"""Share of the patches whose term of Eq. 5 is left out in training with "dropout" (our choice)."""


def cross_modal_edges(
    p: Float[Array, "2 k c"], neighbours: int, self_edges: bool = True
) -> tuple[Int[Array, " e"], Int[Array, " e"]]:
    """Edges of the prototype graph, from the nearest nodes of the other modality to each node, and from itself.

    Nearest in cosine, that is by distance between L2-normalised prototypes. Nodes 0 to k-1 are the first modality,
    k to 2k-1 the second.

    Args:
      p: prototypes of both modalities.
      neighbours: incoming edges of each node from the other modality, between 1 and k.
      self_edges: whether each node is its own neighbour too.

    Returns:
      Senders and receivers, `e = 2 k (neighbours + self_edges)`.

    Raises:
      ValueError: if there are fewer prototypes than neighbours.
    """
    k = p.shape[1]
    if not 1 <= neighbours <= k:
        raise ValueError(f"{neighbours} neighbours asked for, but each modality has {k} prototypes")
    similarity = jax.lax.stop_gradient(losses.cosines(p[0], p[1]))
    to_first = jax.lax.top_k(similarity, neighbours)[1] + k
    to_second = jax.lax.top_k(similarity.T, neighbours)[1]
    nodes = jnp.arange(2 * k)
    senders = jnp.concatenate([to_first.ravel(), to_second.ravel()])
    receivers = jnp.repeat(nodes, neighbours)
    if self_edges:
        return jnp.concatenate([senders, nodes]), jnp.concatenate([receivers, nodes])
    return senders, receivers


def graph_attention(
    weights: Mapping[str, Array],
    nodes: Float[Array, "m c"],
    senders: Int[Array, " e"],
    receivers: Int[Array, " e"],
) -> Float[Array, "m c"]:
    """One multi-head graph attention layer (Velickovic et al., 2018, Eqs. 1-5), by jraph.

    Heads are concatenated, so each has c / heads channels; leaky ReLU slope 0.2 in the logits and ELU on the result
    are that paper's.

    Args:
      weights: `kernel` (c, c); `sender` and `receiver` (heads, c / heads), the two halves of its vector `a`.
      nodes: node features.
      senders: where each edge starts.
      receivers: where each edge ends; every node needs at least one incoming edge.
    """
    count, channels = nodes.shape
    heads = weights["sender"].shape[0]

    def query(x):
        return product(x, weights["kernel"]).reshape(count, heads, channels // heads)

    def logit(sent, received, edges):
        del edges
        score = (sent * weights["sender"]).sum(-1) + (received * weights["receiver"]).sum(-1)
        return jax.nn.leaky_relu(score, 0.2)[..., None]

    def merge(x):
        return jax.nn.elu(x).reshape(count, channels)

    graph = jraph.GraphsTuple(
        nodes=nodes,
        edges=None,
        senders=senders,
        receivers=receivers,
        globals=None,
        n_node=jnp.array([count]),
        n_edge=jnp.array([senders.shape[0]]),
    )
    return jnp.asarray(jraph.GAT(query, logit, merge)(graph).nodes)


def cross_attention(weights: Mapping[str, Array], z: Float[Array, "n c"], p: Float[Array, "k c"]) -> Factored:
    """Patches of one modality attend to the prototypes of the other (Eq. 4).

    Args:
      weights: `query`, `key`, `value` of shape (c, c).
      z: purified patches, the queries.
      p: aligned prototypes of the other modality, keys and values.
    """
    # (z Q)(p K)^T = z (p K Q^T)^T: with k << n, projecting the prototypes twice saves the n c^2 product of the queries.
    keys = product(product(p, weights["key"]), weights["query"].T)
    logits = product(z, keys.T) / jnp.sqrt(z.shape[-1]).astype(z.dtype)
    return Factored(jax.nn.softmax(logits, axis=-1), product(p, weights["value"]))


def purify(z: Patches, z_bpa: Patches) -> Float[Array, "n c"]:
    """Patches reweighted channel by channel with what the prototypes could rebuild, `Z' = Z * sigmoid(Z_bpa)`."""
    return patches.dense(z) * jax.nn.sigmoid(patches.dense(z_bpa))


class Alignment(nn.Module):
    """Stage 1: graph attention between the prototypes of both modalities (Algorithm 1, line 15).

    Attributes:
      neighbours: incoming edges of each node from the other modality.
      heads: attention heads; they divide the channels.
      residual: whether the result is added to the prototypes or replaces them (our choice: added).
      self_edges: whether each node is its own neighbour too (our choice: it is).
    """

    neighbours: int
    heads: int
    residual: bool = True
    self_edges: bool = True

    @nn.compact
    def __call__(self, p: Float[Array, "2 k c"]) -> Float[Array, "2 k c"]:
        """Returns the aligned prototypes."""
        channels = p.shape[-1]
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be divided among {self.heads} heads; take others by --heads")
        vector = (self.heads, channels // self.heads)
        weights = {
            "kernel": self.param("kernel", nn.initializers.lecun_normal(), (channels, channels)),
            "sender": self.param("sender", nn.initializers.lecun_normal(), vector),
            "receiver": self.param("receiver", nn.initializers.lecun_normal(), vector),
        }
        senders, receivers = cross_modal_edges(p, self.neighbours, self.self_edges)
        aligned = graph_attention(weights, p.reshape(-1, channels), senders, receivers).reshape(p.shape)
        return p + aligned if self.residual else aligned


class Injection(nn.Module):
    """Stage 2: gated cross-attention from one modality's patches to the other's prototypes (Eqs. 4-5).

    Eq. 5 is `Z_mnc = Z' + tanh(gamma) CA(Z', P')`. Its first term carries each patch past the prototypes, so a
    decoder can learn to copy its input, defects included. With `form="query_only"` the purified patch is the query
    and nothing else, `Z_mnc = tanh(gamma) CA(Z', P')`; `form="paper"` is Eq. 5 as printed. Between these,
    "stop_gradient" keeps the term and lets no gradient through it, so nothing learns to copy; "bottleneck" sends it
    through a linear map of as many dimensions as there are prototypes; "dropout" leaves out half of the patches' terms
    in each step of the training, so that these have to come from prototypes.

    Attributes:
      form: one of `INJECTIONS`.
      gate_init: initial gamma. Our choice: at 0 a learning rate of 1e-4 leaves the gate shut for a whole training.
    """

    form: str
    gate_init: float = 1.0

    @nn.compact
    def __call__(self, z: Patches, z_bpa: Patches, p_other: Float[Array, "k c"]) -> Patches:
        """Returns the cross-modal purified reconstruction."""
        if self.form not in INJECTIONS:
            raise ValueError(f"unknown injection {self.form!r}; choose one of {', '.join(INJECTIONS)}")
        channels = p_other.shape[-1]
        weights = {
            name: self.param(name, nn.initializers.lecun_normal(), (channels, channels))
            for name in ("query", "key", "value")
        }
        gamma = self.param("gamma", nn.initializers.constant(self.gate_init), ())
        purified = purify(z, z_bpa)
        attention, values = cross_attention(weights, purified, p_other)
        injected = Factored(attention, jnp.tanh(gamma) * values)
        if self.form == "query_only":
            return injected
        if self.form == "stop_gradient":
            purified = jax.lax.stop_gradient(purified)
        if self.form == "dropout":
            whole = not self.has_rng("dropout")
            purified = nn.Dropout(_DROPOUT, broadcast_dims=(-1,), deterministic=whole)(purified)
        if self.form == "bottleneck":
            rank = len(p_other)
            down = self.param("down", nn.initializers.lecun_normal(), (channels, rank))
            purified = Factored(
                product(purified, down), self.param("up", nn.initializers.lecun_normal(), (rank, channels))
            )
        return patches.add(purified, injected)
