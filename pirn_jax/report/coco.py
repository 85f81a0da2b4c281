"""Defect regions as boxes in the COCO format, which tools for looking at images and correcting labels read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from pirn_jax.inspection.verdicts import Verdict


class Image(NamedTuple):
    """The photo of a part.

    Attributes:
      file_name: its file, without the folder.
      size: (height, width) in pixels.
    """

    file_name: str
    size: tuple[int, int]


def content(verdicts: Sequence[Verdict], images: Sequence[Image]) -> dict[str, Any]:
    """A COCO document: an image for each part, an annotation for each region of those that are defective.

    Boxes are [x, y, width, height] in pixels, areas are in pixels, and `score` is the largest value of the map in the
    region. Beyond the format stand the part's `verdict`, `anomaly_score` and `p_value`, and the region's `height_mm`.
    """
    parts, annotations = [], []
    for number, (one, image) in enumerate(zip(verdicts, images, strict=True), 1):
        height, width = image.size
        told = {"verdict": one.verdict, "anomaly_score": one.score, "p_value": one.p_value}
        parts.append({"id": number, "file_name": image.file_name, "height": height, "width": width, **told})
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": number,
                "category_id": 1,
                "bbox": list(region.box),
                "area": region.pixels,
                "iscrowd": 0,
                "score": region.highest,
                "height_mm": region.height_mm,
            }
            for i, region in enumerate(one.regions if one.verdict == "defective" else [], 1)
        ]
    return {"images": parts, "categories": [{"id": 1, "name": "defect"}], "annotations": annotations}
