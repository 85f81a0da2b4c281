"""PatchCore: distance to the nearest patches of good parts, thinned to a coreset (Roth et al., CVPR 2022).

Each modality has a bank of its own and its own map; a further one may hold the patches of both, side by side.
`N` rows of a bank, `n` patches, `c` channels.
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
BANKS = ("each", "joint", "all")


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of PatchCore; "our choice" marks where frozen transformer features ask for another value.

    Attributes:
      banks: "each", one a modality; "joint", one of patches with the features of both side by side, which sees what is
        normal in each and not together; "all" of these.
      coreset: share of the patches of the part that the bank keeps, in (0, 1]; 1 keeps all (our choice; paper: .1).
      neighbours: a patch's distance is the mean over this many nearest rows (paper: 1).
      distance: "euclidean" as in the paper, or "cosine" (our choice).
      reach: whether squared distances to a row are divided by its reach, how far the other good parts lie from it, see
        `nearest.reaches` (our choice; paper: no).
      reweight: neighbours b of the paper's image score (Eq. 7), 0 to leave it out. The whole map of a modality is
        scaled by the weight, so that its maximum is the reweighted score.
      standardise: whether channels are standardised over the patches of the good parts (our choice: no), as
        descriptors of unequal units need.
    """

    banks: str = "each"
    coreset: float = 1.0
    neighbours: int = 1
    distance: str = "cosine"
    reach: bool = our_choice(True)
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
        if self.banks not in BANKS:
            raise ValueError(f"unknown banks {self.banks!r}; choose one of {', '.join(BANKS)}")


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
    """PatchCore with a config; params are one bank a map, layer groups are concatenated along channels.

    A joint bank holds twice as many channels; the others' are padded with zeros, which changes no distance. `banks`
    (k, N, c), `counted` (k, N) the rows that count, `origins` (k, N) the sample that each row is from, and `reach`
    (k, N) with `config.reach`.
    """
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    def flatten(features: Features) -> Float[Array, "*batch m n gc"]:
        values = jnp.moveaxis(features.values.astype(jnp.float32), -3, -2)
        return values.reshape(*values.shape[:-2], -1)

    def describe(fixed: Params, features: Features) -> Float[Array, "*batch k n gc"]:
        x = flatten(features)
        if config.standardise:
            x = (x - fixed["mean"][:, None]) / fixed["deviation"][:, None]
        if config.distance == "cosine":
            x = x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-12))
        if config.banks == "each":
            return x
        joint = jnp.moveaxis(x, -3, -2).reshape(*x.shape[:-3], 1, x.shape[-2], -1)
        # Of unit vectors side by side the squared distance is the sum of both; halved, it is their mean.
        joint = joint / len(modalities) ** 0.5
        padded = jnp.pad(x, [*[(0, 0)] * (x.ndim - 1), (0, joint.shape[-1] - x.shape[-1])])
        return joint if config.banks == "joint" else jnp.concatenate([padded, joint], axis=-3)

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
        of_samples, mask = jnp.moveaxis(describe(fixed, support), -3, 0), support.mask.ravel()
        rows = of_samples.reshape(len(of_samples), mask.size, -1)
        samples, patches = support.mask.shape
        bank = {"origins": jnp.broadcast_to(jnp.repeat(jnp.arange(samples), patches), rows.shape[:2])}
        if config.reach:
            bank["reach"] = jax.vmap(nearest.reaches, (0, None))(of_samples, support.mask)
        if config.coreset == 1:
            return {"banks": rows, "counted": jnp.broadcast_to(mask, rows.shape[:2]), **bank, **fixed}
        chosen, due = jax.vmap(lambda one: greedy_coreset(one, mask, config.coreset))(rows)
        bank = {name: jnp.take_along_axis(values, chosen, 1) for name, values in bank.items()}
        return {"banks": jnp.take_along_axis(rows, chosen[..., None], 1), "counted": due, **bank, **fixed}

    def score(params: Params, features: Features) -> Float[Array, "k n"]:
        x = describe(params, features)
        if config.neighbours > params["banks"].shape[1]:
            raise ValueError(f"neighbours={config.neighbours} exceeds the {params['banks'].shape[1]} rows of a bank")

        def of_modality(patches, bank, counted, reach):
            if config.neighbours == 1:
                squared = nearest.nearest_row(patches, bank, counted, reach)[:, None]
            else:
                squared, _ = nearest.nearest_rows(patches, bank, counted, config.neighbours, reach)
            # Of unit vectors half the squared distance is 1 - cos.
            apart = squared / 2 if config.distance == "cosine" else jnp.sqrt(squared)
            distances = jnp.mean(apart, axis=1, where=jnp.isfinite(apart))
            if not config.reweight:
                return distances
            worst = jnp.argmax(jnp.where(features.mask, distances, -jnp.inf))
            return distances * score_weight(patches[worst], bank, counted, config.reweight)

        return jax.vmap(of_modality)(x, params["banks"], params["counted"], params.get("reach"))

    maps = {"each": modalities, "joint": ("joint",), "all": (*modalities, "joint")}[config.banks]
    return Method(maps, init, score, finalize=finalize, forget=nearest.forget)


PRESETS = {
    "default": Preset(Config()),
    # A tenth of the patches, Euclidean distances, Eq. 7. The paper's network is a WideResNet-50, whose features of two
    # layers it pools over 3x3 patches; here features are those of --encoder.
    "paper": Preset(Config(coreset=0.1, distance="euclidean", reach=False, reweight=9)),
}

ENTRY = Entry(Config, PRESETS, build)
