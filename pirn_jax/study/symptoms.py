"""Symptoms of trainings that went wrong: prototypes out of use, shut gates, plans off balance, detection that fell."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pirn_jax.training.episodes import Run, Shots

UNTRAINED = "untrained_image_auroc"
"""Image AUROC of the same run before its training; known of the first runs of each number of shots."""

TRAINED = "trained_image_auroc"

FELL = 0.05
"""Fall of the image AUROC, the mean of the runs that know it, from which on it is told (our choice)."""

Training = dict[str, float]
"""Metrics of a run's last steps by name, the loss of its first ones, image AUROC before and after the training."""


class _Symptom(NamedTuple):
    """A metric of the training whose last values beyond a limit are a symptom.

    Attributes:
      metric: start of its name, which a modality follows.
      limit: the least magnitude that is well, or, where `above`, the largest.
      above: whether values above the limit are the symptom.
      told: of the symptom, for the user, with the worst value and the remedy.
    """

    metric: str
    limit: float
    above: bool
    told: str


_SYMPTOMS = (
    _Symptom(
        "prototype_use_",
        0.3,
        False,
        "patches of {modality} keep to few prototypes, effectively {worst:.0%} of them; try --prototype_start=patches",
    ),
    _Symptom(
        "gate_",
        0.02,
        False,
        "the gate into {modality} is shut, tanh(gamma) = {worst:.3f}, so it learns nothing of the other modality; try "
        "--gate_init=1",
    ),
    _Symptom(
        "column_error_",
        0.05,
        True,
        "transport of {modality} has not converged, the mass of a prototype is {worst:.0%} off; try more "
        "--sinkhorn_iterations or a larger --epsilon",
    ),
)
"""Limits are our choices."""


def summarise(
    history: Mapping[str, np.ndarray], trained: Sequence[float | None], untrained: Mapping[int, float | None]
) -> list[Training]:
    """Summary of each run's training.

    Args:
      history: metrics of the training, (runs, steps) each; empty for a method that learns nothing by gradient descent.
      trained: image AUROC of each run.
      untrained: the same before training, by index of those runs that were scored then.
    """
    if not history:
        return [{} for _ in trained]
    # Batches differ, so the ends are means over the first and last twentieth of the steps.
    width = -(-history["loss"].shape[1] // 20)
    found = [{name: float(values[i, -width:].mean()) for name, values in history.items()} for i in range(len(trained))]
    for i, of_run in enumerate(found):
        of_run["first_loss"] = float(history["loss"][i, :width].mean())
        before, after = untrained.get(i), trained[i]
        if before is not None and after is not None:
            of_run |= {UNTRAINED: before, TRAINED: after}
    return found


def notes(trainings: Mapping[Run, Training]) -> list[str]:
    """Sentences for the user, one for each symptom of each number of shots; empty where all is well."""
    every = dict.fromkeys(run.shots for run in trainings)
    return [note for shots in every for note in _notes({r: of for r, of in trainings.items() if r.shots == shots})]


def _notes(trainings: Mapping[Run, Training]) -> list[str]:
    shots = next(iter(trainings)).shots
    names = dict.fromkeys(name for of_run in trainings.values() for name in of_run)
    found = []
    for symptom in _SYMPTOMS:
        for name in names:
            if name.startswith(symptom.metric):
                values = {run: abs(of_run[name]) for run, of_run in trainings.items() if name in of_run}
                worst = max(values.values()) if symptom.above else min(values.values())
                ill = [run for run, value in values.items() if (value > symptom.limit) == symptom.above]
                if ill:
                    told = symptom.told.format(modality=name.removeprefix(symptom.metric), worst=worst)
                    found.append(f"{shots} shots, {len(ill)} of {len(values)} runs ({_categories(ill)}): {told}")
    return found + _fall(shots, trainings)


def _fall(shots: Shots, trainings: Mapping[Run, Training]) -> list[str]:
    """The note that the loss fell while detection fell."""
    known = [of_run for of_run in trainings.values() if UNTRAINED in of_run]
    if not known:
        return []
    before, after, first, last = (
        float(np.mean([of_run[name] for of_run in known])) for name in (UNTRAINED, TRAINED, "first_loss", "loss")
    )
    if last >= first or before - after < FELL:
        return []
    return [
        f"{shots} shots: training lowered the loss from {first:.3g} to {last:.3g}, but the image AUROC of "
        f"{len(known)} runs fell from {before:.3f} to {after:.3f}; try fewer --epochs or a smaller --learning_rate"
    ]


def _categories(runs: Sequence[Run]) -> str:
    return ", ".join(dict.fromkeys(run.category for run in runs))
