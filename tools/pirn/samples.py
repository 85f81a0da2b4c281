"""Good parts that a model carries along, to try it with: the first ones, as an image and a scan each."""

import io
import pathlib
from collections.abc import Sequence

import numpy as np
import PIL.Image
import tifffile

from pirn_jax.data import folder
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Files, Record
from pirn_jax.data.scans import Cloud
from pirn_jax.inspection.bundle import Bundle, Sample


def unit(records: Sequence[Record]) -> float:
    """Metres in one unit of the parts' clouds, by a flag or by their `dataset.toml`; 1 for depth images."""
    sources = [record.source for record in records]
    scans = [source.scan for source in sources if isinstance(source, Files)]
    return next((scan.unit for scan in scans if isinstance(scan, Cloud)), 1.0)


def take(records: Sequence[Record], unit: float) -> list[Sample]:
    """Parts as files of one form, whatever they were read from; none of parts without a scan.

    Args:
      records: the parts.
      unit: metres in one unit of the model's scans.
    """
    found = []
    for record in records:
        rgb, xyz, _ = record.source.arrays()
        if xyz is not None:
            image, scan = io.BytesIO(), io.BytesIO()
            PIL.Image.fromarray(rgb).save(image, "png")
            values = np.asarray(xyz / unit, np.float32)
            tifffile.imwrite(scan, values, photometric="rgb", compression="zlib")
            found.append(Sample(image.getvalue(), scan.getvalue()))
    return found


def options(model: Bundle) -> Options:
    """Options by which parts are read that come without a `dataset.toml` of their own: scans have the model's unit."""
    settings = model.ready.settings
    return Options(settings["light"], settings["normals"] == "native", settings["scan_unit"])


def unpack(model: Bundle, place: pathlib.Path) -> list[Record]:
    """The samples of a model as parts in a folder, which is made; it may have none."""
    for i, sample in enumerate(model.samples):
        for kind, suffix, content in (("rgb", "png", sample.rgb), ("xyz", "tiff", sample.scan)):
            path = place / kind / f"{i:03d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    problems = Problems()
    records = folder.read_new(place, options(model), problems) if model.samples else []
    problems.check()
    return records
