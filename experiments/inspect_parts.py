"""Inspects new parts with one trained run of a study.

    python -m experiments.inspect_parts --run=outputs/bolts --parts=DIR

DIR holds rgb/ and one of xyz/, depth/ and cloud/, as a folder of docs/own_data.md does; nothing else is known of the
parts. Without --parts, the test parts of the study's data set are inspected (--data_dir). How parts are read and
prepared is the study's. Writes scores.csv, highest first, and anomaly maps to --output_dir, and prints the highest
scores. Exits with status 1 and a list if some parts cannot be used, after inspecting the others.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tifffile
from absl import app, flags

from pirn_jax import atomic, cache, inputs
from pirn_jax.data import folder
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.inspection import inspector
from pirn_jax.inspection.inspector import Inspector
from pirn_jax.training import compiled, episodes
from pirn_jax.training.episodes import Run
from tools import console, dataset_flags

_RUN = flags.DEFINE_string("run", None, "The study: an --output_dir of experiments.fewshot.", required=True)
_CATEGORY = flags.DEFINE_string("category", None, "Whose training to take; needed where the study has several.")
_SHOTS = flags.DEFINE_string(
    "shots", None, "Number of good parts it learned from, or all; by default the study's largest."
)
_SEED = flags.DEFINE_integer("seed", 0, "Which draw of the good parts.", lower_bound=0)
_ENCODER = flags.DEFINE_string("encoder", None, "File of the study's encoder, if it lies elsewhere now.")
_PARTS = flags.DEFINE_string("parts", None, "Folder of new parts: rgb/ and one of xyz/, depth/ and cloud/.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/inspection", "Folder that scores.csv and maps/ are written to.")

FLAGS = flags.FLAGS
_SHOWN = 20


class Found(NamedTuple):
    """Result of one part.

    Attributes:
      part: its id.
      score: its image score.
      row: of the map's maximum, in pixels of its image.
      column: likewise.
    """

    part: str
    score: float
    row: int
    column: int


def _choose(directory: pathlib.Path) -> Run:
    """The run that is asked for, or the only one that can be meant."""
    there = inspector.runs(directory)
    categories = sorted({run.category for run in there})
    if _CATEGORY.value is None and len(categories) != 1:
        raise InputError(f"{directory}: say whose training to take with --category={{{','.join(categories)}}}")
    category = _CATEGORY.value or categories[0]
    if _SHOTS.value not in (None, episodes.ALL) and not (_SHOTS.value.isdecimal() and int(_SHOTS.value)):
        raise InputError(f"--shots={_SHOTS.value}: give a whole number above zero, or {episodes.ALL}")
    largest = episodes.most([run.shots for run in there if run.category == category] or [0])
    given = _SHOTS.value if _SHOTS.value == episodes.ALL else int(_SHOTS.value or 0)
    return Run(category, given or largest, _SEED.value)


def _find(category: str, problems: Problems) -> list[Record]:
    if _PARTS.value is None:
        found = dataset_flags.find(problems)
        return found[category].test if category in found else []
    for name in ("dataset", "data_dir"):
        if FLAGS[name].present:
            raise InputError(f"--{name} and --parts: give one, the test parts of a data set or a folder of new ones")
    return folder.read_new(pathlib.Path(_PARTS.value), dataset_flags.options(), problems)


def _inspect(ready: Inspector, record: Record, output: pathlib.Path) -> tuple[Found, str]:
    """Result of a part, whose map is written, and a sentence for the user, empty if there is nothing to say."""
    problems, preparation = Problems(), ready.spec.preparation
    (name,) = inputs.identify([record], preparation, problems)
    problems.check()
    seen = inputs.load(record, name, preparation, cache.cache_directory())
    found = ready(seen.values[None], seen.mask[None], record.source.size())
    scores = np.asarray(found.maps[0])
    with atomic.replacing(output / "maps" / record.category / f"{record.id}.tiff") as file:
        tifffile.imwrite(file, scores)
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    return Found(record.id, float(found.scores[0]), int(row), int(column)), seen.note


def _print(found: Sequence[Found]) -> None:
    width = max(len("part"), *(len(one.part) for one in found[:_SHOWN]))
    print(f"{'part':{width}}   score  highest at (row, column)")
    for one in found[:_SHOWN]:
        print(f"{one.part:{width}}  {one.score:.4f}  ({one.row}, {one.column})")


def _run() -> None:
    compiled.keep(cache.cache_directory() / "xla")
    directory, output, problems = pathlib.Path(_RUN.value), pathlib.Path(_OUTPUT.value), Problems()
    ready = inspector.load(directory, _choose(directory), _ENCODER.value)
    dataset_flags.take(ready.settings, "study")
    FLAGS["categories"].value = [ready.run.category]
    inspected: dict[Record, tuple[Found, str]] = {}
    records = _find(ready.run.category, problems)
    if not records and not problems.found:
        raise InputError(f"{ready.run.category}: no test part; name a folder of parts with --parts")
    with console.stage("inspection", len(records)) as advance:
        for record in records:
            with problems.collecting():
                inspected[record] = _inspect(ready, record, output)
            advance(1)
    found = sorted((one for one, _ in inspected.values()), key=lambda one: -one.score)
    if found:
        atomic.write_csv(output / "scores.csv", [Found._fields, *found])
        _print(found)
        print(f"\n{output / 'scores.csv'} holds all {len(found)} scores, {output / 'maps'} the maps.")
    notes = inputs.summarise(list(inspected), [note for _, note in inspected.values()])
    if ready.settings["metrics_normalisation"] != "none":
        notes.append("scores and maps are not divided by means over all parts, as the study's metrics are")
    for note in filter(None, (ready.spec.encoder.note, *notes)):
        print(f"note: {note}")
    problems.check()


def main(arguments: list[str]) -> None:
    """Inspects the parts; exits with status 1 if something is wrong with what the user gave."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE")


if __name__ == "__main__":
    console.define_help("tools.dataset_flags")
    app.run(main)
