"""Choice of the test samples that a report shows of a run, and their pictures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Bool, UInt8

from pirn_jax import inputs, scoring
from pirn_jax.data import sample
from pirn_jax.data.sample import Record
from pirn_jax.report import comparison, figures
from pirn_jax.report.pictures import Gallery, Picture
from pirn_jax.study.spec import Spec
from pirn_jax.training.episodes import Run

_OF_EACH_KIND = 2

_SIDE = 280
"""Longest side of a picture in pixels: enough to judge by, and a page of ten categories stays under 15 MB."""


def build(run: Run, records: Sequence[Record], distances: np.ndarray, scales: np.ndarray, spec: Spec) -> Gallery:
    """Pictures of the worst detected defects, the worst false alarms and the best detected defects of one run.

    Args:
      run: the run.
      records: its category's test samples.
      distances: (samples, k, n) patch distances of these samples.
      scales: (k,) by which each map is divided.
      spec: the study.
    """
    sizes = [record.source.size() for record in records]
    fused = [spec.maps.fused(of, scales, size) for of, size in zip(distances, sizes, strict=True)]
    scores = np.array([scoring.image_score(of, spec.metrics.top_share) for of in fused])
    defective = np.array([record.defective for record in records])
    rising = np.argsort(scores, kind="stable")
    defects, goods = rising[defective[rising]], rising[~defective[rising]]
    chosen = [
        *(("worst detected", i) for i in defects[:_OF_EACH_KIND] if i not in defects[-_OF_EACH_KIND:]),
        *(("false alarm", i) for i in goods[: -_OF_EACH_KIND - 1 : -1]),
        *(("best detected", i) for i in defects[: -_OF_EACH_KIND - 1 : -1]),
    ]
    return Gallery(
        shots=str(run.shots),
        category=run.category,
        seed=run.seed,
        pictures=[_picture(kind, records[i], distances[i], scales, float(scores[i]), spec) for kind, i in chosen],
        good_scores=scores[~defective],
        defect_scores=scores[defective],
        scale=(float(min(of.min() for of in fused)), float(max(of.max() for of in fused))),
    )


def side_by_side(
    name: str, records: Sequence[Record], shown: int, runs: Mapping[str, tuple[Spec, np.ndarray, np.ndarray]]
) -> comparison.Part:
    """One test part with the fused map of several methods, which have the same inputs.

    Args:
      name: heading.
      records: test samples of its category.
      shown: index of the part.
      runs: of each method the study, and of one run the distances (samples, k, n) of these samples and the scales (k,).
    """
    (first, _, _), *_ = runs.values()
    seen = see(records[shown], first)
    pictures = {"RGB": seen.rgb, first.preparation.geometry.capitalize(): seen.geometry}
    for method, (spec, distances, scales) in runs.items():
        fused = [spec.maps.fused(of, scales, seen.rgb.shape[:2]) for of in distances]
        pictures[method] = figures.overlay(seen.rgb, fused[shown], float(np.min(fused)), float(np.max(fused)))
    marked = {} if seen.gt is None else {"Ground truth": figures.outline(seen.rgb, seen.gt)}
    return comparison.Part(name, pictures | marked)


class Seen(NamedTuple):
    """A part as a page shows it: the photo, its geometry as colours, the marked defect."""

    rgb: UInt8[np.ndarray, "h w 3"]
    geometry: UInt8[np.ndarray, "h w 3"]
    gt: Bool[np.ndarray, "h w"] | None


def see(record: Record, spec: Spec) -> Seen:
    """The part in the size of a page's pictures."""
    part = sample.load(record)
    height, width = part.rgb.shape[:2]
    shrink = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    return Seen(
        _resized(part.rgb, size, PIL.Image.Resampling.BICUBIC),
        inputs.geometry(part, spec.preparation).image(size),
        # However thin a defect is, it stays on the picture.
        None if part.gt is None else _resized(part.gt.astype(np.uint8) * 255, size, PIL.Image.Resampling.BOX) > 0,
    )


def _picture(kind: str, record: Record, distances: np.ndarray, scales: np.ndarray, score: float, spec: Spec) -> Picture:
    seen = see(record, spec)
    size = seen.rgb.shape[:2]
    maps = spec.maps.upsample(distances / scales[:, None], size)
    return Picture(
        kind=kind,
        sample_id=record.id,
        defect=record.defect,
        score=score,
        rgb=seen.rgb,
        geometry_name=spec.preparation.geometry.capitalize(),
        geometry=seen.geometry,
        maps={f"{_heading(name)} map": of for name, of in zip(spec.build().maps, maps, strict=True)},
        fused=spec.maps.fused(distances, scales, size),
        gt=seen.gt,
    )


def _heading(name: str) -> str:
    """Name of a map in words."""
    words = name.replace("_", " ").split()
    first, *rest = ("RGB" if word == "rgb" else word for word in words)
    return " ".join([first if first == "RGB" else first.capitalize(), *rest])


def _resized(image: np.ndarray, size: tuple[int, int], how: PIL.Image.Resampling) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).resize((size[1], size[0]), how))
