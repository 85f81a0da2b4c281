"""Conditional Gaussian: how far each modality's patch lies from what the other one lets expect of it.

The linear form of CFM's prediction between modalities, with the covariance of what it leaves: fitted in closed form,
without a memory of patches. Rippel et al. (ICPR 2020) fit a Gaussian to frozen features of whole images; here it is
over the patches of both modalities, and each is judged given the other. No paper has it: a baseline of this package.
"""

import dataclasses
import functools

import jax.numpy as jnp
from jaxtyping import Array, Float

from pirn_jax.methods import conditional, losses
from pirn_jax.methods.base import Entry, Features, Method, Params, Preset, our_choice


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of the Gaussian.

    Attributes:
      shrinkage: share by which covariances of different channels are shrunk towards zero, from 0 to 1 (our choice).
      ridge: variance added to every channel, in units of the mean variance (our choice).
    """

    shrinkage: float = our_choice(conditional.SHRINKAGE)
    ridge: float = our_choice(conditional.RIDGE)

    def __post_init__(self):
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be a share from 0 to 1, not {self.shrinkage}")
        if not 0 < self.ridge < float("inf"):
            raise ValueError(f"ridge must be positive and finite, not {self.ridge}")


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """The Gaussian with a config, over unit vectors of patches; layer groups are concatenated along channels.

    params are those of `conditional.fit`. With a single modality it is judged by itself.
    """
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    def rows(features: Features) -> Float[Array, "*batch m n gc"]:
        return losses.unit(losses.side_by_side(features.values.astype(jnp.float32)))

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        del key, support
        return {}, {}

    def finalize(learned: Params, fixed: Params, support: Features) -> Params:
        del learned
        return {**fixed, **conditional.fit(rows(support), support.mask, config.shrinkage, config.ridge)}

    def score(params: Params, features: Features) -> Float[Array, "m n"]:
        return conditional.distances(params, rows(features))

    return Method(conditional.names(modalities), init, score, finalize=finalize)


ENTRY = Entry(Config, {"default": Preset(Config())}, build)
