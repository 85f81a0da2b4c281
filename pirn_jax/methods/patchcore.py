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

from pirn_jax.methods import losses, nearest, statistics
from pirn_jax.methods.base import Entry, Features, Method, Params, Preset, our_choice

DISTANCES = ("cosine", "euclidean")
BANKS = ("each", "joint", "all")


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of PatchCore; "our choice" marks where frozen transformer features ask for another value.

    Attributes:
      banks: "each", one a modality; "joint", one of patches with the features of both side by side, which sees what is
        normal in each and not together; "all" of these (our choice; paper: of images alone).
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

    banks: str = our_choice("all")
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
    patch: Float[Array, "m c"], bank: Float[Array, "m N c"], counted: Bool[Array, " N"], neighbours: int
) -> Float[Array, ""]:
    """Weight of the image score (Eq. 7), `1 - exp|m - m*| / sum_b exp|m - m_b|`.

    Args:
      patch: the patch `m` that is farthest from the bank, in the modalities that its map looks at; `m*` is the row
        nearest to it.
      bank: the bank.
      counted: its rows that count.
      neighbours: b rows nearest to `m*`, itself among them.
    """
    rest = counted[None], nearest.together(len(patch))
    _, closest = nearest.nearest_rows(patch[:, None], bank, *rest, 1)
    squared, around = nearest.nearest_rows(bank[:, closest[0, 0]], bank, *rest, neighbours)
    apart = jnp.sqrt(jnp.mean(jnp.sum((bank[:, around[0, 0]] - patch[:, None]) ** 2, axis=-1), axis=0))
    share = jax.nn.softmax(jnp.where(jnp.isfinite(squared[0, 0]), apart, -jnp.inf))
    return 1.0 - share[0]


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """PatchCore with a config; layer groups are concatenated along channels.

    params are `banks` (m, N, c), and for each map `counted` (k, N) the rows that count, `origins` (k, N) the sample
    that each is from, and `reach` (k, N) with `config.reach`.
    """
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    single, joint = nearest.each(len(modalities)), nearest.together(len(modalities))
    maps = {"each": single, "joint": joint, "all": single + joint}[config.banks] if len(modalities) > 1 else single
    names = tuple(modalities[of[0]] if len(of) < len(modalities) else "joint" for of in maps)

    def flatten(features: Features) -> Float[Array, "*batch m n gc"]:
        return losses.side_by_side(features.values.astype(jnp.float32))

    def describe(fixed: Params, features: Features) -> Float[Array, "*batch m n gc"]:
        x = flatten(features)
        if config.standardise:
            x = (x - fixed["mean"][:, None]) / fixed["deviation"][:, None]
        return losses.unit(x) if config.distance == "cosine" else x

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        del key
        if not config.standardise:
            return {}, {}
        mean, deviation = statistics.moments(flatten(support), support.mask)
        return {}, {"mean": mean, "deviation": deviation}

    def thin(rows: Float[Array, "m N c"], mask: Bool[Array, " N"]) -> tuple[Int[Array, "m r"], Bool[Array, "k r"]]:
        """Coreset of each modality's bank; one of both side by side where a map looks at both."""
        if maps == single:
            return jax.vmap(lambda one: greedy_coreset(one, mask, config.coreset))(rows)
        side_by_side = jnp.moveaxis(rows, 0, 1).reshape(mask.size, -1)
        chosen, due = greedy_coreset(side_by_side, mask, config.coreset)
        return jnp.tile(chosen, (len(rows), 1)), jnp.tile(due, (len(maps), 1))

    def finalize(learned: Params, fixed: Params, support: Features) -> Params:
        del learned
        of_rows = nearest.remember(describe(fixed, support), support.mask, maps)
        rows = of_rows.pop("bank")
        if not config.reach:
            del of_rows["reach"]
        if config.coreset == 1:
            return {"banks": rows, **of_rows, **fixed}
        chosen, due = thin(rows, support.mask.ravel())
        of_map = jnp.stack([chosen[seen[0]] for seen in maps])
        of_rows = {name: jnp.take_along_axis(values, of_map, 1) for name, values in of_rows.items()}
        return {"banks": jnp.take_along_axis(rows, chosen[..., None], 1), **of_rows, "counted": due, **fixed}

    def score(params: Params, features: Features) -> Float[Array, "k n"]:
        x, bank, counted = describe(params, features), params["banks"], params["counted"]
        if config.neighbours > bank.shape[1]:
            raise ValueError(f"neighbours={config.neighbours} exceeds the {bank.shape[1]} rows of a bank")
        if config.neighbours == 1:
            squared = nearest.nearest_row(x, bank, counted, maps, params.get("reach"))[..., None]
        else:
            squared, _ = nearest.nearest_rows(x, bank, counted, maps, config.neighbours, params.get("reach"))
        # Of unit vectors half the squared distance is 1 - cos.
        apart = squared / 2 if config.distance == "cosine" else jnp.sqrt(squared)
        distances = jnp.mean(apart, axis=-1, where=jnp.isfinite(apart))
        if not config.reweight:
            return distances
        worst = jnp.argmax(jnp.where(features.mask, distances, -jnp.inf), axis=-1)
        weights = [
            score_weight(x[jnp.array(seen), worst[i]], bank[jnp.array(seen)], counted[i], config.reweight)
            for i, seen in enumerate(maps)
        ]
        return distances * jnp.stack(weights)[:, None]

    return Method(names, init, score, finalize=finalize, forget=nearest.forget)


PRESETS = {
    "default": Preset(Config()),
    # A tenth of the patches, Euclidean distances, Eq. 7. The paper's network is a WideResNet-50, whose features of two
    # layers it pools over 3x3 patches; here features are those of --encoder.
    "paper": Preset(Config(banks="each", coreset=0.1, distance="euclidean", reach=False, reweight=9)),
    # AnomalyDINO (Damm et al., WACV 2025) on both modalities.
    "anomaly_dino": Preset(
        Config(banks="each", reach=False),
        None,
        {
            "encoder": "dinov2_vits14",
            "blocks": "12",
            "input_size": 448,
            "grid": 32,
            "background": "ignore",
            "augmentation": "rotations",
            "fusion": "sum",
            "image_score": "0.01",
        },
    ),
}

ENTRY = Entry(Config, PRESETS, build)
