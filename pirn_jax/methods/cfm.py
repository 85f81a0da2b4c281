"""CFM: patches of each modality are predicted from the other's (Costanzino et al., CVPR 2024).

`n` patches, `c` channels, `s` samples; modalities come first, RGB before geometry.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import base, losses, statistics
from pirn_jax.methods.base import Entry, Features, Method, Params, Preset, Recipe, published_rows

FUSIONS = ("product", "sum")
_PYTORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Deviation of PyTorch's linear layers, which the published code leaves as they are."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of CFM.

    Attributes:
      hidden: width of the mappers' two hidden layers, 0 for that of the features (code: the mean of both encoders'
        widths, 960).
      combine: "product" of both modalities' distances as in the paper, or their "sum", which a defect in one modality
        alone can raise.
    """

    hidden: int = 0
    combine: str = "product"

    def __post_init__(self):
        check(self)


def check(config: Any) -> None:
    """Raises ValueError if `hidden` or `combine` of a config cannot be."""
    if config.hidden < 0:
        raise ValueError(f"hidden must be 0 or a number of channels, not {config.hidden}")
    if config.combine not in FUSIONS:
        raise ValueError(f"unknown combine {config.combine!r}; choose one of {', '.join(FUSIONS)}")


class Mapper(nn.Module):
    """From patches of one modality to those of the other, patch by patch.

    Attributes:
      hidden: width of the hidden layers, 0 for that of the input.
      gated: one layer whose one half gates the other by GELU; else two layers with GELU between.
    """

    hidden: int
    gated: bool

    @nn.compact
    def __call__(self, x: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """Returns predicted patches."""
        dense, width = functools.partial(nn.Dense, kernel_init=_PYTORCH), self.hidden or x.shape[-1]
        gelu, out = functools.partial(nn.gelu, approximate=False), dense(x.shape[-1], name="out")
        if self.gated:
            gate, value = jnp.split(dense(2 * width, name="gate")(x), 2, axis=-1)
            return out(gelu(gate) * value)
        return out(gelu(dense(width, name="second")(gelu(dense(width, name="first")(x)))))


def mappers(hidden: int, gated: bool) -> nn.Module:
    """Both directions, (2, n, c) to (2, n, c): what comes first is predicted from RGB."""
    both = nn.vmap(Mapper, variable_axes={"params": 0}, split_rngs={"params": True})
    return both(hidden, gated)


def predict(module: nn.Module, learned: Params, x: Float[Array, "2 n c"]) -> Float[Array, "2 n c"]:
    """Patches of each modality as predicted from the other."""
    found: Any = module.apply({"params": learned}, x)
    return found[::-1]


def scales(support: Features) -> Float[Array, "2"]:
    """Root mean square of each modality's channels over the good parts."""
    return statistics.root_mean_square(jnp.mean(support.values.astype(jnp.float32), axis=-3), support.mask)


def tokens(features: Features, scale: Float[Array, "2"]) -> Float[Array, "*batch 2 n c"]:
    """Mean of the layer groups in units of `scales`."""
    return jnp.mean(features.values.astype(jnp.float32), axis=-3) / scale[:, None, None]


def disagreement(found: Float[Array, "m n c"], x: Float[Array, "m n c"], mask: Bool[Array, " n"]) -> Float[Array, " m"]:
    """`1 - cos` of prediction and patch, its mean over the part, for each modality; no gradient reaches the patches."""
    return statistics.mean(losses.cosine_distance(losses.products(x, found)), mask)


def combined(found: Float[Array, "2 n c"], x: Float[Array, "2 n c"], combine: str) -> Float[Array, "1 n"]:
    """Euclidean distances of unit vectors in both modalities, multiplied or added."""
    apart = jnp.sqrt(jnp.maximum(2.0 * losses.cosine_distance(losses.products(x, found)), 1e-12))
    return jnp.prod(apart, axis=0, keepdims=True) if combine == "product" else jnp.sum(apart, axis=0, keepdims=True)


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """CFM with a config; `learned` are both mappers' weights, `fixed` is `{"scale": (2,)}`.

    Raises:
      ValueError: if there are not two modalities.
    """
    base.require_two("cfm predicts each of two modalities from the other", modalities)
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    module = mappers(config.hidden, gated=False)

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        scale = scales(support)
        return module.init(key, tokens(support, scale)[0])["params"], {"scale": scale}

    def loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
        del key

        def of_sample(x: Array, mask: Array) -> Float[Array, "2"]:
            return disagreement(predict(module, learned, x), x, mask)

        each = jnp.mean(jax.vmap(of_sample)(tokens(batch, fixed["scale"]), batch.mask), axis=0)
        return jnp.sum(each), {f"loss_{name}": each[i] for i, name in enumerate(modalities)}

    def score(params: Params, features: Features) -> Float[Array, "1 n"]:
        learned, fixed = params
        x = tokens(features, fixed["scale"])
        return combined(predict(module, learned, x), x, config.combine)

    return Method(("mapping",), init, score, loss)


PRESETS = {
    "default": Preset(Config(), Recipe(epochs=40, learning_rate=1e-3, batch_size=1)),
    # The published code: Adam at its defaults, 50 epochs in batches of 4, maps divided by their means.
    "paper": Preset(Config(), Recipe(epochs=50, learning_rate=1e-3, batch_size=4), {"normalisation": "means"}),
}

PUBLISHED = published_rows(
    "PIRN paper, Table 1",
    {
        "mvtec3d": {"5": (0.811, 0.949), "10": (0.845, 0.954), "50": (0.906, 0.965)},
        "eyecandies": {"5": (0.795, 0.801), "10": (0.838, 0.825), "50": (0.852, 0.851)},
    },
)

ENTRY = Entry(Config, PRESETS, build, PUBLISHED)
