"""PIRN as a method: reconstruction of each modality's patches from its prototypes, and what it leaves of them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import base, losses, residuals, statistics
from pirn_jax.methods.base import Features, Method, Params
from pirn_jax.methods.pirn import bpa, patches, precision, prototypes
from pirn_jax.methods.pirn.decoder import Config, Decoder


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


@functools.lru_cache
def _functions(config: Config, modalities: tuple[str, ...]) -> Method:
    """PIRN but for its constants; the same objects for equal arguments."""
    decoder = Decoder(config)

    def prepare(features: Features, fixed: Params) -> Float[Array, "*batch 2 n c"]:
        """Features as `config.tokens` has them, but for their scale."""
        values = jnp.mean(precision.rounded(features.values, config.precision), axis=-3)
        if config.tokens == "length":
            return losses.unit(values) * values.shape[-1] ** 0.5
        if config.tokens == "standardise":
            return (values - fixed["mean"][:, None]) / fixed["deviation"][:, None]
        return values

    def tokens(features: Features, fixed: Params) -> Float[Array, "*batch 2 n c"]:
        return prepare(features, fixed) / fixed["scale"][:, None, None]

    def rebuild(
        learned: Params, fixed: Params, features: Features, key: Array | None = None
    ) -> tuple[losses.Products, Float[Array, "2"]]:
        """Products of patches and rebuilt ones, and the share of prototypes in use, the mean of all layers.

        The key is that of a training step's dropout.
        """
        scaled = tokens(features, fixed)
        rebuilt, sown = decoder.apply(
            {"params": learned},
            scaled,
            features.mask,
            fixed["epsilon"],
            rngs=None if key is None else {"dropout": key},
            mutable=["diagnostics"],
        )
        compared = losses.products(scaled, rebuilt, jax.vmap(patches.paired))
        return compared, jnp.mean(jnp.stack(jax.tree.leaves(sown)), axis=0)

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        fixed = {}
        if config.tokens == "standardise":
            raw = jnp.mean(support.values.astype(jnp.float32), axis=-3)
            fixed["mean"], fixed["deviation"] = statistics.moments(raw, support.mask)
        values = prepare(support, fixed)
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
        compared, use = jax.vmap(lambda *of: rebuild(learned, fixed, *of))(batch, keys)
        mined = functools.partial(losses.soft_mining, exponent=config.mining_exponent)
        per_modality = jax.vmap(mined, in_axes=(1, None))(compared, batch.mask)
        values = {"loss": per_modality, "prototype_use": jnp.mean(use, axis=0)} | _gates(learned)
        named = {f"{name}_{m}": value[i] for name, value in values.items() for i, m in enumerate(modalities)}
        return jnp.mean(per_modality), named

    def score(params: Params, features: Features) -> Float[Array, "2 n"]:
        learned, fixed = params
        return losses.cosine_distance(rebuild(learned, fixed, features)[0])

    def leave(learned: Params, fixed: Params, features: Features) -> Float[Array, "2 n c"]:
        """Residual of each patch: the difference of the unit vectors of patch and rebuilt patch."""
        scaled = tokens(features, fixed)
        rebuilt: Any = decoder.apply({"params": learned}, scaled, features.mask, fixed["epsilon"])
        return losses.unit(scaled) - losses.unit(jax.vmap(patches.dense)(rebuilt))

    found = Method(modalities, init, score, loss, precision=config.precision)
    if config.score == "cosine":
        return found
    return residuals.scored(found, leave, residuals.compare(config.score, modalities, config.joint))


def _gates(learned: Params) -> dict[str, Float[Array, "2"]]:
    """Openness of each modality's gate to the other, `tanh(gamma)`, the mean of all layers; empty without MNC."""
    gammas = [layer["inject"]["gamma"] for layer in learned.values() if isinstance(layer, dict) and "inject" in layer]
    return {"gate": jnp.mean(jnp.tanh(jnp.stack(gammas)), axis=0)} if gammas else {}
