"""PatchCore: distance to the nearest patches of good parts, thinned to a coreset (Roth et al., CVPR 2022).

Each modality has a bank of its own, and its own map. `N` rows of a bank, `n` patches, `c` channels.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pirn_jax.methods import nearest
from pirn_jax.methods.base import Entry, Features, Method, Params, Preset, our_choice

DISTANCES = ("cosine", "euclidean")


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of PatchCore; "our choice" marks where frozen transformer features ask for another value.

    Attributes:
      coreset: share of the patches of the part that the bank keeps, in (0, 1]; 1 keeps all (our choice; paper: .1).
      neighbours: a patch's distance is the mean over this many nearest rows (paper: 1).
      distance: "euclidean" as in the paper, or "cosine" (our choice).
      reweight: neighbours b of the paper's image score (Eq. 7), 0 to leave it out. The whole map of a modality is
        scaled by the weight, so that its maximum is the reweighted score.
      standardise: whether channels are standardised over the patches of the good parts (our choice: no), as
        descriptors of unequal units need.
    """

    coreset: float = 1.0
    neighbours: int = 1
    distance: str = "cosine"
    reweight: int = 0
    standardise: bool = our_choice(False)

    def __post_init__(self):
        if not 0 < self.coreset <= 1:
            raise ValueError(f"coreset must be a share above 0 and up to 1, not {self.coreset}")
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {self.neighbours}")
        if self.reweight < 0 or self.reweight == 1:
            raise ValueError(f"reweight must be 0, or 2 neighbours or more, not {self.reweight}")
        if self.distance not in DISTANCES:
            raise ValueError(f"unknown distance {self.distance!r}; choose one of {', '.join(DISTANCES)}")


def greedy_coreset(
    rows: Float[Array, "N c"], mask: Bool[Array, " N"], share: float
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Greedy k-centre coreset (Algorithm 1): each next row is the one farthest from those chosen.

    The paper starts at a random row, here the first one is the farthest from the mean, so that a run has one bank.

    Args:
      rows: candidates.
      mask: which of them count, at least one.
      share: of the rows that count to choose, rounded up.

    Returns:
      `ceil(share * N)` indices in the order of choice, and which of them are due: a share of the rows that count.
    """
    count = math.ceil(share * len(rows))
    due = jnp.arange(count) < share * jnp.sum(mask)
    mean = jnp.sum(jnp.where(mask[:, None], rows, 0.0), axis=0) / jnp.sum(mask)

    def choose(i, state):
        least, chosen = state
        farthest = jnp.argmax(least)
        apart = jnp.where(mask, jnp.sum((rows - rows[farthest]) ** 2, axis=-1), -jnp.inf)
        # The mean is no row: its distances count for the first choice alone.
        return jnp.where(i == 0, apart, jnp.minimum(least, apart)), chosen.at[i].set(farthest)

    least = jnp.where(mask, jnp.sum((rows - mean) ** 2, axis=-1), -jnp.inf)
    _, chosen = jax.lax.fori_loop(0, count, choose, (least, jnp.zeros(count, jnp.int32)))
    return chosen, due


def score_weight(
    patch: Float[Array, " c"], bank: Float[Array, "N c"], mask: Bool[Array, " N"], neighbours: int
) -> Float[Array, ""]:
    """Weight of the image score (Eq. 7), `1 - exp|m - m*| / sum_b exp|m - m_b|`.

    Args:
      patch: the patch `m` that is farthest from the bank; `m*` is the row nearest to it.
      bank: the bank.
      mask: its rows that count.
      neighbours: b rows nearest to `m*`, itself among them.
    """
    _, closest = nearest.nearest_rows(patch[None], bank, mask, 1)
    squared, around = nearest.nearest_rows(bank[closest[0]], bank, mask, neighbours)
    apart = jnp.sqrt(nearest.squared_distances(patch[None], bank[around[0]]))[0]
    share = jax.nn.softmax(jnp.where(jnp.isfinite(squared[0]), apart, -jnp.inf))
    return 1.0 - share[0]


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """PatchCore with a config; params are one bank a modality, layer groups are concatenated along channels.

    `banks` (m, N, c), `counted` (m, N) the rows that count, `origins` (m, N) the sample that each row is from.
    """
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    def flatten(features: Features) -> Float[Array, "*batch m n gc"]:
        values = jnp.moveaxis(features.values.astype(jnp.float32), -3, -2)
        return values.reshape(*values.shape[:-2], -1)

    def describe(fixed: Params, features: Features) -> Float[Array, "*batch m n gc"]:
        x = flatten(features)
        if config.standardise:
            x = (x - fixed["mean"][:, None]) / fixed["deviation"][:, None]
        if config.distance == "cosine":
            x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
        return x

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        del key
        if not config.standardise:
            return {}, {}
        x = flatten(support)
        weight = jnp.broadcast_to(support.mask[:, None, :, None], x.shape)
        mean = jnp.mean(x, axis=(0, 2), where=weight)
        deviation = jnp.std(x, axis=(0, 2), where=weight) + 1e-6
        return {}, {"mean": mean, "deviation": deviation}

    def finalize(learned: Params, fixed: Params, support: Features) -> Params:
        del learned
        rows, mask = jnp.moveaxis(describe(fixed, support), -3, 0), support.mask.ravel()
        rows = rows.reshape(len(rows), -1, rows.shape[-1])
        samples, patches = support.mask.shape
        origins = jnp.broadcast_to(jnp.repeat(jnp.arange(samples), patches), rows.shape[:2])
        if config.coreset == 1:
            counted = jnp.broadcast_to(mask, rows.shape[:2])
            return {"banks": rows, "counted": counted, "origins": origins, **fixed}
        chosen, due = jax.vmap(lambda one: greedy_coreset(one, mask, config.coreset))(rows)
        banks, origins = jnp.take_along_axis(rows, chosen[..., None], 1), jnp.take_along_axis(origins, chosen, 1)
        return {"banks": banks, "counted": due, "origins": origins, **fixed}

    def score(params: Params, features: Features) -> Float[Array, "m n"]:
        x = describe(params, features)
        if config.neighbours > params["banks"].shape[1]:
            raise ValueError(f"neighbours={config.neighbours} exceeds the {params['banks'].shape[1]} rows of a bank")

        def of_modality(patches, bank, counted):
            if config.neighbours == 1:
                squared = nearest.nearest_row(patches, bank, counted)[:, None]
            else:
                squared, _ = nearest.nearest_rows(patches, bank, counted, config.neighbours)
            # Of unit vectors half the squared distance is 1 - cos.
            apart = squared / 2 if config.distance == "cosine" else jnp.sqrt(squared)
            distances = jnp.mean(apart, axis=1, where=jnp.isfinite(apart))
            if not config.reweight:
                return distances
            worst = jnp.argmax(jnp.where(features.mask, distances, -jnp.inf))
            return distances * score_weight(patches[worst], bank, counted, config.reweight)

        return jax.vmap(of_modality)(x, params["banks"], params["counted"])

    return Method(modalities, init, score, finalize=finalize, forget=nearest.forget)


PRESETS = {
    "default": Preset(Config()),
    # A tenth of the patches, Euclidean distances; Eq. 7. The paper's network is a WideResNet-50, whose features of two
    # layers it pools over 3x3 patches; here features are those of --encoder.
    "paper": Preset(Config(coreset=0.1, distance="euclidean", reweight=9)),
}

ENTRY = Entry(Config, PRESETS, build)
