"""Everything that can change a number of a study."""

import dataclasses
import hashlib
from typing import Any

import jax

from pirn_jax import __version__, pirn
from pirn_jax.data.options import Options
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation
from pirn_jax.protocol import evaluation, scoring, training


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that can change a number of a study.

    Attributes:
      dataset: name of the data set.
      shots: numbers of good parts, one study each.
      seeds: repeats, numbered from 0.
      method: name of the method, one of `METHODS`.
      config: its hyperparameters.
      recipe: how runs are trained.
      encoder: frozen encoder.
      preparation: how parts become its input.
      sigma: deviation of the Gaussian on anomaly maps, in pixels of the encoder's input.
      options: how the data set was read.
      metrics: how anomaly maps are evaluated.
    """

    dataset: str
    shots: tuple[int, ...]
    seeds: int
    method: str
    config: pirn.Config
    recipe: training.Recipe
    encoder: Encoder
    preparation: Preparation
    sigma: float
    options: Options = Options()
    metrics: evaluation.Settings = evaluation.Settings()

    @property
    def maps(self) -> scoring.Maps:
        """How patch distances become anomaly maps."""
        size = self.preparation.size
        return scoring.Maps(size // self.encoder.config.patch, size, self.sigma)


def describe(spec: Spec, categories: list[str], names: list[str]) -> dict[str, Any]:
    """Every flag and constant that can change a number, by name.

    Args:
      spec: the study.
      categories: their names.
      names: what stands for the bytes of all files read; only its digest is kept.
    """
    return {
        "platform": jax.default_backend(),
        "pirn_jax": __version__,
        "jax": jax.__version__,
        "dataset": spec.dataset,
        "categories": categories,
        "data": hashlib.sha256("".join(names).encode()).hexdigest(),
        "shots": list(spec.shots),
        "seeds": spec.seeds,
        "encoder": spec.encoder.name,
        "encoder_digest": spec.encoder.digest,
        "encoder_blocks": list(spec.encoder.blocks),
        "input_size": spec.preparation.size,
        "light": spec.options.light,
        "xyz_unit": spec.options.unit,
        "normals": spec.preparation.normals,
        "normals_neighbours": spec.preparation.neighbours,
        "foreground": spec.preparation.foreground,
        "plane_tolerance": spec.preparation.plane_tolerance,
        "cluster_reach": spec.preparation.cluster_reach,
        "sigma": spec.sigma,
        **{f"metrics_{name}": value for name, value in spec.metrics.describe().items()},
        "method": spec.method,
        **dataclasses.asdict(spec.config),
        **dataclasses.asdict(spec.recipe),
    }
