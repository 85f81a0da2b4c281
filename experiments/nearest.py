"""Inspection by nearest-neighbour patches of built-in parts, without any training: what features alone are worth."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from pirn_jax import inputs
from pirn_jax.data import datasets, procedural, sample
from pirn_jax.inputs import Preparation
from pirn_jax.protocol import episodes, metrics, repeats, scoring
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.evaluation import Evaluation, Settings

SIZE, SIGMA = 224, 4.0
_PLANE = datasets.find(datasets.BUILT_IN)
_PREPARATION = Preparation(SIZE, plane_tolerance=_PLANE.plane_tolerance, cluster_reach=_PLANE.cluster_reach)

COLUMNS = (*metrics.NAMES, "geometry", "colour", "both", "combination")
"""What is reported: metrics of all defects, and the image AUROC of each kind."""


class Extractor(NamedTuple):
    """What turns parts into features.

    Attributes:
      extract: (parts, 2, size, size, 3) uint8 -> (parts, 2, n, c).
      standardise: whether channels are of different kinds and have to be brought to one scale.
    """

    extract: Callable[[np.ndarray], np.ndarray]
    standardise: bool = False


@functools.partial(jax.jit, static_argnums=2)
def nearest(memory: Float[Array, "k n c"], tokens: Float[Array, "p n c"], standardise: bool) -> Float[Array, "p n"]:
    """Cosine distance of patches to the nearest one of the memory, channels standardised over it or as they are."""
    mean, deviation = jnp.mean(memory, (0, 1)), jnp.std(memory, (0, 1)) + 1e-6

    def unit(x):
        x = (x - mean) / deviation if standardise else x
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    known = unit(memory).reshape(-1, memory.shape[-1])
    return jax.lax.map(lambda part: 1.0 - jnp.max(unit(part) @ known.T, axis=-1), tokens)


def _inputs(records: Sequence[sample.Record], progress: Callable[[int], None]) -> UInt8[np.ndarray, "p 2 s s 3"]:
    """What every encoder sees of parts."""
    found = []
    for record in records:
        found.append(inputs.prepare(sample.load(record), _PREPARATION).values)
        progress(1)
    return np.stack(found)


def _by_modality(category: str, evaluation: Evaluation) -> dict[str, float]:
    """Image AUROC of defects by the modality that they show in, the mean over defects of one modality."""
    found: dict[str, list[Any]] = {}
    for name, group in evaluation.defects.items():
        found.setdefault(procedural.DEFECTS[category][name].modality, []).append(group.values["image_auroc"])
    return {modality: float(np.mean(values)) for modality, values in found.items()}


def judge(
    extractors: dict[str, Extractor],
    category: str,
    splits: sample.Splits,
    shots: int,
    seeds: int,
    progress: Callable[[int], None],
) -> dict[str, dict[str, list[float]]]:
    """Metrics of every encoder on one category by name, one value for each seed.

    Args:
      extractors: by the encoder's name.
      category: its name.
      splits: its parts.
      shots: number of good parts that test parts are compared with.
      seeds: how many random draws of them.
      progress: told how many more parts are done, read or judged by one encoder.
    """
    inputs = [_inputs(records, progress) for records in (splits.train, splits.test)]
    masks = [sample.load_gt(record) for record in splits.test]
    sizes = [record.source.size() for record in splits.test]
    truth = repeats.prepare([record.defect for record in splits.test], masks, sizes, Settings())
    judged = {}
    for name, (extract, standardise) in extractors.items():
        good, tests = (np.concatenate([extract(part[None]) for part in parts]) for parts in inputs)
        maps = scoring.Maps(round(good.shape[2] ** 0.5), SIZE, SIGMA)
        found: list[dict[str, Any]] = []
        for seed in range(seeds):
            drawn = episodes.draw(Run(category, shots, seed), len(good))
            distances = np.stack(
                [np.asarray(nearest(good[drawn, m], tests[:, m], standardise)) for m in range(2)], axis=1
            )
            fused = truth.flatten(map(maps.fused, distances, sizes))
            (evaluation,) = repeats.evaluate(fused[None], truth)
            found.append({**evaluation.all.values, **_by_modality(category, evaluation)})
        judged[name] = {column: [values[column] for values in found] for column in COLUMNS}
        progress(len(good) + len(tests))
    return judged
