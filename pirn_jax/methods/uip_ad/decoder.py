"""UIP-AD's network: unified prototypes of a sample, and two decoders that they guide (Secs. 4.1 and 4.2).

`n` patches, `k` prototypes, `c` channels of one sample; modalities come first, RGB before geometry.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods.attention import MLP, Attention, Norm, Prototypes, pair_groups
from pirn_jax.methods.uip_ad.config import Config


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
            found = Attention(config.heads, "relu", name="to_prototypes")(Norm()(x), Norm()(p))
        else:
            normed = Norm()(x)
            found = Attention(config.heads, "softmax", name="to_patches")(normed, normed, mask)
        x = x + found if config.residual else found
        if config.ucp and config.cpg:
            p = p + Attention(config.heads, "softmax", name="refine")(Norm()(p), Norm()(x), mask)
            p = p + MLP(config.mlp_ratio, name="of_prototypes")(Norm()(p))
        return x + MLP(config.mlp_ratio, name="of_patches")(Norm()(x)), p


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
        p = Prototypes(config.num_prototypes, config.heads, config.mlp_ratio, name="prototypes")(unified, mask)
        axes: Any = (0, 0, None)
        decoder = nn.vmap(Block, in_axes=axes, variable_axes={"params": 0}, split_rngs={"params": True})
        decoded, refined, outputs = MLP(config.mlp_ratio, name="bottleneck")(mean), jnp.stack([p, p]), []
        for number in range(config.num_blocks):
            decoded, refined = decoder(config, name=f"block_{number}")(decoded, refined, mask)
            if not config.separate:
                refined = jnp.broadcast_to(jnp.mean(refined, axis=0), refined.shape)
            outputs.append(decoded)
        rebuilt = jnp.stack([unify(of_group) for of_group in pair_groups(outputs, groups)])
        return jnp.stack([unify(x[:, i]) for i in range(groups)]), rebuilt, unified, p
