"""UIP-AD as a method: losses (Sec. 4.3) and score (Sec. 4.4)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import base, losses, residuals, statistics
from pirn_jax.methods.base import Features, Method, Params
from pirn_jax.methods.uip_ad.config import Config
from pirn_jax.methods.uip_ad.decoder import Network

_EPSILON = 1e-8
"""Of Eq. 10 (our choice)."""


def target(unified: Float[Array, "n c"], p: Float[Array, "k c"], temperature: float) -> Float[Array, "n c"]:
    """Soft reconstruction of patches from prototypes (Eq. 7)."""
    return jax.nn.softmax(losses.cosines(unified, p) / temperature, axis=-1) @ p


def assignment_loss(
    x: Float[Array, "2 n c"], p: Float[Array, "k c"], mask: Bool[Array, " n"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_a of Eq. 9 between soft assignments of both modalities, and its literal value.

    One-hot vectors of the nearest prototypes have no gradient; softmaxes of the cosines stand for them.
    """
    found = jnp.stack([losses.cosines(of, p) for of in x])
    soft, hard = jax.nn.softmax(found / temperature, axis=-1), jnp.argmax(found, axis=-1)
    return statistics.mean(jnp.sum(jnp.abs(soft[0] - soft[1]), axis=-1), mask), statistics.mean(
        2.0 * (hard[0] != hard[1]), mask
    )


def entropy_loss(
    unified: Float[Array, "n c"], p: Float[Array, "k c"], mask: Bool[Array, " n"], temperature: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_p of Eq. 10 from soft frequencies of the prototypes, and its literal value, whose counts have no gradient."""
    found = losses.cosines(unified, p)
    soft = jax.nn.softmax(found / temperature, axis=-1)
    hard = jax.nn.one_hot(jnp.argmax(found, axis=-1), len(p))
    frequencies = (jnp.sum(jnp.where(mask[:, None], of, 0.0), axis=0) / jnp.sum(mask) for of in (soft, hard))
    one, other = (jnp.sum(q * jnp.log(q + _EPSILON)) for q in frequencies)
    return one, other


def build(config: Config, modalities: tuple[str, ...]) -> Method:
    """UIP-AD with a config; `learned` are the network's weights, `fixed` is `{"scale": (2,)}`, as in PIRN.

    Raises:
      ValueError: if there are not two modalities.
    """
    base.require_two("uip_ad unifies two modalities", modalities)
    return _functions(config)


@functools.lru_cache
def _functions(config: Config) -> Method:
    network = Network(config)

    def scaled(features: Features, fixed: Params) -> Float[Array, "*batch 2 g n c"]:
        return statistics.in_units(features.values, fixed["scale"])

    def run(learned: Params, fixed: Params, features: Features) -> Any:
        return network.apply({"params": learned}, scaled(features, fixed), features.mask)

    def init(key: Array, support: Features) -> tuple[Params, Params]:
        fixed = {"scale": statistics.root_mean_square(support.values.astype(jnp.float32), support.mask)}
        return network.init(key, scaled(support, fixed)[0], support.mask[0])["params"], fixed

    def loss(learned: Params, fixed: Params, batch: Features, key: Array) -> tuple[Float[Array, ""], dict[str, Array]]:
        del key

        def of_sample(features: Features) -> tuple[losses.Products, dict[str, Array]]:
            maps, rebuilt, unified, p = run(learned, fixed, features)
            wanted = jnp.broadcast_to(target(unified, p, config.temperature), maps.shape) if config.ucp else maps
            x, mask = jnp.mean(scaled(features, fixed), axis=1), features.mask
            l_a, told_a = assignment_loss(x, p, mask, config.temperature)
            l_p, told_p = entropy_loss(unified, p, mask, config.temperature)
            terms = {"assignment": l_a, "entropy": l_p, "gather": losses.gather(jnp.stack([unified, *x]), p, mask)}
            literal = {"assignment_literal": told_a, "entropy_literal": told_p}
            return losses.products(wanted, rebuilt), {**terms, **literal}

        compared, each = jax.vmap(of_sample)(batch)
        told = jax.tree.map(jnp.mean, each)
        told["reconstruction"] = reconstruction(compared, batch.mask)
        total = told["reconstruction"]
        if config.ucp:
            weights = {name: getattr(config, f"{name}_weight") for name in ("assignment", "entropy", "gather")}
            total += sum(weight * told[name] for name, weight in weights.items())
        return total, told

    def reconstruction(compared: losses.Products, mask: Bool[Array, "batch n"]) -> Float[Array, ""]:
        """L_s of Eq. 8, the mean over the layer groups."""
        if config.mining_exponent:
            mined = functools.partial(losses.soft_mining, exponent=config.mining_exponent)
            return jnp.mean(jax.vmap(mined, in_axes=(1, None))(compared, mask))
        distance = losses.cosine_distance(compared)
        return jnp.mean(jax.vmap(statistics.mean)(distance, mask))

    def score(params: Params, features: Features) -> Float[Array, "1 n"]:
        learned, fixed = params
        maps, rebuilt, _, _ = run(learned, fixed, features)
        return jnp.mean(losses.cosine_distance(losses.products(maps, rebuilt)), axis=0, keepdims=True)

    def leave(learned: Params, fixed: Params, features: Features) -> Float[Array, "1 n gc"]:
        maps, rebuilt, _, _ = run(learned, fixed, features)
        return losses.residuals(maps, rebuilt)[None]

    found = Method(("unified",), init, score, loss)
    return residuals.scored(found, leave, config.score)
