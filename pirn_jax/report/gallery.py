"""Which test parts a report shows of a run, and their pictures."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from pirn_jax import inputs
from pirn_jax.data import sample
from pirn_jax.data.sample import Record
from pirn_jax.geometry import normal_images
from pirn_jax.inputs import Preparation
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.scoring import Maps
from pirn_jax.report.pictures import Gallery, Picture

_OF_EACH_KIND = 2

_SIDE = 280
"""Longest side of a picture in pixels: enough to judge by, and a page of ten categories stays under 15 MB."""


def build(run: Run, records: Sequence[Record], distances: np.ndarray, maps: Maps, preparation: Preparation) -> Gallery:
    """Pictures of the worst detected defects, the worst false alarms and the best detected defects of one run.

    Args:
      run: the run.
      records: its category's test parts.
      distances: (parts, 2, n) patch distances of these parts.
      maps: how they become anomaly maps.
      preparation: how normals are made of the parts' scans.
    """
    sizes = [record.source.size() for record in records]
    fused = [maps.fused(part, size) for part, size in zip(distances, sizes, strict=True)]
    scores = np.array([part.max() for part in fused])
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
        pictures=[_picture(kind, records[i], distances[i], float(scores[i]), maps, preparation) for kind, i in chosen],
        good_scores=scores[~defective],
        defect_scores=scores[defective],
        scale=(float(min(part.min() for part in fused)), float(scores.max())),
    )


def _picture(
    kind: str, record: Record, distances: np.ndarray, score: float, maps: Maps, preparation: Preparation
) -> Picture:
    part = sample.load(record)
    height, width = part.rgb.shape[:2]
    shrink = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    rgb_map, normals_map = maps.modalities(distances, size)
    return Picture(
        kind=kind,
        sample_id=record.id,
        defect=record.defect,
        score=score,
        rgb=_resized(part.rgb, size, PIL.Image.Resampling.BICUBIC),
        normals=normal_images.to_image(normal_images.resize(inputs.geometry(part, preparation).normals, size)),
        maps={"RGB map": rgb_map, "Normals map": normals_map},
        fused=rgb_map + normals_map,
        # However thin a defect is, it stays on the picture.
        gt=None if part.gt is None else _resized(part.gt.astype(np.uint8) * 255, size, PIL.Image.Resampling.BOX) > 0,
    )


def _resized(image: np.ndarray, size: tuple[int, int], how: PIL.Image.Resampling) -> np.ndarray:
    return np.asarray(PIL.Image.fromarray(image).resize((size[1], size[0]), how))
