"""Problems are told once, in order, and stop the work together."""

import pytest

from pirn_jax.data.problems import InputError, Problems


def test_problems_are_noted_once_in_the_order_in_which_they_are_met():
    problems = Problems()
    for sentence in ("b", "a", "b"):
        with problems.collecting():
            raise InputError(sentence)
    assert problems.found == ["b", "a"]
    with pytest.raises(InputError, match="^2 problems:\n  b\n  a$"):
        problems.check()


def test_one_problem_is_its_sentence_and_none_is_nothing():
    problems = Problems()
    problems.check()
    problems.add("a.png: broken; mend it")
    with pytest.raises(InputError, match="^a.png: broken; mend it$"):
        problems.check()


def test_other_errors_are_not_collected():
    problems = Problems()
    with pytest.raises(KeyError), problems.collecting():
        raise KeyError("a")
    assert problems.found == []
