"""Hyperparameters of UIP-AD."""

import dataclasses
import math

from pirn_jax.methods import residuals
from pirn_jax.methods.base import our_choice


@dataclasses.dataclass(frozen=True)
class Config:
    """Hyperparameters of UIP-AD; "our choice" marks what the paper leaves open.

    Attributes:
      num_prototypes: unified prototypes M (paper: 12).
      num_blocks: blocks of each decoder (our choice, for CPUs: 2; paper: 8).
      heads: heads of all attentions (our choice; they divide the channels).
      mlp_ratio: hidden width of the FFNs and the bottleneck in units of the channels (our choice, for CPUs: 1).
      residual: whether Eq. 4 adds the patches themselves, as printed (our choice: no); so they pass the prototypes by.
      ucp: whether prototypes guide the decoders; off is A of the paper's Table 5, an autoencoder with self-attention.
      cpg: whether patches refine the prototypes (Eq. 5); off is B of Table 5.
      separate: whether each decoder refines prototypes of its own (our choice: the mean of both goes on).
      temperature: tau of the soft assignment, Eq. 7 (our choice).
      assignment_weight: weight of L_a, Eq. 9 (our choice; 0 is C of Table 5).
      entropy_weight: weight of L_p, Eq. 10 (our choice; 0 is D of Table 5).
      gather_weight: weight of INP-Former's gather loss, which ties prototypes to the patches (our choice, as neither
        L_a nor L_p does; paper: none).
      mining_exponent: exponent of the soft mining loss for L_s (our choice; 0, the mean of Eq. 8 as printed).
      score: distance of a patch, "cosine" as in Eq. 11; or what is left of it beside what is left of good parts:
        "nearest" (our choice), "gaussian" or "both", see `residuals.compare`.
    """

    num_prototypes: int = 12
    num_blocks: int = our_choice(2)
    heads: int = our_choice(4)
    mlp_ratio: float = our_choice(1.0)
    residual: bool = our_choice(False)
    ucp: bool = True
    cpg: bool = True
    separate: bool = our_choice(False)
    temperature: float = our_choice(0.1)
    assignment_weight: float = our_choice(0.1)
    entropy_weight: float = our_choice(0.1)
    gather_weight: float = our_choice(0.2)
    mining_exponent: float = our_choice(3.0)
    score: str = "nearest"

    def __post_init__(self):
        for name in ("num_prototypes", "num_blocks", "heads", "mlp_ratio", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("assignment_weight", "entropy_weight", "gather_weight", "mining_exponent"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")
        if self.score not in residuals.SCORES:
            raise ValueError(f"unknown score {self.score!r}; choose one of {', '.join(residuals.SCORES)}")
