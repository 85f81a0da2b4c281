"""Trained runs as one compiled function from images to anomaly maps and scores."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax import __version__, features, methods, scoring, threads
from pirn_jax.data.problems import InputError
from pirn_jax.encoders import pretrained
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation
from pirn_jax.methods import base
from pirn_jax.methods.base import Features
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.study import storage
from pirn_jax.study.spec import MODALITIES, SUPPORT_PARTS, Spec
from pirn_jax.training.episodes import ALL, Run, Shots


class Inspection(NamedTuple):
    """Result of a batch of samples.

    Attributes:
      maps: fused anomaly maps, larger is more anomalous.
      scores: image score of each map.
    """

    maps: Float[Array, "b h w"]
    scores: Float[Array, " b"]


def compile_inspection(spec: Spec) -> Callable[..., Inspection]:
    """Builds `(weights, params, scales (e, k), images (b, 2, s, s, 3) uint8, masks (b, n), size) -> Inspection`.

    The leaves of the parameters have a leading axis of e members, whose fused maps are averaged.

    One program from pixels to scores: all modalities of all samples are one batch of the encoder, which ends with the
    last chosen block. It gives what a study computes step by step, to rounding. XLA compiles it on the first call for
    each shape and size.
    """
    encode = features.encoding(spec.encoder.config, spec.encoder.groups, spec.grid)
    method, maps = spec.build(), spec.maps
    chosen = np.array([MODALITIES.index(name) for name in spec.modalities])

    def inspect(
        weights: Any, params: Any, scales: Array, images: Array, masks: Array, size: tuple[int, int]
    ) -> Inspection:
        values = encode(weights, images[:, chosen])

        def of_member(params: Any, scales: Array) -> Float[Array, "b n"]:
            distances = jax.vmap(lambda *of: scoring.patch_distances(method.score, params, Features(*of)))
            return scoring.fuse(distances(values, masks), scales, maps.fusion, maps.judges)

        fused = jnp.mean(jax.vmap(of_member)(params, scales), axis=0).reshape(-1, maps.grid, maps.grid)
        rows, columns = scoring.operators(maps, size)
        # Accelerators round the factors of a product unless told otherwise; a study's maps are NumPy's.
        found = jnp.einsum("hi,bij,wj->bhw", rows, fused, columns, precision="highest")
        return Inspection(found, scoring.image_score(found, spec.metrics.top_share))

    return jax.jit(inspect, static_argnames="size")


@dataclasses.dataclass(frozen=True)
class Inspector:
    """Trained runs of one study, to call on the inputs that `inputs.prepare` makes of samples.

    Attributes:
      run: the run, or the first of several.
      settings: of the study, see `spec.describe`.
      spec: of the study.
      params: trained parameters of the e runs, that axis first.
      scales: by which the maps of each are divided.
      program: see `compile_inspection`.
    """

    run: Run
    settings: Mapping[str, Any]
    spec: Spec
    params: Any
    scales: Float[Array, "e k"]
    program: Callable[..., Inspection]

    def __call__(
        self,
        images: np.ndarray | Array,
        regions: np.ndarray | None = None,
        size: tuple[int, int] | None = None,
    ) -> Inspection:
        """Inspects a batch of samples, on a CPU side by side; the result stays on the device.

        Args:
          images: (b, 2, s, s, 3) uint8, RGB and geometry of each sample as `inputs.prepare` gives them.
          regions: (b, s, s) bool, pixels that show the part as `inputs.prepare` gives them; by default all do.
          size: height and width of the maps, those of the samples' images; by default the encoder's input size.

        Raises:
          ValueError: if an array is of another shape or type.
        """
        side = self.spec.preparation.size
        if images.ndim != 5 or images.shape[1:] != (2, side, side, 3) or images.dtype != np.uint8 or not len(images):
            raise ValueError(
                f"images {images.shape} of {images.dtype}: expected (batch, 2, {side}, {side}, 3) of uint8, as "
                "inputs.prepare gives them, of one part or more"
            )
        if regions is None or self.spec.background == "keep":
            regions = np.ones((len(images), side, side), bool)
        if regions.shape != (len(images), side, side):
            raise ValueError(f"regions {regions.shape}: expected {(len(images), side, side)}, one for each image")
        masks = np.stack([features.patch_mask(region, self.spec.grid) for region in regions])
        weights = self.spec.encoder.params

        def inspect(share: slice) -> Inspection:
            given = images[share], masks[share]
            return jax.block_until_ready(self.program(weights, self.params, self.scales, *given, size or (side, side)))

        found = threads.each(inspect, threads.shares(len(images)))
        return found[0] if len(found) == 1 else jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def runs(directory: pathlib.Path) -> list[Run]:
    """The finished runs of a study.

    Raises:
      InputError: if the directory is no study, or was written by another version.
    """
    return list(_places(directory, _settings(directory)))


def load(directory: pathlib.Path, run: Run, encoder: str | None = None) -> Inspector:
    """Loads a finished run.

    Args:
      directory: the study's `--output_dir`.
      run: category, shots and seed.
      encoder: name or file of the study's encoder; by default what the study calls it.

    Raises:
      InputError: if the directory is no study, has no such run (naming those that it has), is damaged or of another
        version, or if the encoder is not the one that the study was made with.
    """
    settings = _settings(directory)
    places = _places(directory, settings)
    if run not in places:
        there = "; ".join(sorted({f"{other.category}, {other.shots} shots" for other in places})) or "none"
        seeds = sorted({other.seed for other in places if other[:2] == run[:2]})
        there = f"seeds {', '.join(map(str, seeds))} of it" if seeds else there
        raise InputError(
            f"{directory}: no finished run of {run.category}, {run.shots} shots, seed {run.seed}; choose from what is "
            f"there: {there}"
        )
    spec = spec_of(settings, directory / "settings.json", encoder)
    params, scales = _params(directory, *places[run], spec, run.shots)
    return Inspector(run, settings, spec, params, scales, compile_inspection(spec))


def spec_of(settings: Mapping[str, Any], path: pathlib.Path, encoder: str | None = None) -> Spec:
    """The study that wrote settings; what inspection does not need keeps its default.

    Args:
      settings: see `spec.describe`.
      path: of their file, for messages.
      encoder: see `load`.

    Raises:
      InputError: if settings are of another version, or the encoder is not the study's.
    """
    try:
        return _spec(settings, encoder)
    except InputError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"holds what is not understood ({error})"
        raise InputError(
            f"{path}: {what}, it was written by pirn_jax {settings.get('pirn_jax')}; use that version instead of "
            f"{__version__}, or make it again"
        ) from error


def _spec(settings: Mapping[str, Any], encoder: str | None) -> Spec:
    entry = methods.find(settings["method"])

    def rebuild(part: Any) -> Any:
        return type(part)(**{field.name: settings[field.name] for field in dataclasses.fields(part)})

    default = entry.presets["default"]
    names = (
        "input_size",
        "geometry",
        "normals",
        "normals_neighbours",
        "foreground",
        "plane_tolerance",
        "cluster_reach",
    )
    return Spec(
        settings["dataset"],
        tuple(settings["shots"]),
        settings["seeds"],
        settings["method"],
        rebuild(default.config),
        default.recipe and rebuild(default.recipe),
        _encoder(settings, encoder),
        Preparation(*(settings[name] for name in names)),
        settings["preset"],
        tuple(settings["modalities"]),
        settings["grid"],
        settings["background"],
        settings["sigma"],
        settings["fusion"],
        metrics=MetricSettings(top_share=settings["metrics_top_share"]),
        augmentation=settings["augmentation"],
    )


def _settings(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / "settings.json"
    if not path.is_file():
        inside = ", ".join(sorted(str(found.parent) for found in directory.glob("*/settings.json")))
        raise InputError(
            f"{directory}: no study, it holds no settings.json; give "
            + (f"one of {inside}" if inside else "an --output_dir of experiments.fewshot")
        )
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the command of the study again") from error


def _places(directory: pathlib.Path, settings: Mapping[str, Any]) -> dict[Run, tuple[str, int]]:
    """By run, the name of its group and its index there."""
    groups = storage.load_groups(directory, settings)
    return {Run(*run): (name, i) for name, _, facts in groups for i, run in enumerate(facts["runs"])}


def _encoder(settings: Mapping[str, Any], given: str | None) -> Encoder:
    name: str = given or settings["encoder"]
    try:
        found = pretrained.load(name, [tuple(map(tuple, groups)) for groups in settings["encoder_blocks"]])
    except ValueError as error:
        raise InputError(f"the study's encoder: {error}") from error
    if found.digest != settings["encoder_digest"]:
        raise InputError(
            f"encoder {name}: not the one that the study was made with, its digest is {found.digest[:12]} instead of "
            f"{settings['encoder_digest'][:12]}; give that one's file with --encoder"
        )
    return found


def _params(
    directory: pathlib.Path, group: str, index: int, spec: Spec, shots: Shots
) -> tuple[Any, Float[Array, "1 k"]]:
    """Parameters and scales of a run, as of one member."""
    # Of the shapes only the tree is needed, which no number of parts changes.
    parts = SUPPORT_PARTS if shots == ALL else int(shots)
    shapes = base.shapes(parts, len(spec.modalities), len(spec.encoder.groups), spec.grid**2, spec.encoder.config.width)
    method = spec.build()
    try:
        stacked = storage.load_params(directory, group, base.params_shapes(method, shapes))
        arrays, _ = storage.load_group(directory, group, _settings(directory)) or ({}, {})
        scales = arrays.get("scales", np.ones((index + 1, len(method.maps)), np.float32))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{directory / 'params' / group}: cannot be read ({reason}); run the study again") from error
    # A copy each, so that the parameters of the other runs can be forgotten.
    member = slice(index, index + 1)
    return jax.tree.map(lambda leaf: jnp.array(leaf[member]), stacked), jnp.array(scales[member])
