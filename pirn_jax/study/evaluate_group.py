"""Evaluation of a group of scored runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pirn_jax import threads
from pirn_jax.metrics import batched, ranking
from pirn_jax.metrics.evaluation import Evaluation, MetricSettings
from pirn_jax.scoring import Maps
from pirn_jax.study.data import StudyData
from pirn_jax.study.stages import Stage
from pirn_jax.training.episodes import Run

_MANY_PIXELS = 20_000_000
"""Above this many pixels the metrics of one run at a time are enough for the memory."""


def evaluate_group(
    runs: Sequence[Run],
    title: str,
    distances: Sequence[np.ndarray],
    scales: Sequence[np.ndarray],
    data: StudyData,
    maps: Maps,
    settings: MetricSettings,
    stage: Stage,
) -> list[dict[str, Any]]:
    """Evaluations of runs, see `Evaluation.as_json`; one category at a time: the pixels of a data set are many.

    Args:
      runs: the runs.
      title: shown with the progress.
      distances: of each run's test samples, (samples, k, n).
      scales: of each run's maps, (k,).
      data: the samples.
      maps: upsampling.
      settings: evaluation settings.
      stage: shows progress.
    """
    evaluations: dict[int, Evaluation] = {}
    with stage(f"metrics {title}", len(runs)) as advance:
        for category in dict.fromkeys(run.category for run in runs):
            sizes = [record.source.size() for record in data.drawn.splits[category].test]
            truth = data.truth(category, settings)

            def evaluate(some: list[int], sizes=sizes, truth=truth) -> list[Evaluation]:
                flat = []
                for i in some:
                    fused = (maps.fused(d, scales[i], size) for d, size in zip(distances[i], sizes, strict=True))
                    flat.append(batched.flatten(fused, truth))
                found = batched.evaluate(np.stack(flat), truth)
                advance(len(some))
                return found

            mine = [i for i, run in enumerate(runs) if run.category == category]
            size = ranking.runs_at_once(truth.pixels)
            together = [mine[start : start + size] for start in range(0, len(mine), size)]
            found = threads.each(evaluate, together, at_once=2 if truth.pixels < _MANY_PIXELS else 1)
            evaluations |= dict(zip(mine, (one for some in found for one in some), strict=True))
    return [evaluations[i].as_json() for i in range(len(runs))]
