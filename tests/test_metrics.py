"""Metrics against their definition, scikit-learn and closed forms."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pirn_jax.protocol import metrics
from tests import reference

# Few distinct values, so that ties are common.
SCORES = st.integers(-4, 4).map(float)


def squares(*corners, size=12, side=3):
    mask = np.zeros((size, size), bool)
    for row, column in corners:
        mask[row : row + side, column : column + side] = True
    return mask


def measure(maps, masks, limit=0.3):
    truth = metrics.prepare_truth(masks)
    return metrics.pixel_metrics(np.concatenate([np.ravel(m) for m in maps]), truth, limit)


@hypothesis.given(st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=40))
@hypothesis.settings(max_examples=200)
def test_auroc_is_the_definition_and_scikit_learns(pairs):
    scores, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    value = metrics.auroc(scores, positive)
    if positive.all() or not positive.any():
        assert value is None
        return
    np.testing.assert_allclose(value, reference.auroc(scores, positive), atol=1e-12)
    np.testing.assert_allclose(value, roc_auc_score(positive, scores), atol=1e-12)


@hypothesis.given(st.lists(SCORES, min_size=8, max_size=8))
def test_auroc_does_not_change_under_monotone_maps(scores):
    positive = np.arange(8) % 2 == 0
    assert metrics.auroc(np.array(scores), positive) == metrics.auroc(np.exp(np.array(scores)) * 3 - 1, positive)


@hypothesis.given(
    hnp.arrays(float, (2, 6, 7), elements=SCORES),
    hnp.arrays(bool, (2, 6, 7)),
    st.sampled_from([0.01, 0.05, 0.3, 1.0]),
)
@hypothesis.settings(max_examples=150, deadline=None)
def test_pixel_metrics_are_the_definition(maps, masks, limit):
    pixel_auroc, aupro = measure(list(maps), list(masks), limit)
    if masks.all() or not masks.any():
        assert pixel_auroc is None
        assert aupro is None
        return
    np.testing.assert_allclose(pixel_auroc, reference.auroc(maps.ravel(), masks.ravel()), atol=1e-12)
    np.testing.assert_allclose(aupro, reference.aupro(maps, masks, limit), atol=1e-12)
    assert 0 <= aupro <= 1


MASKS = [squares((0, 0), (6, 7)), squares((2, 2), side=1), np.zeros((12, 12), bool)]


@pytest.mark.parametrize(
    ("maps", "auroc", "aupro"),
    [
        ([m.astype(float) for m in MASKS], 1.0, 1.0),
        ([1.0 - m for m in MASKS], 0.0, 0.0),
        # One threshold: the curve is the diagonal, its area up to the limit is limit^2 / 2.
        ([np.zeros(m.shape) for m in MASKS], 0.5, 0.15),
    ],
    ids=["perfect", "inverted", "constant"],
)
def test_closed_forms(maps, auroc, aupro):
    np.testing.assert_allclose(measure(maps, MASKS), (auroc, aupro), atol=1e-12)


def test_regions_count_the_same_whatever_their_size():
    # The region of one pixel is found, the nine-pixel one is not: one half, not one tenth.
    masks = [squares((0, 0)) | squares((8, 8), side=1)]
    found = squares((8, 8), side=1).astype(float)
    good = ~masks[0]
    maps = [np.where(masks[0] & (found == 0), -1.0, found)]
    _, aupro = measure(maps, masks)
    assert good.sum() > 0
    np.testing.assert_allclose(aupro, 0.5, atol=1e-12)


def test_diagonal_neighbours_are_one_region():
    mask = np.eye(6, dtype=bool)
    assert np.unique(metrics.prepare_truth([mask]).overlap).size == 2
    np.testing.assert_allclose(metrics.prepare_truth([mask]).overlap.max(), 1 / 6)


def test_good_parts_supply_false_positives():
    mask, good = squares((0, 0)), np.zeros((12, 12), bool)
    alarm = np.full((12, 12), 2.0)
    with_alarm = measure([mask.astype(float), alarm], [mask, good])
    without = measure([mask.astype(float), np.zeros((12, 12))], [mask, good])
    assert with_alarm[1] < without[1] == 1.0


def test_evaluate_scores_parts_by_the_maximum_of_their_maps():
    masks = [squares((0, 0)), np.zeros((8, 10), bool), np.zeros((5, 5), bool)]
    maps = [mask * 0.5 for mask in masks]
    maps[0][:3, :3] = 0.0
    maps[0][1, 1] = 0.5
    maps[1][:] = 0.4
    values = metrics.evaluate(maps, np.array([True, False, False]), metrics.prepare_truth(masks))
    assert values["image_auroc"] == 1.0
    maps[2][:] = 0.6
    assert metrics.evaluate(maps, np.array([True, False, False]), metrics.prepare_truth(masks))["image_auroc"] == 0.5
    assert tuple(values) == metrics.NAMES


def test_a_category_without_defects_has_no_metrics_rather_than_numbers():
    masks = [np.zeros((4, 4), bool)] * 2
    values = metrics.evaluate([np.ones((4, 4))] * 2, np.array([False, False]), metrics.prepare_truth(masks))
    assert values == {"image_auroc": None, "pixel_auroc": None, "aupro_30": None}
