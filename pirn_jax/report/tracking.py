"""The runs of a finished study for other programs: JSON lines, and event files of TensorBoard without TensorFlow."""

import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.report import figures
from pirn_jax.report.pictures import Gallery
from pirn_jax.study import storage

LINES = "runs.jsonl"
EVENTS = "tensorboard"


class Tracked(NamedTuple):
    """One run of a finished study.

    Attributes:
      category: its category.
      shots: its number of good parts.
      seed: its seed.
      metrics: by name; None where undefined.
      training: what training measured at every step, by name.
    """

    category: str
    shots: int
    seed: int
    metrics: dict[str, float | None]
    training: dict[str, list[float]]


def runs(directory: pathlib.Path, settings: Mapping[str, Any]) -> Iterator[Tracked]:
    """The runs of the groups that a study with these settings has finished."""
    for _, arrays, facts in storage.load_groups(directory, settings):
        curves = {name.removeprefix("train_"): v for name, v in arrays.items() if name.startswith("train_")}
        for i, ((category, shots, seed), metrics) in enumerate(zip(facts["runs"], facts["metrics"], strict=True)):
            training = {name: [float(value) for value in values[i]] for name, values in curves.items()}
            yield Tracked(category, shots, seed, metrics, training)


def write_lines(directory: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `runs.jsonl`: a line for each run with category, shots, seed, metrics and curves of its training."""
    lines = [json.dumps(run._asdict(), ensure_ascii=False, allow_nan=False) for run in runs(directory, settings)]
    atomic.write_text(directory / LINES, "".join(f"{line}\n" for line in lines))


def require() -> Any:
    """The module that writes event files.

    Raises:
      InputError: with the remedy, where it is not installed.
    """
    try:
        import tensorboardX
    except ImportError as error:
        raise InputError('--tensorboard needs a package; pip install "pirn_jax[tensorboard]"') from error
    return tensorboardX


def write_events(directory: pathlib.Path, settings: Mapping[str, Any], galleries: Sequence[Gallery]) -> None:
    """Writes event files of TensorBoard to `tensorboard/`, a folder a run; those of before are replaced.

    A run has the curves of its training as scalars, the study's settings as hyperparameters with its metrics, and the
    fused maps of its gallery as images, if it has one.

    Raises:
      InputError: where the package is not installed.
    """
    writer_of = require().SummaryWriter
    home = directory / EVENTS
    for old in home.glob("*/events.*"):
        old.unlink()
    told = {name: value if isinstance(value, int | float | str) else str(value) for name, value in settings.items()}
    with writer_of(str(home), write_to_disk=False) as root:
        for run in runs(directory, settings):
            category = re.sub(r"[^\w.-]", "_", run.category)
            name = f"{run.shots}-{category}-{run.seed}"
            defined = {f"metrics/{key}": v for key, v in run.metrics.items() if v is not None and math.isfinite(v)}
            root.add_hparams(told, defined, name)
            # Files of one second would have one name.
            with writer_of(str(home / name), filename_suffix=".training") as writer:
                for key, values in run.training.items():
                    for step, value in enumerate(values, 1):
                        writer.add_scalar(f"training/{key}", value, step)
                for gallery in galleries:
                    if (gallery.category, gallery.shots, gallery.seed) == (run.category, str(run.shots), run.seed):
                        _add_pictures(writer, gallery)


def _add_pictures(writer: Any, gallery: Gallery) -> None:
    for i, picture in enumerate(gallery.pictures):
        image = np.concatenate([picture.rgb, figures.overlay(picture.rgb, picture.fused, *gallery.scale)], axis=1)
        writer.add_image(f"{picture.kind}/{i} {picture.sample_id}", image, dataformats="HWC")
