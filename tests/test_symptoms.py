"""Symptoms of trainings: which are told, and what each training came to."""

from unittest import mock

import numpy as np
import pytest

from pirn_jax.methods.base import Recipe
from pirn_jax.study import groups, symptoms
from pirn_jax.study.data import StudyData
from pirn_jax.study.train_group import Group
from pirn_jax.training.episodes import Run

HISTORY = {
    "loss": np.array([[4.0] + [2.0] * 38 + [1.0], [1.0] * 40], np.float32),
    "gate_rgb": np.full((2, 40), 0.5, np.float32),
}


def test_a_training_is_summarised_by_its_first_and_last_steps_and_what_it_did_to_detection():
    first, second = symptoms.summarise(HISTORY, [0.9, None], {0: 0.7})
    expected = {"loss": 1.5, "first_loss": 3.0, "gate_rgb": 0.5, symptoms.UNTRAINED: 0.7, symptoms.TRAINED: 0.9}
    assert first == pytest.approx(expected)
    assert second == pytest.approx({"loss": 1.0, "first_loss": 1.0, "gate_rgb": 0.5})


def test_without_a_training_there_is_nothing_to_tell():
    assert symptoms.summarise({}, [0.5, 0.6], {}) == [{}, {}]
    assert symptoms.notes({Run("a", 2, 0): {}}) == []


WELL = {"loss": 1.0, "first_loss": 2.0, "prototype_use_rgb": 0.8, "gate_rgb": -0.5, "column_error_rgb": 0.01}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"prototype_use_rgb": 0.1}, "patches of rgb keep to few prototypes, effectively 10% of them"),
        ({"gate_rgb": 0.001}, "the gate into rgb is shut, tanh(gamma) = 0.001"),
        ({"column_error_rgb": 0.2}, "transport of rgb has not converged, the mass of a prototype is 20% off"),
        ({symptoms.UNTRAINED: 0.9, symptoms.TRAINED: 0.8}, "fell from 0.900 to 0.800"),
        ({symptoms.UNTRAINED: 0.8, symptoms.TRAINED: 0.76}, None),
        ({symptoms.UNTRAINED: 0.9, symptoms.TRAINED: 0.8, "first_loss": 0.5}, None),
    ],
)
def test_each_symptom_is_told_with_the_categories_that_have_it(change, told):
    trainings = {Run("knob", 10, 0): WELL, Run("gear", 10, 0): WELL | change}
    found = symptoms.notes(trainings)
    assert len(found) == (told is not None)
    if told is not None and "fell" not in told:
        assert found[0].startswith("10 shots, 1 of 2 runs (gear): ")
    if "fell" in (told or ""):
        assert found[0].startswith("10 shots: ")
    assert told is None or told in found[0]


def test_numbers_of_shots_are_told_apart():
    ill = WELL | {"gate_rgb": 0.0}
    found = symptoms.notes({Run("knob", 5, 0): ill, Run("knob", 10, 0): ill})
    assert [note.partition(",")[0] for note in found] == ["5 shots", "10 shots"]


def test_detection_is_watched_in_the_first_group_of_a_number_of_shots_alone():
    runs = [Run("knob", 2, seed) for seed in range(4)]
    schedule, programs, data = (mock.MagicMock(spec=of) for of in (groups.Schedule, groups._Programs, StudyData))
    schedule.spec, data.drawn = mock.Mock(recipe=Recipe(epochs=80)), mock.Mock(episodes=dict.fromkeys(runs, range(2)))
    schedule.stage = mock.Mock(side_effect=InterruptedError)
    assert groups._evaluate_untrained(schedule, programs, Group("2-001", runs[2:], 2, ""), data) == {}
    with pytest.raises(InterruptedError):
        groups._evaluate_untrained(schedule, programs, Group("2-000", runs[:2], 2, ""), data)
