"""CFR: predictions between modalities, unreliable ones replaced by what a memory of good parts holds (ICML 2026).

A surface may come in several colours, and a mapping to their mean predicts none of them. So predicted RGB patches that
are far from every good RGB patch are replaced by what a small attention retrieves for their geometry. The equations are
those of the published code; the paper itself was not at hand.

`N` rows of a bank, `n` patches, `c` channels; modalities come first, RGB before geometry.
"""

import dataclasses
import functools
from collections.abc import Hashable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from pirn_jax.methods import base, cfm, losses, nearest
from pirn_jax.methods.base import Entry, Features, Method, Params, Preset, Recipe, our_choice, published_rows
from pirn_jax.methods.patchcore import greedy_coreset

_RELIABLE = 0.95
"""Share of the good parts' predictions that the default threshold calls reliable (our choice)."""

_SAME = 1.0 - 1e-5
"""Cosine from which a key counts as the query's own patch: with it, retrieval would be too easy in training."""


_RATES: dict[Hashable, optax.GradientTransformation] = {"mappers": optax.identity(), "retriever": optax.scale(0.1)}
_OPTIMIZER = optax.chain(base.ADAM, optax.partition(_RATES, lambda learned: {name: name for name in learned}))
"""Adam; the retriever takes a tenth of the learning rate (code)."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of CFR; "our choice" marks what differs from the published code.

    Attributes:
      hidden: width of the gated mappers, 0 for that of the features (code: the mean of both encoders' widths, 960).
      cycle: whether predictions of predictions are trained to come back (code: yes).
      coreset: share of the patches that the banks keep, in (0, 1] (our choice: all; code: .1 of finer grids).
      candidates: rows that a retrieval attends to (code: 3).
      width: channels of the retrieval's queries, keys and values (code: 128).
      threshold: cosine distance to the RGB bank from which a prediction is replaced; 0 for the .95 quantile over the
        good parts, their own patches left out (our choice; code: .4 or .2, for DINO ViT-B/8).
      replacement: whether predictions are replaced at all; off is its ablation.
      retrieval: whether by attention; off is its ablation, the RGB row nearest to the patch itself.
      combine: "product" of both modalities' distances as in the code, or their "sum".
    """

    hidden: int = 0
    cycle: bool = True
    coreset: float = our_choice(1.0)
    candidates: int = 3
    width: int = 128
    threshold: float = our_choice(0.0)
    replacement: bool = True
    retrieval: bool = True
    combine: str = "product"

    def __post_init__(self):
        cfm.check(self)
        if not 0 < self.coreset <= 1:
            raise ValueError(f"coreset must be a share above 0 and up to 1, not {self.coreset}")
        for name in ("candidates", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.threshold <= 2:
            raise ValueError(f"threshold is a cosine distance from 0 to 2, not {self.threshold}")


def closest(
    x: Float[Array, "n c"], keys: Float[Array, "N c"], counted: Bool[Array, " N"], count: int, own: bool
) -> tuple[Int[Array, "n k"], Bool[Array, "n k"]]:
    """The keys nearest to each query, by falling cosine, and which of them count.

    `own` leaves out the query's own patch.
    """
    cosines = losses.cosines(x, keys)
    usable = counted & (cosines < _SAME) if own else counted
    found, chosen = jax.lax.top_k(jnp.where(usable, cosines, -jnp.inf), count)
    return chosen, jnp.isfinite(found)


class Retriever(nn.Module):
    """Attention from a geometry patch to the RGB patches of the keys that are nearest to it.

    Attributes:
      width: channels of queries, keys and values.
    """

    width: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n c"],
        keys: Float[Array, "n k c"],
        values: Float[Array, "n k c"],
        known: Bool[Array, "n k"],
    ) -> Float[Array, "n c"]:
        """Returns RGB patches for geometry patches, from each one's candidates that are known."""
        linear = functools.partial(nn.Dense, use_bias=False, kernel_init=nn.initializers.lecun_normal())
        query, key, value = (
            linear(self.width, name=name)(of) for name, of in (("query", x), ("key", keys), ("value", values))
        )
        logits = jnp.sum(query[:, None] * key, axis=-1) * self.width**-0.5
        attention = jax.nn.softmax(jnp.where(known, logits, -1e9), axis=-1)
        return linear(x.shape[-1], name="out")(jnp.sum(attention[..., None] * value, axis=1))


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """CFR with a config.

    `learned` holds the `mappers` and the `retriever`, which the loss trains side by side without a common gradient;
    the code trains one after the other. `fixed` holds `scale` (2,)
    and the banks: `rgb` (N, c), and `keys`, `values` (N, c); `counted` (2, N) says which rows count, `origins` (2, N)
    from which sample they are. `near` and `known` (s, n, k) are the candidates of the good parts' own patches, which
    would take most of a step to look for; `means` (s, c) of their geometry tell which part a batch shows.

    Raises:
      ValueError: if there are not two modalities.
    """
    base.require_two("cfr predicts each of two modalities from the other", modalities)
    return _functions(config, modalities)


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    module, retriever = cfm.mappers(config.hidden, gated=True), Retriever(config.width)

    def banks(x: Float[Array, "s 2 n c"], mask: Bool[Array, "s n"]) -> Params:
        rows, origins = (
            jnp.moveaxis(x, 1, 0).reshape(2, mask.size, -1),
            jnp.repeat(jnp.arange(len(mask)), mask.shape[1]),
        )
        if config.coreset == 1:
            chosen, counted = jnp.tile(jnp.arange(mask.size), (2, 1)), jnp.tile(mask.ravel(), (2, 1))
        else:
            chosen, counted = jax.vmap(lambda one: greedy_coreset(one, mask.ravel(), config.coreset))(rows)
        keyed = {"keys": rows[1, chosen[1]], "values": rows[0, chosen[1]]}
        return {"rgb": rows[0, chosen[0]], **keyed, "counted": counted, "origins": origins[chosen]}

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        scale = cfm.scales(support)
        x = cfm.tokens(support, scale)
        fixed = {"scale": scale, **banks(x, support.mask)}
        if config.candidates > len(fixed["keys"]):
            raise ValueError(f"candidates={config.candidates} exceeds the {len(fixed['keys'])} rows of a bank")
        first, second = jax.random.split(key)
        learned = {"mappers": module.init(first, x[0])["params"]}
        if config.replacement and config.retrieval:
            bank = fixed["keys"], fixed["counted"][1], config.candidates
            near, known = jax.lax.map(lambda of: closest(of, *bank, own=True), x[:, 1])
            fixed |= {"near": near, "known": known, "means": geometry_mean(x, support.mask)}
            shown = x[0, 1], fixed["keys"][near[0]], fixed["values"][near[0]], known[0]
            learned["retriever"] = retriever.init(second, *shown)["params"]
        return learned, fixed

    def geometry_mean(x: Float[Array, "*batch 2 n c"], mask: Bool[Array, "*batch n"]) -> Float[Array, "*batch c"]:
        return jnp.mean(x[..., 1, :, :], axis=-2, where=mask[..., None])

    def retrieve(learned: Params, fixed: Params, x: Array, near: Array, known: Array) -> Float[Array, "n c"]:
        given = x[1], fixed["keys"][near], fixed["values"][near], known
        return jnp.asarray(retriever.apply({"params": learned["retriever"]}, *given))

    def loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
        del key

        def of_sample(x: Array, mask: Array) -> dict[str, Array]:
            found = cfm.predict(module, learned["mappers"], x)
            terms = dict(zip((f"loss_{m}" for m in modalities), cfm.disagreement(found, x, mask), strict=True))
            if config.cycle:
                back = cfm.predict(module, learned["mappers"], found)
                terms["cycle"] = jnp.sum(cfm.disagreement(back, x, mask))
            if "retriever" in learned:
                which = jnp.argmin(jnp.sum((fixed["means"] - geometry_mean(x, mask)) ** 2, axis=-1))
                retrieved = retrieve(learned, fixed, x, fixed["near"][which], fixed["known"][which])
                terms["retrieval"] = cfm.disagreement(retrieved[None], x[:1], mask)[0]
            return terms

        terms = jax.tree.map(jnp.mean, jax.vmap(of_sample)(cfm.tokens(batch, fixed["scale"]), batch.mask))
        return sum(terms.values(), jnp.zeros(())), terms

    def doubt(rgb: Float[Array, "n c"], fixed: Params, counted: Bool[Array, "2 N"]) -> Float[Array, " n"]:
        """Cosine distance of predicted RGB patches to the nearest row of the RGB bank."""
        return (
            nearest.nearest_row(losses.unit(rgb)[None], losses.unit(fixed["rgb"])[None], counted[:1], nearest.each(1))[
                0
            ]
            / 2.0
        )

    def finalize(learned: Params, fixed: Params, support: Features) -> Params:
        params = {"learned": learned, "fixed": fixed, "counted": fixed["counted"], "origins": fixed["origins"]}
        if config.threshold or not config.replacement:
            return {**params, "threshold": jnp.asarray(config.threshold, jnp.float32)}
        x = cfm.tokens(support, fixed["scale"])

        def of_sample(i: Array) -> Float[Array, " n"]:
            left = nearest.forget(params, i)["counted"] if len(x) > 1 else params["counted"]
            return doubt(cfm.predict(module, learned["mappers"], x[i])[0], fixed, left)

        doubts = jax.lax.map(of_sample, jnp.arange(len(x)))
        return {**params, "threshold": jnp.nanquantile(jnp.where(support.mask, doubts, jnp.nan), _RELIABLE)}

    def score(params: Params, features: Features) -> Float[Array, "1 n"]:
        learned, fixed, counted = params["learned"], params["fixed"], params["counted"]
        x = cfm.tokens(features, fixed["scale"])
        found = cfm.predict(module, learned["mappers"], x)
        if config.replacement:
            if config.retrieval:
                near = closest(x[1], fixed["keys"], counted[1], config.candidates, own=False)
                better = retrieve(learned, fixed, x, *near)
            else:
                better = fixed["rgb"][closest(x[0], fixed["rgb"], counted[0], 1, own=False)[0][:, 0]]
            unreliable = doubt(found[0], fixed, counted) >= params["threshold"]
            found = found.at[0].set(jnp.where(unreliable[:, None], better, found[0]))
        return cfm.combined(found, x, config.combine)

    return Method(("mapping",), init, score, loss, finalize, nearest.forget, optimizer=_OPTIMIZER, whole_support=True)


PRESETS = {
    "default": Preset(Config(), Recipe(epochs=40, learning_rate=1e-3, batch_size=1)),
    # The published code, as far as other encoders let it: a tenth of the patches, its threshold for MVTec 3D-AD, maps
    # divided by their means.
    "paper": Preset(
        Config(coreset=0.1, threshold=0.4),
        Recipe(epochs=100, learning_rate=1e-3, batch_size=1),
        {"normalisation": "means"},
    ),
}


PUBLISHED = published_rows(
    "CFR's project page",
    {
        "mvtec3d": {"1": (0.740, 0.923), "4": (0.805, 0.942)},
        "eyecandies": {"1": (0.759, 0.827), "4": (0.779, 0.847)},
    },
)

ENTRY = Entry(Config, PRESETS, build, PUBLISHED)
