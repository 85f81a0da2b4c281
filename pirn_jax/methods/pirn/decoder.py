"""The cascaded prototype-aware decoder (Sec. 3.1, Algorithm 1).

The leading axis of size two is the modality: RGB, then geometry. Both have weights of their own.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from pirn_jax.methods import residuals
from pirn_jax.methods.base import our_choice
from pirn_jax.methods.pirn import apr, bpa, mnc, patches, precision, prototypes
from pirn_jax.methods.pirn.patches import Factored, Patches, PatchesOfBoth

ASSIGNMENTS = ("transport", "softmax", "linear", "sigmoid")
TOKENS = ("scale", "length", "standardise")


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of PIRN; "our choice" marks what the paper leaves open.

    Attributes:
      num_prototypes: prototypes K of each modality (paper: 10).
      num_layers: decoder layers L (paper: 2 for few-shot, 8 for all-shot).
      layer_prototypes: whether each layer has prototypes of its own, instead of those that the layer before refined
        (paper: no).
      prototype_start: where prototypes start, "noise" (paper: "randomly"), or "patches" or "kmeans", see
        `prototypes.start`.
      tokens: how features become the decoder's input: "scale", divided by the root mean square of each modality (our
        choice); "length", each patch by its own; "standardise", each channel by its mean and deviation.
      epsilon: entropy of the transport plan, in units of the cosine distance (our choice).
      sinkhorn_iterations: iterations of each solve (our choice).
      assignment: "transport", or of patches alone "softmax", "linear" or "sigmoid", the ablations of BPA.
      plan_scale: "rows" (our choice), or "literal", Eq. 2 as printed; see `bpa.reconstruct`.
      apr: whether prototypes are refined on each sample; off is the ablation of APR.
      contexts: patches that a prototype is refined by, "transport" of them all, their "mean", or the mean of the
        "nearest".
      context_patches: how many these are (our choice).
      mnc: whether modalities communicate; off is the ablation of MNC.
      injection: "query_only" (our choice); or "paper", Eq. 5 as printed, "stop_gradient", "bottleneck", "dropout"; see
        `mnc.Injection`.
      neighbours: k of the cross-modal nearest neighbours (our choice).
      heads: heads of the graph attention (our choice).
      gat_residual: whether the graph attention is added to the prototypes or replaces them (our choice).
      gat_self_edges: whether the prototype graph has self-edges (our choice).
      gate_init: initial gamma of the injection's gate `tanh(gamma)` (our choice: at 0 a learning rate of 1e-4 leaves
        the gate shut for a whole training).
      mining_exponent: exponent of the soft mining loss (our choice, INP-Former's); 0 weighs all patches alike.
      score: distance of a patch, "cosine" as in line 23 of Algorithm 1; or what is left of it beside what is left of
        good parts: "nearest", "gaussian" or "both" (our choice), see `residuals.compare`.
      joint: whether the nearest residual is looked for in both modalities at once, too, in a map of its own (our
        choice).
      precision: "float32"; or "bfloat16" for features and matmul operands, summed in float32. Costs, transport plans,
        softmaxes, norms, losses, parameters and their optimiser stay float32. Features take half the memory. Meant for
        accelerators: CPUs multiply in float32 all the same, and the rounding costs them time.
    """

    num_prototypes: int = 10
    num_layers: int = 2
    layer_prototypes: bool = False
    prototype_start: str = "noise"
    tokens: str = our_choice("scale")
    epsilon: float = our_choice(0.05)
    sinkhorn_iterations: int = our_choice(20)
    assignment: str = "transport"
    plan_scale: str = our_choice("rows")
    apr: bool = True
    contexts: str = "transport"
    context_patches: int = our_choice(10)
    mnc: bool = True
    injection: str = "query_only"
    neighbours: int = our_choice(3)
    heads: int = our_choice(4)
    gat_residual: bool = our_choice(True)
    gat_self_edges: bool = our_choice(True)
    gate_init: float = our_choice(1.0)
    mining_exponent: float = our_choice(3.0)
    score: str = "both"
    joint: bool = our_choice(True)
    precision: str = "float32"

    @property
    def log_domain(self) -> bool:
        """True if transport plans are solved in the log domain, as a small epsilon needs."""
        return self.epsilon < bpa.KERNEL_EPSILON

    def __post_init__(self):
        for name, choices in (
            ("assignment", ASSIGNMENTS),
            ("plan_scale", bpa.PLAN_SCALES),
            ("contexts", apr.CONTEXTS),
            ("injection", mnc.INJECTIONS),
            ("prototype_start", prototypes.STARTS),
            ("tokens", TOKENS),
            ("score", residuals.SCORES),
            ("precision", precision.PRECISIONS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        positive = "num_prototypes", "num_layers", "epsilon", "sinkhorn_iterations", "context_patches"
        for name in (*positive, "neighbours", "heads"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if not math.isfinite(self.gate_init):
            raise ValueError(f"gate_init must be finite, not {self.gate_init}")
        if not 0 <= self.mining_exponent < math.inf:
            raise ValueError(f"mining_exponent must be finite and not negative, not {self.mining_exponent}")
        if self.neighbours > self.num_prototypes:
            raise ValueError(f"neighbours={self.neighbours} exceeds num_prototypes={self.num_prototypes}")


def assignment(
    config: Config, z: Patches, p: Float[Array, "k c"], mask: Bool[Array, " n"], epsilon: bpa.Epsilon
) -> Float[Array, "n k"]:
    """Plan of BPA in one of the forms `ASSIGNMENTS`; rows of the part share its mass equally."""
    if config.assignment == "linear":
        return bpa.linear_plan(z, p, mask)
    cost = bpa.cosine_cost(z, p)
    if config.assignment == "softmax":
        return bpa.softmax_plan(cost, mask, epsilon)
    if config.assignment == "sigmoid":
        return bpa.sigmoid_plan(cost, mask, epsilon)
    return bpa.transport_plan(cost, mask, epsilon, config.sinkhorn_iterations, config.log_domain)


def _per_modality(module: type[nn.Module], in_axes: tuple[int | None, ...]) -> type[nn.Module]:
    """The module with separate weights for each modality, mapped over the leading axis of its inputs that have 0."""
    axes: Any = in_axes
    variables: Any = {"params": 0, "diagnostics": 0}
    return nn.vmap(module, in_axes=axes, variable_axes=variables, split_rngs={"params": True, "dropout": True})


class DecoderLayer(nn.Module):
    """One prototype-aware layer: APR, BPA, MNC and fusion (Algorithm 1, lines 7-21).

    Attributes:
      config: hyperparameters.
    """

    config: Config

    @nn.compact
    def __call__(
        self, z: PatchesOfBoth, p: Float[Array, "2 k c"], mask: Bool[Array, " n"], epsilon: bpa.Epsilon
    ) -> tuple[PatchesOfBoth, Float[Array, "2 k c"]]:
        """Returns rebuilt patches and the refined prototypes, which the next layer starts from."""
        config = self.config
        if config.apr:
            refine = _per_modality(apr.Refinement, (0, 0, None, None))
            how = config.contexts, config.context_patches, config.sinkhorn_iterations, config.log_domain
            p = refine(*how, name="refine")(z, p, mask, epsilon)
        z_bpa, use, error = jax.vmap(self._assign, (0, 0, None, None))(z, p, mask, epsilon)
        self.sow("diagnostics", "use", use)
        if config.assignment == "transport":
            self.sow("diagnostics", "column_error", error)
        if not config.mnc:
            return z_bpa, p
        align = mnc.Alignment(config.neighbours, config.heads, config.gat_residual, config.gat_self_edges, name="align")
        inject = _per_modality(mnc.Injection, (0, 0, 0))(config.injection, config.gate_init, name="inject")
        z_mnc = inject(z, z_bpa, align(p)[::-1])
        return jax.vmap(patches.add)(z_bpa, z_mnc), p

    def _assign(
        self, z: Patches, p: Float[Array, "k c"], mask: Bool[Array, " n"], epsilon: bpa.Epsilon
    ) -> tuple[Factored, Float[Array, ""], Float[Array, ""]]:
        """Z_bpa, and the use and the column error of the plan."""
        plan = assignment(self.config, z, p, mask, epsilon)
        return bpa.reconstruct(plan, p, self.config.plan_scale), bpa.prototype_use(plan), bpa.column_error(plan)


class Decoder(nn.Module):
    """L prototype-aware layers in cascade around one set of prototypes for each modality.

    Algorithm 1 draws the prototypes once, before its loop, and updates them in each layer: the refined prototypes of
    one layer are the prototypes of the next, unless each has its own. They start as unit-variance normal noise, the
    scale of the features, as in INP-Former: small ones make the decoder start as an identity map.

    Attributes:
      config: hyperparameters.
    """

    config: Config

    @nn.compact
    def __call__(self, z: Float[Array, "2 n c"], mask: Bool[Array, " n"], epsilon: bpa.Epsilon) -> PatchesOfBoth:
        """Rebuilds the patches of one sample, `Z_rec` of the last layer, from features of unit root mean square.

        Args:
          z: features of both modalities.
          mask: patches that show the part, at least one.
          epsilon: entropy of the transport plans; an argument, so that one compiled program serves all values.
        """
        shape = (2, self.config.num_prototypes, z.shape[-1])
        rebuilt: PatchesOfBoth = z
        p = self.param("prototypes", nn.initializers.normal(1.0), shape)
        with precision.factors(self.config.precision):
            for layer in range(self.config.num_layers):
                if layer and self.config.layer_prototypes:
                    p = self.param(f"prototypes_{layer}", nn.initializers.normal(1.0), shape)
                rebuilt, p = DecoderLayer(self.config, name=f"layer_{layer}")(rebuilt, p, mask, epsilon)
        return rebuilt
