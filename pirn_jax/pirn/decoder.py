"""The cascaded prototype-aware decoder and PIRN as a method (Sec. 3.1, Algorithm 1).

The leading axis of size two is the modality: 0 is RGB, 1 is surface normals. Both have weights of their own.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax import losses
from pirn_jax.method import Method, Params
from pirn_jax.pirn import communication, patches, precision, prototypes, transport
from pirn_jax.pirn.patches import Factored, Patches, PatchesOfBoth

ASSIGNMENTS = ("transport", "softmax")


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of PIRN; "our choice" marks what the paper leaves open.

    Attributes:
      num_prototypes: prototypes K of each modality (paper: 10).
      num_layers: decoder layers L (paper: 2 for few-shot, 8 for all-shot).
      epsilon: entropy of the transport plan, in units of the cosine distance (our choice).
      sinkhorn_iterations: iterations of each solve (our choice).
      assignment: "transport", or "softmax", the ablation of BPA.
      plan_scale: "rows", or "literal", Eq. 2 as printed; see `transport.reconstruct`.
      apr: whether prototypes are refined on each part; off is the ablation of APR.
      mnc: whether modalities communicate; off is the ablation of MNC.
      injection: "query_only", or "paper", Eq. 5 as printed; see `communication.Injection`.
      neighbours: k of the cross-modal nearest neighbours (our choice).
      heads: heads of the graph attention (our choice).
      precision: "float32"; or "bfloat16" for features and the factors of matrix products, summed in float32. Costs,
        transport plans, softmaxes, norms, losses, parameters and their optimizer stay float32. Features take half the
        memory. It is meant for accelerators: CPUs multiply in float32 all the same, and the rounding costs them time.
    """

    num_prototypes: int = 10
    num_layers: int = 2
    epsilon: float = 0.05
    sinkhorn_iterations: int = 20
    assignment: str = "transport"
    plan_scale: str = "rows"
    apr: bool = True
    mnc: bool = True
    injection: str = "query_only"
    neighbours: int = 3
    heads: int = 4
    precision: str = "float32"

    @property
    def log_domain(self) -> bool:
        """Whether transport plans are solved in the log domain, as a small epsilon needs."""
        return self.epsilon < transport.KERNEL_EPSILON

    def __post_init__(self):
        for name, choices in (
            ("assignment", ASSIGNMENTS),
            ("plan_scale", transport.PLAN_SCALES),
            ("injection", communication.INJECTIONS),
            ("precision", precision.PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        for name in ("num_prototypes", "num_layers", "epsilon", "sinkhorn_iterations", "neighbours", "heads"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if self.neighbours > self.num_prototypes:
            raise ValueError(f"neighbours={self.neighbours} exceeds num_prototypes={self.num_prototypes}")


def _per_modality(module: type[nn.Module], in_axes: tuple[int | None, ...]) -> type[nn.Module]:
    """The module with separate weights for each modality, mapped over the leading axis of its inputs that have 0."""
    axes: Any = in_axes
    return nn.vmap(module, in_axes=axes, variable_axes={"params": 0}, split_rngs={"params": True})


class DecoderLayer(nn.Module):
    """One prototype-aware layer: APR, BPA, MNC and fusion (Algorithm 1, lines 7-21).

    Attributes:
      config: hyperparameters.
    """

    config: Config

    @nn.compact
    def __call__(
        self, z: PatchesOfBoth, p: Float[Array, "2 k c"], epsilon: transport.Epsilon
    ) -> tuple[PatchesOfBoth, Float[Array, "2 k c"]]:
        """Returns rebuilt patches and the refined prototypes, which the next layer starts from."""
        config = self.config
        if config.apr:
            refine = _per_modality(prototypes.Refinement, (0, 0, None))
            p = refine(config.sinkhorn_iterations, config.log_domain, name="refine")(z, p, epsilon)
        z_bpa, use = jax.vmap(self._assign, (0, 0, None))(z, p, epsilon)
        self.sow("diagnostics", "use", use)
        if not config.mnc:
            return z_bpa, p
        aligned = communication.Alignment(config.neighbours, config.heads, name="align")(p)
        inject = _per_modality(communication.Injection, (0, 0, 0))
        z_mnc = inject(config.injection, name="inject")(z, z_bpa, aligned[::-1])
        return jax.vmap(patches.add)(z_bpa, z_mnc), p

    def _assign(
        self, z: Patches, p: Float[Array, "k c"], epsilon: transport.Epsilon
    ) -> tuple[Factored, Float[Array, ""]]:
        config = self.config
        cost = transport.cosine_cost(z, p)
        if config.assignment == "softmax":
            plan = transport.softmax_plan(cost, epsilon)
        else:
            plan = transport.transport_plan(cost, epsilon, config.sinkhorn_iterations, config.log_domain)
        return transport.reconstruct(plan, p, config.plan_scale), transport.prototype_use(plan)


class Decoder(nn.Module):
    """L prototype-aware layers in cascade around one set of prototypes for each modality.

    Algorithm 1 draws the prototypes once, before its loop, and updates them in each layer: the refined prototypes of
    one layer are the prototypes of the next. They start as unit-variance normal noise, the scale of the features, as in
    INP-Former: small ones make the decoder start as an identity map.

    Attributes:
      config: hyperparameters.
    """

    config: Config

    @nn.compact
    def __call__(self, z: Float[Array, "2 n c"], epsilon: transport.Epsilon) -> PatchesOfBoth:
        """Rebuilds the patches of one part, `Z_rec` of the last layer, from features of unit root mean square.

        The entropy of the transport plans is an argument: one compiled program serves all values of it.
        """
        shape = (2, self.config.num_prototypes, z.shape[-1])
        rebuilt: PatchesOfBoth = z
        p = self.param("prototypes", nn.initializers.normal(1.0), shape)
        with precision.factors(self.config.precision):
            for layer in range(self.config.num_layers):
                rebuilt, p = DecoderLayer(self.config, name=f"layer_{layer}")(rebuilt, p, epsilon)
        return rebuilt


def _gates(params: Params) -> dict[str, Float[Array, "2"]]:
    """How far each modality opens to the other, `tanh(gamma)`, the mean of all layers; empty without communication."""
    layers = [layer for name, layer in params["decoder"].items() if name.startswith("layer_")]
    gammas = [layer["inject"]["gamma"] for layer in layers if "inject" in layer]
    return {"gate": jnp.mean(jnp.tanh(jnp.stack(gammas)), axis=0)} if gammas else {}


def pirn(config: Config) -> Method:
    """PIRN as a method.

    Parameters are `{"scale": (2,), "epsilon": (), "decoder": ...}`; `scale` is the root mean square of each modality's
    features over the good parts. Dividing by it leaves the cosine distances of Algorithm 1 as they are and brings the
    features to the range of the gates. No gradient reaches `scale` and `epsilon`.
    """
    epsilon = transport.KERNEL_EPSILON / 2 if config.log_domain else transport.KERNEL_EPSILON
    shared = _functions(dataclasses.replace(config, epsilon=epsilon))
    return shared._replace(fixed={"epsilon": np.asarray(config.epsilon)})


@functools.lru_cache
def _functions(config: Config) -> Method:
    """PIRN but for its fixed parameters; of equal configs the same objects."""
    decoder = Decoder(config)

    def rebuild(params: Params, features: Float[Array, "2 n c"]) -> tuple[losses.Products, Float[Array, "2"]]:
        """Patches beside rebuilt ones, and the share of each modality's prototypes in use, the mean of all layers."""
        features = precision.rounded(features, config.precision)
        scale, epsilon = jax.lax.stop_gradient((params["scale"], params["epsilon"]))
        variables, scaled = {"params": params["decoder"]}, features / scale[:, None, None]
        rebuilt, seen = decoder.apply(variables, scaled, epsilon, mutable=["diagnostics"])
        compared = losses.products(scaled, rebuilt, jax.vmap(patches.paired))
        return compared, jnp.mean(jnp.stack(jax.tree.leaves(seen)), axis=0)

    def init(key, features):
        features = precision.rounded(features, config.precision)
        scale = jnp.sqrt(jnp.mean(features**2, axis=(0, 2, 3)))
        weights = decoder.init(key, features[0] / scale[:, None, None], config.epsilon)["params"]
        return {"scale": scale, "decoder": weights}

    def loss(params, batch):
        compared, use = jax.vmap(lambda features: rebuild(params, features))(batch)
        rgb, normals = jax.vmap(losses.soft_mining, in_axes=1)(compared)
        seen = {"loss": jnp.stack([rgb, normals]), "prototype_use": jnp.mean(use, axis=0)} | _gates(params)
        named = {f"{name}_{m}": values[i] for name, values in seen.items() for i, m in enumerate(("rgb", "normals"))}
        return (rgb + normals) / 2, named

    def score(params, features):
        return losses.cosine_distance(rebuild(params, features)[0])

    return Method(init, loss, score)
