"""Conformal p-values and thresholds: their definition, what they guarantee, and where they say that they do not."""

import numpy as np
import pytest

from pirn_jax.inspection import thresholds

RNG = np.random.default_rng(0)


def test_a_p_value_is_the_share_of_good_parts_that_score_as_high_the_new_one_among_them():
    good = np.array([0.2, 0.5, 0.5, 0.9])
    found = thresholds.p_values(np.array([0.1, 0.5, 0.6, 0.9, 1.0]), good)
    np.testing.assert_allclose(found, [1.0, 0.8, 0.4, 0.4, 0.2])


@pytest.mark.parametrize(("count", "rate", "rank"), [(19, 0.05, 19), (9, 0.1, 9), (39, 0.05, 38), (10, 0.5, 6)])
def test_a_guaranteed_threshold_is_the_conformal_quantile(count, rate, rank):
    good = RNG.normal(size=count)
    found = thresholds.threshold(good, rate)
    assert found.kind == "guaranteed"
    assert found.value == np.sort(good)[rank - 1]
    assert f"at most {100 * rate:g} %" in found.text


def test_the_bound_of_a_threshold_holds_for_nine_models_in_ten():
    # Of 39 scores the 38th is taken: what exceeds it follows a beta distribution, whose .9 quantile is told.
    assert "with 90 % confidence no more than 9.6 %" in thresholds.threshold(RNG.random(39), 0.05).text
    exceeded = [1 - thresholds.threshold(RNG.random(39), 0.05).value for _ in range(4000)]
    assert np.mean(np.array(exceeded) <= 0.0961133) == pytest.approx(0.9, abs=0.02)


def test_the_guarantee_holds_over_draws():
    trials, rate = 4000, 0.1
    alarms = sum(RNG.exponential() > thresholds.threshold(RNG.exponential(size=14), rate).value for _ in range(trials))
    assert 0.06 < alarms / trials < rate + 3 * np.sqrt(rate * (1 - rate) / trials)


def test_beyond_the_parts_a_tail_is_extrapolated_with_its_interval():
    values, rate = [], 0.01
    for _ in range(30):
        good = RNG.exponential(size=40)
        found = thresholds.threshold(good, rate)
        assert found.kind == "extrapolated"
        assert found.value >= good.max()
        low, high = found.interval
        assert low < high
        assert "extrapolated: 40 good parts promise 2.4 % of false alarms at best" in found.text
        values.append(found.value)
    # The quantile of the distribution itself is 4.6.
    assert 3.8 < np.median(values) < 5.8


@pytest.mark.parametrize("good", [[], [0.3], [0.3, 0.4], [0.5] * 12])
def test_too_few_or_equal_scores_promise_nothing(good):
    found = thresholds.threshold(np.array(good), 0.01)
    assert found.kind == "none"
    assert found.value == np.inf
    assert ("promise nothing below" if good else "so nothing is promised") in found.text


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan])
def test_a_wish_that_is_no_share_is_refused(rate):
    with pytest.raises(ValueError, match="must be a share above 0 and below 1"):
        thresholds.threshold(np.arange(5.0), rate)
