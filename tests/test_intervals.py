"""Intervals of AUROCs hold what they promise, and say something where the AUROC is 0 or 1."""

import numpy as np
import pytest

from pirn_jax.metrics import exact, intervals


@pytest.mark.parametrize(("apart", "truth"), [(0.0, 0.5), (1.2, 0.802), (2.2, 0.940)])
@pytest.mark.parametrize(("defective", "good"), [(8, 10), (30, 10)])
def test_the_true_value_lies_within_as_often_as_promised(apart, truth, defective, good):
    rng, labels = np.random.default_rng(0), np.repeat([True, False], [defective, good])
    covered = 0
    for _ in range(400):
        scores = rng.normal(size=defective + good) + apart * labels
        low, high = intervals.auroc_interval(exact.of_parts(scores, labels)["image_auroc"], defective, good)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.995


def test_more_parts_tell_more_and_a_perfect_score_of_few_parts_is_not_certain():
    few, many = (intervals.auroc_interval(1.0, count, count) for count in (8, 80))
    assert few[1] == many[1] == 1.0
    assert 0.6 < few[0] < 0.9 < many[0] < 1.0


def test_good_and_defective_may_change_places():
    low, high = intervals.auroc_interval(0.83, 9, 14)
    np.testing.assert_allclose(intervals.auroc_interval(0.17, 14, 9), (1 - high, 1 - low), atol=1e-9)
    assert low < 0.83 < high
