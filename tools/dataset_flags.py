"""Flags of the data set and of the preparation of its samples."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from pirn_jax import cache, inputs
from pirn_jax.data import catalogue, datasets, mvtec3d, procedural, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.inputs import FOREGROUND, GEOMETRIES, NORMALS, Preparation
from tools import console

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}

_OF_PARTS = ("light", "geometry", "normals", "normals_neighbours", "foreground", "plane_tolerance", "cluster_reach")
_OF_PARTS += ("input_size",)
"""Flags that say how parts are read and prepared."""

_NAMES = (*catalogue.DATASETS, f"{datasets.PREPARED}NAME")

flags.DEFINE_string(
    "dataset", catalogue.BUILT_IN, f"{', '.join(_NAMES)}; the built-in procedural parts need nothing on disk."
)
flags.DEFINE_string("data_dir", None, "Folder of the data set, with one folder for each category.")
flags.DEFINE_list("categories", [], "Categories; all by default.")
flags.DEFINE_integer("light", 4, "Eyecandies: the image that shows a part.", lower_bound=0, upper_bound=5)
flags.DEFINE_enum("xyz_unit", None, list(UNITS), "Unit of the clouds' coordinates; by default what the data set says.")
flags.DEFINE_enum("geometry", "normals", GEOMETRIES, "Second modality: surface normals or depth.")
flags.DEFINE_enum(
    "normals", "exact", [*NORMALS, "native"], "Nearest neighbours, the paper's recipe with Open3D, or the data set's."
)
flags.DEFINE_integer("normals_neighbours", 30, "Points that a normal is fitted to.", lower_bound=3)
flags.DEFINE_enum(
    "foreground", "plane", [*FOREGROUND, "none"], "Removes the supporting plane, by our code or Open3D, or nothing."
)
flags.DEFINE_float("plane_tolerance", None, "Thickness of the supporting plane in metres; by default the data set's.")
flags.DEFINE_float("cluster_reach", None, "Gap in metres that a part may have; by default the data set's.")
flags.DEFINE_integer("input_size", 224, "Side of the encoder's input in pixels.", lower_bound=1)

FLAGS = flags.FLAGS


def preparation() -> Preparation:
    """Settings by which samples become the encoder's input.

    Raises:
      InputError: if a flag has an impossible value, or asks for Open3D where that is not installed.
    """
    known = datasets.find(FLAGS.dataset)
    tolerance = known.plane_tolerance if FLAGS.plane_tolerance is None else FLAGS.plane_tolerance
    reach = known.cluster_reach if FLAGS.cluster_reach is None else FLAGS.cluster_reach
    try:
        found = Preparation(
            FLAGS.input_size,
            FLAGS.geometry,
            FLAGS.normals,
            FLAGS.normals_neighbours,
            FLAGS.foreground,
            tolerance,
            reach,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    inputs.require(found)
    return found


def take(settings: Mapping[str, Any], owner: str) -> None:
    """Gives the flags on parts and their preparation the values of a study or a model.

    Args:
      settings: see `spec.describe`.
      owner: "study" or "model", for messages.

    Raises:
      InputError: if one of the flags is given, or asks for Open3D where that is not installed.
    """
    refuse(*_OF_PARTS, "categories", because=f"parts are read and prepared as those of the {owner}")
    for name in _OF_PARTS:
        FLAGS[name].value = settings[name]
    if not FLAGS["dataset"].present:
        FLAGS["dataset"].value = settings["dataset"]
    if not FLAGS["xyz_unit"].present:
        FLAGS["xyz_unit"].value = {metres: name for name, metres in UNITS.items()}.get(settings["xyz_unit"])
    # Asks for Open3D if the parts were prepared by it.
    preparation()


def refuse(*names: str, because: str) -> None:
    """Refuses flags that a command has no use for.

    Raises:
      InputError: if one of them is given.
    """
    for name in names:
        if FLAGS[name].present:
            raise InputError(f"--{name}: {because}; leave it out")


def options() -> Options:
    """Options of the reader.

    Raises:
      InputError: if the data set has clouds of one unit alone, and another is given.
    """
    if FLAGS["xyz_unit"].present and (FLAGS.dataset == "eyecandies" or FLAGS.dataset.startswith(datasets.PREPARED)):
        raise InputError(f"--xyz_unit: the unit of {FLAGS.dataset} is known; leave it out")
    unit = None if FLAGS.xyz_unit is None else UNITS[FLAGS.xyz_unit]
    return Options(FLAGS.light, FLAGS.normals == "native", unit)


def read(counts: procedural.Counts = procedural.DEFAULT_COUNTS) -> dict[str, Splits]:
    """Finds the parts of the data set; built-in parts are generated first.

    Args:
      counts: of the built-in parts.

    Raises:
      InputError: if the data set is not there; if files of it are wrong, with all of them.
    """
    problems = Problems()
    splits = find(problems, counts)
    if problems.found:
        sample.tell_all(every(splits), problems)
    return splits


def every(splits: dict[str, Splits]) -> list[Record]:
    """All parts of all splits."""
    return [part for split in splits.values() for part in (*split.train, *split.validation, *split.test)]


def find(problems: Problems, counts: procedural.Counts = procedural.DEFAULT_COUNTS) -> dict[str, Splits]:
    """Finds the parts of the data set that are whole; built-in parts are generated first.

    Args:
      problems: where problems of single files are noted.
      counts: of the built-in parts.

    Raises:
      InputError: if the data set is not there.
    """
    if FLAGS.dataset == catalogue.BUILT_IN:
        if FLAGS.data_dir is not None:
            raise InputError("--data_dir is of no use to the built-in parts; name the data set with --dataset")
        categories = FLAGS.categories or procedural.CATEGORIES
        return mvtec3d.read(_generate(categories, counts), categories, options(), problems)
    found = datasets.find(FLAGS.dataset)
    if FLAGS.data_dir is None and not FLAGS.dataset.startswith(datasets.PREPARED):
        raise InputError(f"--dataset={FLAGS.dataset} needs --data_dir, the folder that holds its categories")
    # Of data sets that are prepared, tensorflow-datasets knows where they lie.
    directory = None if FLAGS.data_dir is None else pathlib.Path(FLAGS.data_dir)
    return found.read(directory, FLAGS.categories, options(), problems)


def _generate(categories: Sequence[str], counts: procedural.Counts) -> pathlib.Path:
    try:
        parts = sum(len(list(counts.parts(category))) for category in categories)
        with console.stage("built-in parts", parts) as advance:
            return procedural.ensure(
                cache.cache_directory(),
                categories=categories,
                counts=counts,
                progress=lambda done, total: advance(1),
            )
    except ValueError as error:
        raise InputError(f"--categories: {error}") from error
