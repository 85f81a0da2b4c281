"""Stored samples: examples of tensorflow-datasets, and rows of the index beside them."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from pirn_jax.data import sample
from pirn_jax.data.sample import Files, Record

INDEX = "parts"
"""Key of the index among a prepared data set's metadata: the rows of each split, in the order of its examples."""

_NOTHING = np.zeros((0, 0, 3), np.float32)


class Row(NamedTuple):
    """A part in the index; a record cannot be read in pieces, so what a list of parts needs stands here.

    Attributes:
      category: kind of part.
      defect: name of the defect, or "good".
      id: name of the part within its category.
      height: of the image, in pixels.
      width: of the image, in pixels.
    """

    category: str
    defect: str
    id: str
    height: int
    width: int

    @property
    def key(self) -> str:
        """Name of the part within the data set."""
        return f"{self.category}/{self.id}"


def row(record: Record) -> Row:
    """The part's row; of its files only the image's header is read.

    Raises:
      InputError: if the image cannot be read.
    """
    return Row(record.category, record.defect, record.id, *record.source.size())


def generate(records: Iterable[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and example of each part.

    Raises:
      InputError: naming the file, if a part cannot be used.
    """
    for record in records:
        yield f"{record.category}/{record.id}", example(record)


def features() -> Any:
    """The `tfds.features.FeaturesDict` of an example."""
    import tensorflow_datasets as tfds

    def geometry(doc: str) -> Any:
        # Without the encoding, tensors with two unknown dimensions are refused.
        return tfds.features.Tensor(shape=(None, None, 3), dtype=np.float32, encoding="zlib", doc=doc)

    return tfds.features.FeaturesDict(
        {
            "category": tfds.features.Text(doc="Kind of part."),
            "defect": tfds.features.Text(doc="Name of the defect, or good."),
            "id": tfds.features.Text(doc="Name of the part within its category."),
            "label": tfds.features.ClassLabel(names=["good", "defective"], doc="Whether the part has a defect."),
            "rgb": tfds.features.Image(doc="Colour image."),
            "xyz": geometry("Points in metres, camera frame; zero where nothing was seen; (0, 0, 3) without a scan."),
            "normals": geometry("Unit normals of the data set's authors, camera frame; (0, 0, 3) without any."),
            "gt": tfds.features.Image(shape=(None, None, 1), encoding_format="png", doc="255 on the defect, else 0."),
            "has_gt": tfds.features.Scalar(np.bool_, doc="Whether gt was drawn; otherwise it is all zero."),
        }
    )


def example(record: Record) -> dict[str, Any]:
    """The part as an example, for the features to encode.

    Raises:
      InputError: naming the file, if one cannot be used.
    """
    part = sample.load(record)
    source = record.source
    assert isinstance(source, Files), "the readers find files"
    gt = np.zeros(part.rgb.shape[:2], bool) if part.gt is None else part.gt
    return {
        "category": record.category,
        "defect": record.defect,
        "id": record.id,
        "label": int(record.defective),
        # The file as it is: encoding it anew would take longer, and more room where it is JPEG.
        "rgb": source.rgb,
        "xyz": _NOTHING if part.xyz is None else part.xyz,
        "normals": _NOTHING if part.normals is None else part.normals,
        # Arrays would be encoded by TensorFlow, images of Pillow are not.
        "gt": PIL.Image.fromarray(gt.astype(np.uint8) * 255),
        "has_gt": source.gt is not None,
    }
