"""Prepares what the encoder sees of a whole data set, foreground and surface normals, in parallel processes.

    python -m tools.prepare_normals --dataset=mvtec3d --data_dir=DIR --workers=8 --png_dir=normals

Studies with the same flags find the result in the cache. What is there already is skipped, so an interrupted command
continues; parts that cannot be used are listed at the end and stop nothing. --png_dir also writes the normals at full
resolution as PNG: x right is red, y up is green, towards the camera is blue, and black is unknown.
"""

import functools
import os
import pathlib

import PIL.Image
import PIL.PngImagePlugin
from absl import app, flags

from pirn_jax import atomic, cache, inputs
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record
from pirn_jax.inputs import Preparation
from tools import console, dataset_flags, workers

_WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Number of processes.", lower_bound=1)
_PNG = flags.DEFINE_string("png_dir", None, "Where normals go as PNG, at <category>/<id>.png; by default nowhere.")


_KEY = "pirn_jax inputs"
"""Text of a PNG that holds the name of the inputs that it shows."""


def prepare(record: Record, preparation: Preparation, home: pathlib.Path, png_dir: pathlib.Path | None) -> str:
    """Prepares one part, if that has not been done.

    Returns:
      What the user should know of it, empty if nothing.

    Raises:
      InputError: naming the part, if it cannot be used.
    """
    problems = Problems()
    (name,) = inputs.identify([record], preparation, problems)
    problems.check()
    path = cache.path(home, "inputs", name)
    png = None if png_dir is None else png_dir / record.category / f"{record.id}.png"
    cached = cache.load(path)
    if cached is not None and (png is None or _shows(png, name)):
        return cached.note
    part, seen = inputs.examine(record, preparation)
    cache.save(path, inputs.network_input(part.rgb, seen, preparation.size))
    if png is not None:
        text = PIL.PngImagePlugin.PngInfo()
        text.add_text(_KEY, name)
        with atomic.replacing(png) as file:
            image = PIL.Image.fromarray(seen.image(seen.field.shape[:2]))
            image.save(file, format="PNG", pnginfo=text)
    return seen.note


def _shows(png: pathlib.Path, name: str) -> bool:
    """True if a PNG shows the normals of these inputs, not of other settings or another data set."""
    try:
        with PIL.Image.open(png) as image:
            return image.info.get(_KEY) == name
    except OSError:
        return False


def _run() -> int:
    problems = Problems()
    preparation, splits = dataset_flags.preparation(), dataset_flags.find(problems)
    records = dataset_flags.every(splits)
    png_dir = None if _PNG.value is None else pathlib.Path(_PNG.value)
    work = functools.partial(prepare, preparation=preparation, home=cache.cache_directory(), png_dir=png_dir)
    notes = workers.over_parts(work, records, _WORKERS.value, "foreground and normals", problems)
    for sentence in inputs.summarise(records, [note or "" for note in notes]):
        print(f"note: {sentence}")
    for sentence in problems.found:
        print(f"problem: {sentence}")
    print(f"parts: {len(records)}, problems: {len(problems.found)}")
    return 1 if problems.found else 0


def main(arguments: list[str]) -> None:
    """Prepares the data set; exits with status 1 if a part could not be."""
    interrupted = "interrupted; the same command continues where this one stopped"
    console.run(_run, arguments, places="--png_dir and PIRN_CACHE", interrupted=interrupted)


if __name__ == "__main__":
    console.define_help("tools.dataset_flags")
    app.run(main)
