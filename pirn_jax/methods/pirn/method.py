"""PIRN as a method: reconstruction of each modality's patches from its prototypes, and what it leaves of them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import base, losses, residuals, statistics
from pirn_jax.methods.base import Features, Method, Params
from pirn_jax.methods.pirn import bpa, patches, precision, prototypes
from pirn_jax.methods.pirn.decoder import Config, Decoder, DecoderLayer, assignment


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """PIRN with a config.

    `learned` are the decoder's weights; `fixed` is `{"scale": (2,), "epsilon": ()}`, where `scale` is the root mean
    square of each modality's features over the good parts. Dividing by it leaves the cosine distances of Algorithm 1 as
    they are and brings the features to the range of the gates. With `tokens="standardise"` it holds `mean` and
    `deviation` (2, c), too. Layer groups are averaged (Sec. 3.1).

    Line 23 scores a patch by `1 - cos(e, z_rec)`, so whatever a few prototypes cannot rebuild scores high on good parts
    too: edges, prints, texture. With other scores the residual vector of a patch, `e/|e| - z_rec/|z_rec|`, is compared
    with those of the good parts' patches (`residuals.compare`): with the nearest, in units of how far the other good
    parts lie from it, and with what their Gaussian lets expect of one modality given the other.

    Args:
      config: hyperparameters.
      modalities: names of the two modalities.

    Raises:
      ValueError: if there are not two.
    """
    base.require_two("pirn exchanges prototypes between two modalities", modalities)
    epsilon = bpa.KERNEL_EPSILON / 2 if config.log_domain else bpa.KERNEL_EPSILON
    shared = _functions(dataclasses.replace(config, epsilon=epsilon), modalities)
    return shared._replace(constants={"epsilon": config.epsilon})


def _unscaled(config: Config, features: Features, fixed: Params) -> Float[Array, "*batch 2 n c"]:
    """Features as `config.tokens` has them, but for their scale."""
    values = jnp.mean(precision.rounded(features.values, config.precision), axis=-3)
    if config.tokens == "length":
        return losses.unit(values) * values.shape[-1] ** 0.5
    if config.tokens == "standardise":
        return (values - fixed["mean"][:, None]) / fixed["deviation"][:, None]
    return values


def tokens(config: Config, features: Features, fixed: Params) -> Float[Array, "*batch 2 n c"]:
    """Input and target of the decoder: features as `config.tokens` has them."""
    return _unscaled(config, features, fixed) / fixed["scale"][:, None, None]


class Trace(NamedTuple):
    """Patches of a sample on their way through the decoder; `l` layers, `k` prototypes.

    Attributes:
      before: the decoder's input.
      after: what its last layer rebuilt.
      prototypes: of each layer, refined on the sample.
      plan: of the first layer's BPA.
    """

    before: Float[Array, "2 n c"]
    after: Float[Array, "2 n c"]
    prototypes: Float[Array, "l 2 k c"]
    plan: Float[Array, "2 n k"]


def trace(config: Config, learned: Params, fixed: Params, features: Features) -> Trace:
    """One sample followed through the decoder, for figures."""
    before = tokens(config, features, fixed)
    rebuilt, kept = Decoder(config).apply(
        {"params": learned},
        before,
        features.mask,
        fixed["epsilon"],
        capture_intermediates=lambda module, _: isinstance(module, DecoderLayer),
        mutable=["intermediates"],
    )
    layers = [kept["intermediates"][f"layer_{i}"]["__call__"][0] for i in range(config.num_layers)]
    refined = jnp.stack([p for _, p in layers])  # pyright: ignore
    assign = functools.partial(assignment, config)
    plan = jax.vmap(assign, (0, 0, None, None))(before, refined[0], features.mask, fixed["epsilon"])
    return Trace(before, jax.vmap(patches.dense)(rebuilt), refined, plan)  # pyright: ignore


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    """PIRN but for its constants; the same objects for equal arguments."""
    decoder = Decoder(config)

    def rebuild(
        learned: Params, fixed: Params, features: Features, key: Array | None = None
    ) -> tuple[losses.Products, dict[str, Float[Array, "2"]]]:
        """Products of patches and rebuilt ones, and what the transport plans tell, see `_told`.

        The key is that of a training step's dropout.
        """
        scaled = tokens(config, features, fixed)
        rebuilt, sown = decoder.apply(
            {"params": learned},
            scaled,
            features.mask,
            fixed["epsilon"],
            rngs=None if key is None else {"dropout": key},
            mutable=["diagnostics"],
        )
        compared = losses.products(scaled, rebuilt, jax.vmap(patches.paired))
        return compared, _told(sown["diagnostics"])

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        fixed = {}
        if config.tokens == "standardise":
            raw = jnp.mean(support.values.astype(jnp.float32), axis=-3)
            fixed["mean"], fixed["deviation"] = statistics.moments(raw, support.mask)
        values = _unscaled(config, support, fixed)
        fixed["scale"] = statistics.root_mean_square(values, support.mask)
        scaled = values / fixed["scale"][:, None, None]
        learned = decoder.init(key, scaled[0], support.mask[0], config.epsilon)["params"]
        return start(key, learned, scaled, support.mask), {**fixed, "epsilon": jnp.asarray(config.epsilon)}

    def start(key: Array, learned: Params, scaled: Float[Array, "s 2 n c"], mask: Bool[Array, "s n"]) -> Params:
        """The weights with prototypes where `config.prototype_start` has them, the same in every layer."""
        rows = jnp.moveaxis(scaled, 1, 0).reshape(2, mask.size, -1)
        begin = functools.partial(prototypes.start, config.prototype_start)
        return {
            name: jax.vmap(begin, (0, 0, None, 0))(jax.random.split(key), rows, mask.ravel(), value)
            if name.startswith("prototypes")
            else value
            for name, value in learned.items()
        }

    def loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
        keys = jax.random.split(key, len(batch.mask))
        compared, told = jax.vmap(lambda *of: rebuild(learned, fixed, *of))(batch, keys)
        mined = functools.partial(losses.soft_mining, exponent=config.mining_exponent)
        per_modality = jax.vmap(mined, in_axes=(1, None))(compared, batch.mask)
        told = {name: jnp.mean(of_samples, axis=0) for name, of_samples in told.items()}
        values = {"loss": per_modality, **told} | _gates(learned)
        named = {f"{name}_{m}": value[i] for name, value in values.items() for i, m in enumerate(modalities)}
        return jnp.mean(per_modality), named

    def score(params: Params, features: Features) -> Float[Array, "2 n"]:
        learned, fixed = params
        return losses.cosine_distance(rebuild(learned, fixed, features)[0])

    def leave(learned: Params, fixed: Params, features: Features) -> Float[Array, "2 n c"]:
        """Residual of each patch: the difference of the unit vectors of patch and rebuilt patch."""
        scaled = tokens(config, features, fixed)
        rebuilt: Any = decoder.apply({"params": learned}, scaled, features.mask, fixed["epsilon"])
        return losses.unit(scaled) - losses.unit(jax.vmap(patches.dense)(rebuilt))

    found = Method(modalities, init, score, loss, precision=config.precision)
    return residuals.scored(found, leave, config.score, config.joint)


def _told(diagnostics: Any) -> dict[str, Float[Array, "2"]]:
    """Of each modality the share of prototypes in use, the mean of all layers, and Sinkhorn's largest column error.

    The error is that of all plans of all layers, of APR and of BPA; without any plan by transport there is none.
    """
    sown: dict[str, list[Array]] = {}
    for path, value in jax.tree_util.tree_leaves_with_path(diagnostics):
        (name,) = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)} & {"use", "column_error"}
        sown.setdefault(name, []).append(value)
    told = {"prototype_use": jnp.mean(jnp.stack(sown["use"]), axis=0)}
    if "column_error" in sown:
        told["column_error"] = jnp.max(jnp.stack(sown["column_error"]), axis=0)
    return told


def _gates(learned: Params) -> dict[str, Float[Array, "2"]]:
    """Openness of each modality's gate to the other, `tanh(gamma)`, the mean of all layers; empty without MNC."""
    gammas = [layer["inject"]["gamma"] for layer in learned.values() if isinstance(layer, dict) and "inject" in layer]
    return {"gate": jnp.mean(jnp.tanh(jnp.stack(gammas)), axis=0)} if gammas else {}
