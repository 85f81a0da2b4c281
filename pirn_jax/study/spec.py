"""Specification of a study: everything that can change a number."""

import dataclasses
import hashlib
from typing import Any

import jax

from pirn_jax import __version__, features, methods, scoring
from pirn_jax.data.options import Options
from pirn_jax.data.views import AUGMENTATIONS, View
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation
from pirn_jax.methods import balance, base, views
from pirn_jax.methods.base import Method, Recipe
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.training.episodes import ALL, Shots

MODALITIES = ("rgb", "geometry")
"""Modalities that a study can take; the second is named by `Preparation.geometry`."""

SUPPORT_PARTS = 50
"""Good parts from which a run that learns from all takes its scales and calibrates its maps (our choice)."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that can change a number of a study.

    Attributes:
      dataset: name of the data set.
      shots: numbers of good parts, or `episodes.ALL`, one study each.
      seeds: repeats, numbered from 0.
      method: name of the method, one of `METHODS`.
      config: its hyperparameters.
      recipe: optimiser settings, None for a method without gradient descent.
      encoder: frozen encoder, or several side by side.
      preparation: how samples become its input.
      preset: name of the preset that settings come from.
      modalities: one or both of `MODALITIES`.
      grid: patches along a side; 0 for the finest of the encoders' own.
      background: "ignore", or "keep" to treat patches off the part like all others.
      sigma: deviation of the Gaussian on anomaly maps, in pixels of the encoder's input.
      fusion: "sum" of a method's maps; of maps divided by what good parts reach "calibrated", their sum, "one_class", a
        weighted sum, or "maximum".
      options: how the data set was read.
      metrics: evaluation settings.
      support_parts: of runs that learn from every good part, how many of these memory banks, scales and calibration
        are made from; 0 for all, -1 for all where the method keeps patches, else `SUPPORT_PARTS`.
      augmentation: views of each good part that runs learn from, a name of `AUGMENTATIONS`.

    Raises:
      ValueError: if settings do not go together.
    """

    dataset: str
    shots: tuple[Shots, ...]
    seeds: int
    method: str
    config: Any
    recipe: Recipe | None
    encoder: Encoder
    preparation: Preparation
    preset: str = "default"
    modalities: tuple[str, ...] = MODALITIES
    grid: int = 0
    background: str = "ignore"
    sigma: float = 4.0
    fusion: str = "maximum"
    options: Options = Options()
    metrics: MetricSettings = MetricSettings()
    support_parts: int = -1
    augmentation: str = "none"

    def __post_init__(self):
        known = ("background", features.BACKGROUNDS), ("fusion", scoring.FUSIONS), ("augmentation", AUGMENTATIONS)
        for name, choices in known:
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if self.modalities not in (MODALITIES, MODALITIES[:1], MODALITIES[1:]):
            raise ValueError(f"modalities {', '.join(self.modalities)}: give one or both of {', '.join(MODALITIES)}")
        size = self.preparation.size
        for config, _ in self.encoder.parts:
            if size % config.patch:
                raise ValueError(f"--input_size={size} is no multiple of the encoder's patch, {config.patch} pixels")
        if not self.grid:
            object.__setattr__(self, "grid", size // self.encoder.config.patch)
        if self.grid < 0 or size % self.grid:
            raise ValueError(f"--grid={self.grid} does not divide --input_size={size} into patches of whole pixels")
        groups, channels = len(self.encoder.groups), self.encoder.config.width
        method = self.build()
        if (method.loss is None) != (self.recipe is None):
            what = "needs a recipe" if self.recipe is None else "learns nothing by gradient descent, so takes no recipe"
            raise ValueError(f"{self.method} {what}")
        if ALL in self.shots and len(self.views) > 1:
            raise ValueError(f"--augmentation={self.augmentation} is made for few good parts, not for --shots={ALL}")
        if method.whole_support and self.support_parts > 0:
            raise ValueError(f"--support_parts={self.support_parts}: {self.method} looks at all parts; leave it out")
        for shots in self.shots:
            parts = SUPPORT_PARTS if shots == ALL else int(shots) * len(self.views)
            base.check(method, base.shapes(parts, len(self.modalities), groups, self.grid**2, channels))

    @property
    def views(self) -> tuple[View, ...]:
        """Views of each good part that runs learn from, the original first."""
        return AUGMENTATIONS[self.augmentation]

    @property
    def maps(self) -> scoring.Maps:
        """Upsampling of patch distances to anomaly maps."""
        return scoring.Maps(self.grid, self.preparation.size, self.sigma, self.fusion, self.build().judges)

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's features."""
        return 4 * len(self.modalities) * len(self.encoder.groups) * self.grid**2 * self.encoder.config.width

    def support(self, shots: Shots) -> int | None:
        """Good parts of a run that `Method.init`, `finalize` and calibration see; None for all of them."""
        if shots != ALL or self.support_parts == 0:
            return None
        if self.support_parts > 0:
            return self.support_parts
        return SUPPORT_PARTS if self.build().finalize is base.keep else None

    @property
    def modality_names(self) -> tuple[str, ...]:
        """Names of the modalities, such as "rgb" and "normals"."""
        return tuple(self.preparation.geometry if name == "geometry" else name for name in self.modalities)

    def build(self) -> Method:
        """The method with its config."""
        method = methods.find(self.method).build(self.config, self.modality_names)
        widths = tuple(config.width for config, _ in self.encoder.parts)
        method = method if len(widths) == 1 else balance.balanced(method, widths)
        return method if len(self.views) == 1 else views.viewed(method, len(self.views))

    def hyperparameters(self) -> dict[str, Any]:
        """Values of the method's config and of the recipe, by name."""
        return dataclasses.asdict(self.config) | ({} if self.recipe is None else dataclasses.asdict(self.recipe))


def our_choices(spec: Spec) -> list[str]:
    """Settings for which the method's paper gives no value, or another one than the study takes."""
    paper, found = methods.find(spec.method).presets.get("paper"), ["sigma"]
    for part, published in ((spec.config, paper and paper.config), (spec.recipe, paper and paper.recipe)):
        for field in dataclasses.fields(part) if part is not None else ():
            differs = published is not None and getattr(part, field.name) != getattr(published, field.name)
            if differs or field.metadata.get("our_choice"):
                found.append(field.name)
    return found


def shots_note(spec: Spec) -> str:
    """A sentence where a method is published with other numbers of good parts than the study has; else empty."""
    published = dict.fromkeys(row.shots for row in methods.find(spec.method).published)
    numbers = [int(text) for text in published if text != "all"]
    odd = [n for n in spec.shots if not _between(n, numbers) and str(n) not in published]
    if not published or not odd:
        return ""
    *most, last = published
    told, asked = " and ".join(filter(None, [", ".join(most), last])), " or ".join(map(str, odd))
    return f"{spec.method} is published with {told} good parts; with {asked} its settings may not be the best"


def views_note(spec: Spec) -> str:
    """A sentence where runs learn from a single part in a single view; else empty."""
    if 1 not in spec.shots or len(spec.views) > 1:
        return ""
    return "a single good part tells little; where parts lie turned any way, try --augmentation=rotations --grid=16"


def _between(shots: Shots, numbers: list[int]) -> bool:
    return shots != ALL and bool(numbers) and min(numbers) <= int(shots) <= max(numbers)


def support_note(spec: Spec, parts: int) -> str:
    """A sentence where runs that learn from every good part, at most so many, make something from fewer; else empty."""
    few = spec.support(ALL) if ALL in spec.shots else None
    if few is None or few >= parts or (spec.build().finalize is base.keep and spec.fusion == "sum"):
        return ""
    return f"with all shots, memory banks and scales of maps are made from at most {few} good parts (--support_parts)"


def describe(spec: Spec, categories: list[str], names: list[str]) -> dict[str, Any]:
    """Every flag and constant that can change a number, by name.

    Args:
      spec: the study.
      categories: their names.
      names: digests of all files read; only the digest of these is kept.
    """
    return {
        "platform": jax.default_backend(),
        "pirn_jax": __version__,
        "jax": jax.__version__,
        "dataset": spec.dataset,
        "categories": categories,
        "data": hashlib.sha256("".join(names).encode()).hexdigest(),
        "shots": list(spec.shots),
        **({"support_parts": spec.support_parts} if ALL in spec.shots else {}),
        "seeds": spec.seeds,
        "encoder": spec.encoder.name,
        "encoder_digest": spec.encoder.digest,
        "encoder_blocks": [[list(group) for group in groups] for _, groups in spec.encoder.parts],
        "input_size": spec.preparation.size,
        "grid": spec.grid,
        "light": spec.options.light,
        "xyz_unit": spec.options.unit,
        "modalities": list(spec.modalities),
        "geometry": spec.preparation.geometry,
        "normals": spec.preparation.normals,
        "normals_neighbours": spec.preparation.neighbours,
        "foreground": spec.preparation.foreground,
        "plane_tolerance": spec.preparation.plane_tolerance,
        "cluster_reach": spec.preparation.cluster_reach,
        "background": spec.background,
        "augmentation": spec.augmentation,
        "sigma": spec.sigma,
        "fusion": spec.fusion,
        **{f"metrics_{name}": value for name, value in spec.metrics.describe().items()},
        "method": spec.method,
        "preset": spec.preset,
        **spec.hyperparameters(),
        "our_choices": our_choices(spec),
    }
