"""UIP-AD's network: unified prototypes of a sample, and two decoders that they guide (Secs. 4.1 and 4.2).

`n` patches, `k` prototypes, `c` channels of one sample; modalities come first, RGB before geometry.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import losses
from pirn_jax.methods.uip_ad.config import Config

_Norm = functools.partial(nn.LayerNorm, epsilon=1e-6)


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


class Unify(nn.Module):
    """The fusion: mean of both modalities and an MLP of both side by side, which starts at zero.

    From a trained MLP alone the unified map could become constant, and prototypes would leave the encoder's space, in
    which Sec. 4.3 compares them with single modalities.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "2 n c"]) -> Float[Array, "n c"]:
        """Returns the unified map."""
        side_by_side = jnp.concatenate([x[0], x[1]], axis=-1)
        return jnp.mean(x, axis=0) + MLP(1.0, x.shape[-1], zero=True)(side_by_side)


class Prototypes(nn.Module):
    """Unified prototypes of a sample: learned queries ask its unified map, one attention and one FFN (Sec. 4.1)."""

    config: Config

    @nn.compact
    def __call__(self, unified: Float[Array, "n c"], mask: Bool[Array, " n"]) -> Float[Array, "k c"]:
        """Returns the prototypes."""
        config, norm = self.config, _Norm(name="norm")
        shape = (config.num_prototypes, unified.shape[-1])
        p = self.param("queries", nn.initializers.normal(1.0), shape)
        p = p + Attention(config.heads, "softmax")(norm(p), norm(unified), mask)
        return p + MLP(config.mlp_ratio)(_Norm()(p))


class Block(nn.Module):
    """A block of the decoder of one modality: Eqs. 4 and 5, each with its FFN."""

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "n c"], p: Float[Array, "k c"], mask: Bool[Array, " n"]
    ) -> tuple[Float[Array, "n c"], Float[Array, "k c"]]:
        """Returns patches and prototypes for the next block."""
        config = self.config
        if config.ucp:
            found = Attention(config.heads, "relu", name="to_prototypes")(_Norm()(x), _Norm()(p))
        else:
            normed = _Norm()(x)
            found = Attention(config.heads, "softmax", name="to_patches")(normed, normed, mask)
        x = x + found if config.residual else found
        if config.ucp and config.cpg:
            p = p + Attention(config.heads, "softmax", name="refine")(_Norm()(p), _Norm()(x), mask)
            p = p + MLP(config.mlp_ratio, name="of_prototypes")(_Norm()(p))
        return x + MLP(config.mlp_ratio, name="of_patches")(_Norm()(x)), p


class Network(nn.Module):
    """The whole network on features of unit root mean square.

    Both decoders refine the prototypes; the mean of both goes on to the next block, so that one set guides both.
    """

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "2 g n c"], mask: Bool[Array, " n"]
    ) -> tuple[Float[Array, "g n c"], Float[Array, "g n c"], Float[Array, "n c"], Float[Array, "k c"]]:
        """Runs it on one sample.

        Args:
          x: features of both modalities and each layer group.
          mask: patches that show the part.

        Returns:
          Unified and rebuilt maps of each layer group, the unified map of their mean, and the prototypes. Groups of
          blocks rebuild groups of layers, the last blocks the first layers.
        """
        config, groups = self.config, x.shape[1]
        unify = Unify(name="unify")
        mean = jnp.mean(x, axis=1)
        unified = unify(mean)
        p = Prototypes(config, name="prototypes")(unified, mask)
        axes: Any = (0, 0, None)
        decoder = nn.vmap(Block, in_axes=axes, variable_axes={"params": 0}, split_rngs={"params": True})
        decoded, refined, outputs = MLP(config.mlp_ratio, name="bottleneck")(mean), jnp.stack([p, p]), []
        for number in range(config.num_blocks):
            decoded, refined = decoder(config, name=f"block_{number}")(decoded, refined, mask)
            if not config.separate:
                refined = jnp.broadcast_to(jnp.mean(refined, axis=0), refined.shape)
            outputs.append(decoded)
        if len(outputs) % groups:
            raise ValueError(f"{len(outputs)} blocks cannot be divided among {groups} layer groups")
        paired = jnp.stack(outputs[::-1]).reshape(groups, -1, *decoded.shape).mean(axis=1)
        rebuilt = jnp.stack([unify(of_group) for of_group in paired])
        return jnp.stack([unify(x[:, i]) for i in range(groups)]), rebuilt, unified, p
