"""Learns what good parts look like, and sets a threshold from good parts alone.

    pirn fit --parts=good --output=bolts.pirn
    pirn fit --parts=good --output=bolts.pirn --method=gaussian --false_alarms=.02

--parts holds rgb/ and one of xyz/, depth/ and cloud/ (docs/own_data.md); all of them are good. Each part is left out
once and scored by a model that has not seen it; all these models train together. After an interruption the same command
takes up the features that it had.
"""

import io
import pathlib

import numpy as np
import PIL.Image
from absl import flags

from pirn_jax import cache, features, inputs, methods
from pirn_jax.data import folder, sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.encoders import pretrained
from pirn_jax.inspection import bundle, fitting, thresholds
from pirn_jax.methods import METHODS
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study.placement import place_all
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training import compiled
from tools import console, dataset_flags
from tools.pirn import samples

FLAGS = flags.FLAGS
_SIDE, _SHOWN = 160, 48
"""Side in pixels of a picture on the sheet of good parts, and how many of them are on it."""


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("parts", None, "Folder of good parts: rgb/ and one of xyz/, depth/ and cloud/.", required=True)
    flags.DEFINE_string("output", None, "File of the model, such as bolts.pirn.", required=True)
    flags.DEFINE_string("method", "pirn", f"Method: {', '.join(METHODS)}.")
    flags.DEFINE_string("preset", "default", "Settings of the method.")
    flags.DEFINE_string("encoder", pretrained.DEFAULT, "Frozen encoder, or several side by side.")
    flags.DEFINE_integer("grid", 0, "Patches along a side; by default the finest of the encoders'.", lower_bound=0)
    flags.DEFINE_integer("seeds", 0, "Members of the ensemble; by default 3, or 1 of methods without chance.", 0)
    flags.DEFINE_integer("samples", 2, "Good parts that the model carries along, to try it with.", lower_bound=0)
    flags.DEFINE_float("false_alarms", 0.05, "Wished share of good parts that are called defective.")
    console.define_help("tools.pirn.fit", "tools.dataset_flags", text=__doc__)


def _spec(count: int, seeds: int) -> Spec:
    try:
        preset = methods.choose(FLAGS.method, FLAGS.preset)
        encoder = pretrained.load(FLAGS.encoder)
        preparation, options = dataset_flags.preparation(), dataset_flags.options()
        study = "folder", (max(count, 1),), seeds, FLAGS.method, preset.config, preset.recipe, encoder, preparation
        return Spec(*study, preset=FLAGS.preset, grid=FLAGS.grid, options=options)
    except ValueError as error:
        raise InputError(str(error)) from error


def _members() -> int:
    if FLAGS.seeds:
        return FLAGS.seeds
    try:
        return 1 if methods.choose(FLAGS.method, FLAGS.preset).recipe is None else 3
    except ValueError as error:
        raise InputError(str(error)) from error


def _find(parts: pathlib.Path) -> list[Record]:
    problems = Problems()
    records = folder.read_new(parts, dataset_flags.options(), problems)
    if problems.found:
        sample.tell_all(records, problems)
    if not records:
        raise InputError(f"{parts}: no good parts in it; put their images into rgb/ and their scans beside it")
    sizes = {record.id: record.source.size() for record in records}
    first, *rest = sizes
    other = next((name for name in rest if sizes[name] != sizes[first]), None)
    if other:
        shown = [f"{name} has {sizes[name][1]}x{sizes[name][0]} pixels" for name in (first, other)]
        raise InputError(f"{parts}: {' and '.join(shown)}; one model is of one camera, so fit one for each")
    return records


def _sheet(records: list[Record]) -> bytes:
    """A JPEG of the good parts side by side."""
    shown = records[:_SHOWN]
    columns = min(len(shown), 8)
    sheet = PIL.Image.new("RGB", (columns * _SIDE, -(-len(shown) // columns) * _SIDE), "white")
    for i, record in enumerate(shown):
        picture = PIL.Image.fromarray(record.source.arrays()[0])
        picture.thumbnail((_SIDE, _SIDE))
        sheet.paste(picture, (i % columns * _SIDE, i // columns * _SIDE))
    buffer = io.BytesIO()
    sheet.save(buffer, "jpeg", quality=85)
    return buffer.getvalue()


def _fit() -> None:
    FLAGS.dataset = "folder"
    home, parts, output = cache.cache_directory(), pathlib.Path(FLAGS.parts), pathlib.Path(FLAGS.output)
    compiled.keep(home / "xla")
    try:
        thresholds.threshold(np.arange(2.0), FLAGS.false_alarms)
    except ValueError as error:
        raise InputError(f"--false_alarms: {error}") from error
    members = _members()
    records = _find(parts)
    spec, problems = _spec(len(records), members), Problems()
    names = inputs.identify(records, spec.preparation, problems)
    problems.check()
    with console.stage("normals and features", len(records)) as advance, Stopwatch() as watch:
        given = records, names, spec.encoder, spec.grid, spec.preparation, home
        found = features.extract(*given, watch, advance)
    sizes = [record.source.size() for record in records]
    fitted = fitting.fit(spec, place_all(spec, found), sizes, members, console.stage)
    good = bundle.Good([record.id for record in records], fitted.scores, fitted.highest, sizes[0])
    settings = describe(spec, [parts.resolve().name], names) | {"false_alarms": FLAGS.false_alarms, "members": members}
    few = samples.take(records[: FLAGS.samples], settings["xyz_unit"])
    bundle.write(output, settings, fitted, good, _sheet(records), few)
    for note in filter(None, (spec.encoder.note, *inputs.summarise(records, found.notes))):
        print(f"note: {note}")
    print(summary(output, settings, good))


def summary(path: pathlib.Path, settings: dict, good: bundle.Good) -> str:
    """Description of a model and of its promise, for the terminal."""
    limit, count = thresholds.threshold(good.scores, settings["false_alarms"]), len(good.parts)
    lines = [
        f"{path}: {settings['method']} on {settings['encoder']}, {count} good part{'s' if count > 1 else ''} of "
        f"{good.size[1]}x{good.size[0]} pixels, {settings['members']} members, pirn_jax {settings['pirn_jax']}"
    ]
    if len(good.scores):
        low, middle, high = np.quantile(good.scores, [0, 0.5, 1])
        lines.append(f"left-out good parts score {low:.3f} to {high:.3f}, median {middle:.3f}")
    else:
        lines.append("a single part cannot be left out: give two or more for a threshold")
    shown = "none" if limit.kind == "none" else f"{limit.value:.4g}"
    return "\n".join([*lines, f"threshold {shown}: {limit.text}"])


def main(arguments: list[str]) -> None:
    """Fits a model; exits with status 1 and one sentence if something is wrong with what the user gave."""
    interrupted = "interrupted; the same command goes on with the features that are known"
    refusals = InputError, FloatingPointError
    console.run(_fit, arguments, places="--output and PIRN_CACHE", interrupted=interrupted, refusals=refusals)
