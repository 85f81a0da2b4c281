"""Scoring of a group of trained runs."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from pirn_jax import scoring
from pirn_jax.scoring import Maps
from pirn_jax.study import streaming
from pirn_jax.study.data import StudyData
from pirn_jax.study.stages import Stage
from pirn_jax.study.train_group import Group
from pirn_jax.training import windows
from pirn_jax.training.train import Trained


class Scored(NamedTuple):
    """Distances of a group's runs.

    Attributes:
      distances: of every padded test sample.
      scales: by which each map is divided before maps are fused.
    """

    distances: Float[np.ndarray, "r d k n"]
    scales: Float[np.ndarray, "r k"]


def score_group(
    group: Group,
    trained: Trained,
    data: StudyData,
    program: Callable,
    support_program: Callable | None,
    maps: Maps,
    stage: Stage,
    support: int | None = None,
) -> Scored:
    """Scores the test samples under every run.

    Args:
      group: the runs.
      trained: their parameters.
      data: the samples.
      program: see `scoring.compile_program`.
      support_program: see `scoring.compile_support_program`; None to take maps as they are.
      maps: upsampling.
      stage: shows progress.
      support: good parts of each run that maps are calibrated on, the first of its episode; None for all.
    """
    category, chosen = data.indices(group.padded)
    test, train = data.test, data.train
    with stage(f"scoring {group.title}", test.kept.shape[1]) as advance:
        distances = test.spread(streaming.score(program, trained.params, test.features, category, advance), category)
        scales = np.ones((len(distances), distances.shape[2]), np.float32)
        if support_program is not None:
            # The originals of the good parts; `support` counts parts that have no other view.
            chosen = chosen[:, :support][:, :: data.drawn.views]
            held, places = windows.window(train.features, chosen)
            good = scoring.score_support(support_program, trained.params, held, category, places)
            good = train.spread(good, category[:, None], chosen)
            scales = np.stack([scoring.calibrate(of_run, maps) for of_run in good])
    kept = slice(len(group.runs))
    return Scored(distances[kept], scales[kept])
