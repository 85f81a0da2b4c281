"""A finished run, ready for new parts: one compiled function from images to anomaly maps and scores."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from pirn_jax import __version__, features, pirn, study, threads
from pirn_jax.data.problems import InputError
from pirn_jax.encoders import pretrained, vit
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.inputs import Preparation
from pirn_jax.method import Method
from pirn_jax.protocol import scoring
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.scoring import Maps
from pirn_jax.report import archive


class Inspection(NamedTuple):
    """What is found on a batch of parts.

    Attributes:
      maps: fused anomaly maps, larger is more anomalous.
      scores: the maximum of each map.
    """

    maps: Float[Array, "b h w"]
    scores: Float[Array, " b"]


def compile_inspection(
    config: vit.ViTConfig, blocks: tuple[int, ...], method: Method, maps: Maps
) -> Callable[..., Inspection]:
    """Builds `(weights, params, images (b, 2, s, s, 3) uint8, size) -> Inspection`.

    One program from pixels to scores: both modalities of all parts are one batch of the encoder, which ends with the
    last chosen block. It gives what `features.encode`, `method.score` and `Maps.fused` give one after the other, to
    rounding. XLA compiles it on the first call for each shape and size.

    Args:
      config: architecture of the encoder.
      blocks: blocks whose patch tokens are averaged, from 1.
      method: gives patch distances.
      maps: takes them to maps of a size (height, width).
    """
    encode = features.encoding(config, blocks)

    def inspect(weights: Any, params: Any, images: Array, size: tuple[int, int]) -> Inspection:
        distances = jax.vmap(lambda part: method.score(params, part))(encode(weights, images))
        fused = distances.sum(1).reshape(-1, maps.grid, maps.grid)
        rows, columns = scoring.operators(maps, size)
        # Accelerators round the factors of a product unless told otherwise; a study's maps are NumPy's.
        found = jnp.einsum("hi,bij,wj->bhw", rows, fused, columns, precision="highest")
        return Inspection(found, found.max((1, 2)))

    return jax.jit(inspect, static_argnames="size")


@dataclasses.dataclass(frozen=True)
class Inspector:
    """One trained run of a study, to call on what `inputs.prepare` makes of parts.

    Attributes:
      run: which one.
      settings: of the study, see `spec.describe`.
      encoder: frozen encoder.
      preparation: how parts become its input.
      params: trained parameters of the run.
      program: see `compile_inspection`.
    """

    run: Run
    settings: Mapping[str, Any]
    encoder: Encoder
    preparation: Preparation
    params: Any
    program: Callable[..., Inspection]

    def __call__(self, images: np.ndarray | Array, size: tuple[int, int] | None = None) -> Inspection:
        """Inspects a batch of parts, on a CPU side by side; the result stays on the device.

        Args:
          images: (b, 2, s, s, 3) uint8, RGB and normals of each part as `inputs.prepare` gives them.
          size: height and width of the maps, those of the parts' images; by default the encoder's input size.

        Raises:
          ValueError: if the images are of another shape or type.
        """
        side = self.preparation.size
        if images.ndim != 5 or images.shape[1:] != (2, side, side, 3) or images.dtype != np.uint8 or not len(images):
            raise ValueError(
                f"images {images.shape} of {images.dtype}: expected (batch, 2, {side}, {side}, 3) of uint8, as "
                "inputs.prepare gives them, of one part or more"
            )

        def inspect(share: slice) -> Inspection:
            found = self.program(self.encoder.params, self.params, images[share], size or (side, side))
            return jax.block_until_ready(found)

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
    try:
        config = pirn.Config(**{field.name: settings[field.name] for field in dataclasses.fields(pirn.Config)})
        method = study.METHODS[settings["method"]](config)
        names = ("input_size", "normals", "normals_neighbours", "foreground", "plane_tolerance", "cluster_reach")
        preparation = Preparation(*(settings[name] for name in names))
        frozen = _encoder(settings, encoder)
        maps = Maps(preparation.size // frozen.config.patch, preparation.size, settings["sigma"])
    except KeyError as error:
        raise InputError(
            f"{directory / 'settings.json'}: lacks {error}, it was written by pirn_jax {settings.get('pirn_jax')}; use "
            f"that version instead of {__version__}, or run the study again"
        ) from error
    program = compile_inspection(frozen.config, frozen.blocks, method, maps)
    return Inspector(run, settings, frozen, preparation, _params(directory, *places[run]), program)


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
    groups = archive.load_groups(directory, settings)
    return {Run(*run): (name, i) for name, _, facts in groups for i, run in enumerate(facts["runs"])}


def _encoder(settings: Mapping[str, Any], given: str | None) -> Encoder:
    name: str = given or settings["encoder"]
    try:
        found = pretrained.load(name, tuple(settings["encoder_blocks"]))
    except ValueError as error:
        raise InputError(f"the study's encoder: {error}") from error
    if found.digest != settings["encoder_digest"]:
        raise InputError(
            f"encoder {name}: not the one that the study was made with, its digest is {found.digest[:12]} instead of "
            f"{settings['encoder_digest'][:12]}; give that one's file with --encoder"
        )
    return found


def _params(directory: pathlib.Path, group: str, index: int) -> Any:
    try:
        stacked = archive.load_params(directory, group)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{directory / 'params' / group}: cannot be read ({reason}); run the study again") from error
    # A copy each, so that the parameters of the other runs can be forgotten.
    return jax.tree.map(lambda leaf: jnp.array(leaf[index]), stacked)
