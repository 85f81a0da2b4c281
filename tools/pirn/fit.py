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

from pirn_jax import atomic, cache, features, inputs
from pirn_jax.data import folder, sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.inspection import bundle, fitting, thresholds
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study import selection
from pirn_jax.study.placement import place_all
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training import compiled
from tools import console, dataset_flags, image_score, method_flags, study_flags
from tools.pirn import samples, summary

FLAGS = flags.FLAGS
_SIDE, _SHOWN = 160, 48
"""Side in pixels of a picture on the sheet of good parts, and how many of them are on it."""


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("parts", None, "Folder of good parts: rgb/ and one of xyz/, depth/ and cloud/.", required=True)
    flags.DEFINE_string("output", None, "File of the model, such as bolts.pirn.", required=True)
    flags.DEFINE_integer("seeds", 0, "Members of the ensemble; by default 3, or 1 of methods without chance.", 0)
    flags.DEFINE_integer("samples", 2, "Good parts that the model carries along, to try it with.", lower_bound=0)
    flags.DEFINE_float("false_alarms", 0.05, "Wished share of good parts that are called defective.")
    seen = "tools.study_flags", "tools.dataset_flags", "tools.image_score", "tools.method_flags"
    console.define_help("tools.pirn.fit", *seen, *method_flags.help_groups(), text=__doc__)


def _spec(count: int, seeds: int) -> Spec:
    config, recipe = method_flags.single()
    study = "folder", (max(count, 1),), seeds, FLAGS.method, config, recipe
    try:
        fields = study_flags.fields() | {"preset": FLAGS.preset, "options": dataset_flags.options()}
        metrics = MetricSettings(top_share=image_score.top_share())
        return Spec(*study, preparation=dataset_flags.preparation(), metrics=metrics, **fields)
    except ValueError as error:
        raise InputError(str(error)) from error


def _apply_preset() -> None:
    """Takes the flags of the preset, but for those of studies alone; refuses one that changes scores after them."""
    if method_flags.preset().flags.get("normalisation", "none") != "none":
        raise InputError(
            f"--preset={FLAGS.preset} of {FLAGS.method} divides maps by means over all test parts, which a single part "
            "has not; take --preset=default"
        )
    method_flags.apply_preset()


def _find(parts: pathlib.Path) -> tuple[list[Record], tuple[int, int]]:
    """The good parts, and height and width that all of their images have."""
    problems = Problems()
    records = folder.read_new(parts, dataset_flags.options(), problems)
    if problems.found:
        sample.tell_all(records, problems)
    if not records:
        raise InputError(f"{parts}: no good parts in it; put their images into rgb/ and their scans beside it")
    sizes = {}
    for record in records:
        with problems.collecting():
            sizes[record.id] = record.source.size()
    problems.check()
    first, *rest = sizes
    other = next((name for name in rest if sizes[name] != sizes[first]), None)
    if other:
        shown = [f"{name} has {sizes[name][1]}x{sizes[name][0]} pixels" for name in (first, other)]
        raise InputError(f"{parts}: {' and '.join(shown)}; one model is of one camera, so fit one for each")
    return records, sizes[first]


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
    dataset_flags.refuse("dataset", "data_dir", "categories", because="parts are those of --parts")
    _apply_preset()
    FLAGS.dataset = "folder"
    home, parts, output = cache.cache_directory(), pathlib.Path(FLAGS.parts), pathlib.Path(FLAGS.output)
    if output.is_dir():
        raise InputError(f"--output={output}: a folder; name a file, such as {output / 'parts.pirn'}")
    obstacle = atomic.obstacle(output.parent)
    if obstacle:
        raise InputError(f"--output={output}: {obstacle} is not a folder that can be written to")
    compiled.keep(home / "xla")
    try:
        thresholds.threshold(np.arange(2.0), FLAGS.false_alarms)
    except ValueError as error:
        raise InputError(f"--false_alarms: {error}") from error
    members = FLAGS.seeds or (1 if method_flags.preset().recipe is None else 3)
    records, size = _find(parts)
    spec, problems = _spec(len(records), members), Problems()
    names = inputs.identify(records, spec.preparation, problems)
    problems.check()
    viewed = selection.seen(records, spec)
    with console.stage("normals and features", len(viewed)) as advance, Stopwatch() as watch:
        given = viewed, [name for name in names for _ in spec.views], spec.encoder, spec.grid, spec.preparation, home
        found = features.extract(*given, watch, advance)
    fitted = fitting.fit(spec, place_all(spec, found), [size] * len(records), members, console.stage)
    good = bundle.Good([record.id for record in records], fitted.scores, fitted.highest, size)
    told = {"false_alarms": FLAGS.false_alarms, "members": members, "scan_unit": samples.unit(records)}
    settings = describe(spec, [parts.resolve().name], names) | told
    few = samples.take(records[: FLAGS.samples], settings["scan_unit"])
    bundle.write(output, settings, fitted, good, _sheet(records), few)
    for note in filter(None, (spec.encoder.note, *inputs.summarise(records, found.notes[:: len(spec.views)]))):
        print(f"note: {note}")
    print(summary.text(output, settings, good))


def main(arguments: list[str]) -> None:
    """Fits a model; exits with status 1 and one sentence if something is wrong with what the user gave."""
    interrupted = "interrupted; the same command goes on with the features that are known"
    refusals = InputError, FloatingPointError
    console.run(_fit, arguments, places="--output and PIRN_CACHE", interrupted=interrupted, refusals=refusals)
