"""Layers of decoders that look at a sample's own prototypes: MLPs, attention, and the prototypes themselves.

`n` patches, `k` prototypes or other rows, `c` channels of one sample.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import losses

Norm = functools.partial(nn.LayerNorm, epsilon=1e-6)


class MLP(nn.Module):
    """Two layers with GELU between.

    Attributes:
      ratio: width of the hidden layer in units of the output's.
      channels: of the output, 0 for those of the input.
      zero: whether the last layer starts at zero.
    """

    ratio: float
    channels: int = 0
    zero: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*rows c"]) -> Float[Array, "*rows d"]:
        """Returns the output."""
        channels = self.channels or x.shape[-1]
        hidden = nn.gelu(nn.Dense(round(self.ratio * channels))(x))
        last = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        return nn.Dense(channels, kernel_init=last)(hidden)


class Attention(nn.Module):
    """Multi-head attention from rows to others.

    Attributes:
      heads: they divide the channels.
      form: "softmax", or "relu": cosines in units of a learned scale, cut at zero, as INP-Former's decoder has them.
    """

    heads: int
    form: str

    @nn.compact
    def __call__(
        self, x: Float[Array, "n c"], other: Float[Array, "k c"], mask: Bool[Array, " k"] | None = None
    ) -> Float[Array, "n c"]:
        """Returns what each row of `x` takes from the rows of `other` that the mask leaves."""
        channels = x.shape[-1]
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be divided among {self.heads} heads; take others by --heads")
        size = (self.heads, channels // self.heads)
        query, key, value = (
            nn.DenseGeneral(size, name=name)(of) for name, of in (("query", x), ("key", other), ("value", other))
        )
        if self.form == "relu":
            scale = self.param("scale", nn.initializers.ones, (self.heads, 1, 1))
            weights = nn.relu(scale * jnp.einsum("nhd,khd->hnk", losses.unit(query), losses.unit(key)))
            weights = weights if mask is None else jnp.where(mask, weights, 0.0)
        else:
            logits = jnp.einsum("nhd,khd->hnk", query, key) * size[1] ** -0.5
            weights = jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, -jnp.inf), axis=-1)
        return nn.DenseGeneral(channels, axis=(-2, -1), name="out")(jnp.einsum("hnk,khd->nhd", weights, value))


class Prototypes(nn.Module):
    """Prototypes of a sample: learned queries ask its patches, one attention and one FFN.

    Attributes:
      count: of prototypes.
      heads: of the attention; they divide the channels.
      mlp_ratio: hidden width of the FFN in units of the channels.
    """

    count: int
    heads: int
    mlp_ratio: float

    @nn.compact
    def __call__(self, x: Float[Array, "n c"], mask: Bool[Array, " n"]) -> Float[Array, "k c"]:
        """Returns the prototypes; patches off the part give nothing."""
        norm = Norm(name="norm")
        p = self.param("queries", nn.initializers.normal(1.0), (self.count, x.shape[-1]))
        p = p + Attention(self.heads, "softmax")(norm(p), norm(x), mask)
        return p + MLP(self.mlp_ratio)(Norm()(p))


def pair_groups(outputs: Sequence[Float[Array, "*m n c"]], groups: int) -> Float[Array, "g *m n c"]:
    """Means of groups of a decoder's blocks, one for each layer group: the last blocks rebuild the first layers.

    Raises:
      ValueError: if the blocks cannot be divided among the groups.
    """
    if len(outputs) % groups:
        raise ValueError(f"{len(outputs)} blocks cannot be divided among {groups} layer groups")
    return jnp.stack(outputs[::-1]).reshape(groups, -1, *outputs[0].shape).mean(axis=1)
