"""INP-Former's network and losses. `g` layer groups, `n` patches, `k` prototypes, `c` channels of one modality."""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import losses, residuals, statistics
from pirn_jax.methods.attention import MLP, Attention, Norm, Prototypes, pair_groups
from pirn_jax.methods.base import Features, Method, Params, our_choice
from pirn_jax.methods.inp_former.optimizer import STABLE_ADAMW


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of INP-Former; "our choice" marks where the published code has another value.

    Attributes:
      num_prototypes: prototypes of each modality (code: 6).
      num_blocks: blocks of a decoder (our choice, for CPUs: 2; code: 8).
      heads: heads of all attentions (our choice; code: 12); they divide the channels.
      mlp_ratio: hidden width of the MLPs in units of the channels (our choice, for CPUs: 1; code: 4).
      gather_weight: weight of the gather loss (code: .2).
      mining_exponent: exponent of the soft mining loss (code: 3).
      score: distance of a patch, "cosine" as in the code; or what is left of it beside what is left of good parts:
        "nearest" (our choice), "gaussian" or "both", see `residuals.compare`.
    """

    num_prototypes: int = 6
    num_blocks: int = our_choice(2)
    heads: int = our_choice(4)
    mlp_ratio: float = our_choice(1.0)
    gather_weight: float = 0.2
    mining_exponent: float = 3.0
    score: str = our_choice("nearest")

    def __post_init__(self):
        for name in ("num_prototypes", "num_blocks", "heads", "mlp_ratio"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("gather_weight", "mining_exponent"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")
        if self.score not in residuals.SCORES:
            raise ValueError(f"unknown score {self.score!r}; choose one of {', '.join(residuals.SCORES)}")


class Network(nn.Module):
    """The stream of one modality: prototypes of the sample, a bottleneck, and blocks that see the prototypes alone.

    A block's attention has no residual: nothing of a patch passes the prototypes by.
    """

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "g n c"], mask: Bool[Array, " n"]
    ) -> tuple[Float[Array, "g n c"], Float[Array, "k c"]]:
        """Returns the rebuilt maps of each layer group, and the prototypes."""
        config, mean = self.config, jnp.mean(x, axis=0)
        p = Prototypes(config.num_prototypes, config.heads, config.mlp_ratio, name="prototypes")(mean, mask)
        decoded, outputs = MLP(config.mlp_ratio, name="bottleneck")(mean), []
        for number in range(config.num_blocks):
            attention = Attention(config.heads, "relu", name=f"attention_{number}")
            found = attention(Norm(name=f"norm_{number}")(decoded), Norm(name=f"norm_of_prototypes_{number}")(p))
            decoded = found + MLP(config.mlp_ratio, name=f"mlp_{number}")(Norm(name=f"norm_of_mlp_{number}")(found))
            outputs.append(decoded)
        return pair_groups(outputs, len(x)), p


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """INP-Former with a config: a stream each for one or more modalities, which share nothing; losses are added.

    `learned` are the streams' weights, `fixed` is `{"scale": (m,)}`, as in PIRN.
    """
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    axes: Any = (0, None)
    streams = nn.vmap(Network, in_axes=axes, variable_axes={"params": 0}, split_rngs={"params": True})(config)

    def scaled(features: Features, fixed: Params) -> Float[Array, "*batch m g n c"]:
        return statistics.in_units(features.values, fixed["scale"])

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        fixed = {"scale": statistics.root_mean_square(support.values.astype(jnp.float32), support.mask)}
        return streams.init(key, scaled(support, fixed)[0], support.mask[0])["params"], fixed

    def rebuild(learned: Params, fixed: Params, features: Features) -> tuple[Float[Array, "m g n c"], Array, Array]:
        """Maps, rebuilt maps and prototypes."""
        x = scaled(features, fixed)
        found: Any = streams.apply({"params": learned}, x, features.mask)
        return x, *found

    def loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
        del key

        def of_sample(features: Features) -> tuple[losses.Products, Float[Array, " m"]]:
            x, rebuilt, p = rebuild(learned, fixed, features)
            tied = jax.vmap(lambda of, own: losses.gather(of[None], own, features.mask))
            return losses.products(x, rebuilt), tied(jnp.mean(x, axis=1), p)

        compared, gathered = jax.vmap(of_sample)(batch)
        mined = functools.partial(losses.soft_mining, exponent=config.mining_exponent)
        of_groups = jax.vmap(jax.vmap(mined, in_axes=(1, None)), in_axes=(1, None))(compared, batch.mask)
        each, tie = jnp.mean(of_groups, axis=1), jnp.mean(gathered, axis=0)
        told = {f"loss_{name}": each[i] for i, name in enumerate(modalities)}
        told |= {f"gather_{name}": tie[i] for i, name in enumerate(modalities)}
        return jnp.sum(each + config.gather_weight * tie), told

    def score(params: Params, features: Features) -> Float[Array, "m n"]:
        learned, fixed = params
        x, rebuilt, _ = rebuild(learned, fixed, features)
        return jnp.mean(losses.cosine_distance(losses.products(x, rebuilt)), axis=1)

    def leave(learned: Params, fixed: Params, features: Features) -> Float[Array, "m n gc"]:
        x, rebuilt, _ = rebuild(learned, fixed, features)
        return losses.residuals(x, rebuilt)

    found = Method(modalities, init, score, loss, optimizer=STABLE_ADAMW)
    return residuals.scored(found, leave, config.score)
