"""Pictures of the gallery of a report, and the file that keeps them."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from pirn_jax import atomic
from pirn_jax.data.problems import InputError

KINDS = ("worst detected", "false alarm", "best detected")
_FACTS = ("kind", "sample_id", "defect", "score", "geometry_name")


@dataclass(frozen=True)
class Picture:
    """One test sample as the method saw it; all arrays share height and width.

    Attributes:
      kind: "worst detected", "false alarm" or "best detected".
      sample_id: the part's name in the data set.
      defect: the name of its defect, "good" for a good part.
      score: its anomaly score, the larger the more anomalous.
      rgb: the photo.
      geometry_name: heading of the next, such as "Normals".
      geometry: surface normals as colours, or depth as grey values.
      maps: the method's anomaly maps as they are fused, under the name to show, such as "RGB map".
      fused: the anomaly map of all modalities together.
      gt: where the defect is, None where nobody marked it.
    """

    kind: str
    sample_id: str
    defect: str
    score: float
    rgb: UInt8[np.ndarray, "h w 3"]
    geometry_name: str
    geometry: UInt8[np.ndarray, "h w 3"]
    maps: dict[str, Float[np.ndarray, "h w"]]
    fused: Float[np.ndarray, "h w"]
    gt: Bool[np.ndarray, "h w"] | None

    def __post_init__(self) -> None:
        """Refuses an unknown kind."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of picture {self.kind!r}: choose from {', '.join(KINDS)}")


@dataclass(frozen=True)
class Gallery:
    """Telling test parts of one run (category, shots, seed), with the scores of all its test parts.

    Attributes:
      shots: a key of `results["results"]`.
      category: a key below it.
      seed: which repeat, from 0.
      pictures: the parts to show, in order.
      good_scores: scores of the good test parts.
      defect_scores: scores of the defective test parts.
      scale: smallest and largest anomaly in the fused maps of all test parts of the category.
    """

    shots: str
    category: str
    seed: int
    pictures: list[Picture]
    good_scores: Float[np.ndarray, " n"]
    defect_scores: Float[np.ndarray, " m"]
    scale: tuple[float, float]


def save(path: str | os.PathLike[str], galleries: Sequence[Gallery]) -> None:
    """Writes galleries whole or not at all, images without loss and maps in float16.

    Args:
      path: the `.npz` file to write or replace.
      galleries: what `load` gives back.
    """
    arrays, facts = {}, []
    for number, gallery in enumerate(galleries):
        arrays |= {f"{number}/good": gallery.good_scores, f"{number}/defective": gallery.defect_scores}
        for index, picture in enumerate(gallery.pictures):
            arrays |= {f"{number}/{index}/{name}": array for name, array in _arrays(picture).items()}
        shown = [
            {**{name: getattr(picture, name) for name in _FACTS}, "maps": list(picture.maps)}
            for picture in gallery.pictures
        ]
        run = {"shots": gallery.shots, "category": gallery.category, "seed": gallery.seed}
        facts.append({**run, "scale": [float(end) for end in gallery.scale], "pictures": shown})
    with atomic.replacing(path) as file:
        np.savez_compressed(file, **{"facts": np.array(json.dumps(facts)), **arrays})  # pyright: ignore


def _arrays(picture: Picture) -> dict[str, np.ndarray]:
    maps = {f"map {i}": values.astype(np.float16) for i, values in enumerate(picture.maps.values())}
    marked = {} if picture.gt is None else {"gt": picture.gt}
    return {"rgb": picture.rgb, "geometry": picture.geometry, "fused": picture.fused.astype(np.float16)} | maps | marked


def load(path: str | os.PathLike[str]) -> list[Gallery]:
    """Reads galleries that `save` has written.

    Raises:
      InputError: if the file cannot be read.
    """
    stored = atomic.load_arrays(pathlib.Path(path)) or {}
    try:
        facts = json.loads(str(stored["facts"]))
        return [_gallery(stored, number, of_gallery) for number, of_gallery in enumerate(facts)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: missing or damaged; run the command of the study again with this --output_dir"
        ) from error


def _gallery(stored: Mapping[str, np.ndarray], number: int, facts: dict) -> Gallery:
    pictures = [_picture(stored, f"{number}/{index}", shown) for index, shown in enumerate(facts["pictures"])]
    scores = stored[f"{number}/good"], stored[f"{number}/defective"]
    low, high = facts["scale"]
    return Gallery(facts["shots"], facts["category"], facts["seed"], pictures, *scores, scale=(low, high))


def _picture(stored: Mapping[str, np.ndarray], key: str, facts: dict) -> Picture:
    maps = {name: stored[f"{key}/map {i}"].astype(np.float32) for i, name in enumerate(facts["maps"])}
    return Picture(
        **{name: facts[name] for name in _FACTS},
        rgb=stored[f"{key}/rgb"],
        geometry=stored[f"{key}/geometry"],
        maps=maps,
        fused=stored[f"{key}/fused"].astype(np.float32),
        gt=stored.get(f"{key}/gt"),
    )
