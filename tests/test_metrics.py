"""Metrics against their definition, scikit-learn and closed forms."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from pirn_jax.metrics import batched, exact, ground_truth, ranking, regions
from pirn_jax.metrics.evaluation import MetricSettings
from tests import reference

# Few distinct values, so that ties are common.
SCORES = st.integers(-4, 4).map(float)


def squares(*corners, size=12, side=3):
    mask = np.zeros((size, size), bool)
    for row, column in corners:
        mask[row : row + side, column : column + side] = True
    return mask


def report(maps, masks, defective, settings=MetricSettings()):  # noqa: B008
    """Evaluation of one run."""
    maps = [np.asarray(m, np.float32) for m in maps]
    names = ["dent" if bad else "good" for bad in defective]
    truth = ground_truth.prepare(names, masks, [m.shape for m in maps], settings)
    return batched.evaluate(batched.flatten(maps, truth)[None], truth)[0]


def measure(maps, masks, limits=(0.3,)):
    """Pixel metrics of one run."""
    values = report(maps, masks, [mask.any() for mask in masks], MetricSettings(limits=limits)).all.values
    return {name: values[name] for name in (*exact.PIXEL_NAMES, *map(exact.aupro_name, limits))}


MAPS = hnp.arrays(float, (2, 6, 7), elements=SCORES)
LABELS = hnp.arrays(bool, (2, 6, 7))
LIMITS = (0.005, 0.01, 0.05, 0.3, 1.0)


@hypothesis.given(st.lists(st.tuples(SCORES, st.booleans()), min_size=2, max_size=40))
@hypothesis.settings(max_examples=200)
def test_image_metrics_are_the_definitions_and_scikit_learns(pairs):
    scores, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    values = exact.of_parts(scores, positive)
    assert tuple(values) == exact.IMAGE_NAMES
    if positive.all() or not positive.any():
        assert set(values.values()) == {None}
        return
    f1, threshold = reference.f1_max(scores, positive)
    expected = (reference.auroc(scores, positive), reference.average_precision(scores, positive), f1, threshold)
    np.testing.assert_allclose(list(values.values()), expected, atol=1e-12)
    np.testing.assert_allclose(values["image_auroc"], roc_auc_score(positive, scores), atol=1e-12)
    np.testing.assert_allclose(values["image_ap"], average_precision_score(positive, scores), atol=1e-12)
    precision, recall, _ = precision_recall_curve(positive, scores)
    f1s = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    np.testing.assert_allclose(values["image_f1"], f1s.max(), atol=1e-12)


@hypothesis.given(MAPS, LABELS)
@hypothesis.settings(max_examples=150, deadline=None)
def test_pixel_metrics_are_the_definitions(maps, masks):
    values = measure(list(maps), list(masks), LIMITS)
    names = ("aupro_0.5", "aupro_01", "aupro_05", "aupro_30", "aupro_100")
    assert tuple(values) == (*exact.PIXEL_NAMES, *names)
    if masks.all() or not masks.any():
        assert set(values.values()) == {None}
        return
    flat = maps.ravel(), masks.ravel()
    f1, threshold = reference.f1_max(*flat)
    expected = [reference.auroc(*flat), reference.average_precision(*flat), f1, threshold]
    expected += [reference.aupro(maps, masks, limit) for limit in LIMITS]
    np.testing.assert_allclose(list(values.values()), expected, atol=1e-12)
    assert all(0 <= values[name] <= 1 for name in values if "threshold" not in name)


@hypothesis.given(MAPS, LABELS)
@hypothesis.settings(max_examples=50, deadline=None)
def test_pixel_metrics_change_neither_under_monotone_maps_nor_with_the_order_of_parts(maps, masks):
    hypothesis.assume(masks.any() and not masks.all())
    value = drop_threshold(measure(list(maps), list(masks), LIMITS))
    # A sum in another order may round differently; the scores themselves do not count.
    assert drop_threshold(measure(list(np.exp(maps) * 3 - 100), list(masks), LIMITS)) == value
    assert drop_threshold(measure(list(maps + 0.5), list(masks), LIMITS)) == value
    turned = drop_threshold(measure(list(maps[::-1]), list(masks[::-1]), LIMITS))
    np.testing.assert_allclose(list(turned.values()), list(value.values()), atol=1e-12)


@hypothesis.given(MAPS, LABELS)
@hypothesis.settings(max_examples=50, deadline=None)
def test_merging_scores_into_ties_is_the_definition_of_the_merged_ones(maps, masks):
    hypothesis.assume(masks.any() and not masks.all())
    merged = np.floor(maps / 2)
    values = measure(list(merged), list(masks), (0.3,))
    np.testing.assert_allclose(values["aupro_30"], reference.aupro(merged, masks, 0.3), atol=1e-12)
    np.testing.assert_allclose(values["pixel_auroc"], reference.auroc(merged.ravel(), masks.ravel()), atol=1e-12)


def drop_threshold(values):
    return {name: value for name, value in values.items() if name != "pixel_f1_threshold"}


MASKS = [squares((0, 0), (6, 7)), squares((2, 2), side=1), np.zeros((12, 12), bool)]


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([m.astype(float) for m in MASKS], (1.0, 1.0, 1.0, 1.0, 1.0)),
        # 19 of 432 pixels are defective; all must be marked to find one.
        ([1.0 - m for m in MASKS], (0.0, 19 / 432, 38 / 451, 0.0, 0.0)),
        # One threshold: the curve is the diagonal, its area up to the limit is limit^2 / 2.
        ([np.zeros(m.shape) for m in MASKS], (0.5, 19 / 432, 38 / 451, 0.0, 0.15)),
    ],
    ids=["perfect", "inverted", "constant"],
)
def test_perfect_inverted_and_constant_maps_have_their_closed_forms(maps, expected):
    np.testing.assert_allclose(list(measure(maps, MASKS).values()), expected, atol=1e-12)


def test_a_perfect_map_has_ones_without_rounding():
    values = measure([m.astype(np.float32) for m in MASKS], MASKS, exact.LIMITS)
    assert set(values.values()) == {1.0}


def test_one_defective_pixel_below_one_good_pixel_of_100():
    mask = squares((4, 4), size=10, side=1)
    scores = mask * 1.0
    scores[0, 0] = 2.0
    values = measure([scores], [mask], (0.3, 0.01))
    # The false positive rate steps to 1/99 before anything is found: 1 - 1/99, precision 1/2, and 0 for 1 %.
    expected = (1 - 1 / 99, 0.5, 2 / 3, 1.0, (0.3 - 1 / 99) / 0.3, 0.0)
    np.testing.assert_allclose(list(values.values()), expected, atol=1e-12)


def test_a_tie_across_the_limit_is_interpolated_linearly():
    # All is found on the way from rate 0 to 1/2: at the limit 1/4 half is, so the mean height up to there is 1/4.
    mask = squares((0, 0), size=3, side=1)
    scores = np.array([[1.0, 1, 1], [1, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(measure([scores], [mask], (0.25,))["aupro_25"], 0.25, atol=1e-12)


def test_regions_count_the_same_whatever_their_size():
    # The region of one pixel is found, the nine-pixel one is not: one half, not one tenth.
    masks = [squares((0, 0)) | squares((8, 8), side=1)]
    found = squares((8, 8), side=1).astype(float)
    good = ~masks[0]
    maps = [np.where(masks[0] & (found == 0), -1.0, found)]
    aupro = measure(maps, masks)["aupro_30"]
    assert good.sum() > 0
    np.testing.assert_allclose(aupro, 0.5, atol=1e-12)


def test_diagonal_neighbours_and_borders_make_regions():
    ring = np.ones((5, 6), bool)
    ring[1:-1, 1:-1] = False
    mask = np.zeros((8, 16), bool)
    mask[:5, :6] = ring
    mask[range(2, 8), range(9, 15)] = True  # A diagonal to the lower border.
    mask[0, 15] = True
    mask[7, 0] = True
    region, sizes = regions.label(mask)
    assert sorted(sizes) == [1, 1, 6, 18]
    np.testing.assert_array_equal(sizes[region], [(reference.components(mask) == n).sum() for n in labels_of(mask)])


def labels_of(mask):
    labels = reference.components(mask)
    return labels[mask]


def test_good_parts_supply_false_positives():
    mask, good = squares((0, 0)), np.zeros((12, 12), bool)
    alarm = np.full((12, 12), 2.0)
    with_alarm = measure([mask.astype(float), alarm], [mask, good])
    without = measure([mask.astype(float), np.zeros((12, 12))], [mask, good])
    assert with_alarm["aupro_30"] < without["aupro_30"] == 1.0


def test_parts_are_scored_by_the_maximum_of_their_maps():
    masks = [squares((0, 0)), np.zeros((8, 10), bool), np.zeros((5, 5), bool)]
    maps = [mask * 0.5 for mask in masks]
    maps[0][:3, :3] = 0.0
    maps[0][1, 1] = 0.5
    maps[1][:] = 0.4
    assert report(maps, masks, [True, False, False]).all.values["image_auroc"] == 1.0
    maps[2][:] = 0.6
    assert report(maps, masks, [True, False, False]).all.values["image_auroc"] == 0.5


def test_a_top_share_scores_a_part_by_the_mean_of_its_highest_pixels():
    rng = np.random.default_rng(0)
    maps, masks = rng.normal(size=(6, 10, 20)).astype(np.float32), np.zeros((6, 10, 20), bool)
    masks[3:, :2, :2] = True
    settings = MetricSettings(top_share=0.05)
    highest = np.sort(maps.reshape(6, -1))[:, -10:].mean(1)
    found = report(maps, masks, masks.any((1, 2)), settings).all.values["image_auroc"]
    assert found == pytest.approx(reference.auroc(highest, np.arange(6) > 2))
    assert found != pytest.approx(report(maps, masks, masks.any((1, 2))).all.values["image_auroc"])


def test_ground_truth_looks_at_each_mask_once():
    masks = iter([squares((0, 0)), squares((2, 2)), np.zeros((12, 12), bool)])
    truth = ground_truth.prepare(["dent", "dent", "good"], masks, [(12, 12)] * 3, MetricSettings())
    assert next(masks, None) is None
    assert len(truth.defective) == 18
    assert truth.places == [slice(0, 144), slice(144, 288), slice(288, 432)]
    assert truth.regions.sample.tolist() == [0, 1]


NONE = np.zeros((4, 4), bool)
SOME = np.eye(4, dtype=bool)


@pytest.mark.parametrize(
    ("masks", "defective", "reasons"),
    [
        ([NONE, NONE], [False, False], {"image": "no defective part", "pixel": "no defective pixel"}),
        ([SOME, SOME], [True, True], {"image": "no good part"}),
        ([~NONE, ~NONE], [True, True], {"image": "no good part", "pixel": "no good pixel"}),
        ([NONE, None], [False, True], {"pixel": "defective parts without a mask: 1"}),
        ([None, None], [True, True], {"image": "no good part", "pixel": "defective parts without a mask: 2"}),
        ([NONE, SOME], [False, True], {}),
    ],
    ids=["no defects", "no good parts", "no good pixels", "one mask missing", "no mask", "all there"],
)
def test_what_is_undefined_is_none_and_told_why(masks, defective, reasons):
    found = report([np.ones((4, 4))] * 2, masks, defective).all
    assert set(found.undefined) == set(reasons)
    for kind, reason in reasons.items():
        assert found.undefined[kind].startswith(reason)
    for name, value in found.values.items():
        kind = "image" if name.startswith("image") else "pixel"
        assert (value is None) == (kind in reasons), name


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused_with_their_part(bad):
    maps = [np.zeros((4, 4)), np.zeros((4, 4))]
    maps[1][0, :3] = bad
    with pytest.raises(ValueError, match="part 1: 3 of 16 scores"):
        report(maps, [NONE, SOME], [False, True])


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.01, np.nan])
def test_impossible_limits_are_refused(limit):
    ranks = exact.rank(np.ones(1), np.zeros(3))
    with pytest.raises(ValueError, match="limit"):
        exact.area(ranks, np.ones(1), limit)


# Ties, both zeros, numbers too small for some devices, and the score that hides a pixel.
NUMBERS = (
    SCORES | st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1e-45, -1e-45])
)


@hypothesis.given(
    hnp.arrays(np.float32, (3, 5), elements=NUMBERS),
    hnp.arrays(np.float32, (3, 40), elements=NUMBERS | st.just(-np.inf)),
)
@hypothesis.settings(deadline=None, max_examples=40)
def test_a_device_counts_as_numpy_and_the_definition_do(levels, scores):
    levels, places = -np.sort(-levels), np.array([0, 7, 39])
    in_numpy, in_jax = (count(levels, scores, places) for count in (ranking.count_in_numpy, ranking.count_in_jax))
    above = np.sum(scores[:, None, :] > levels[:, :, None], axis=-1)
    reached = np.sum(scores[:, None, :] >= levels[:, :, None], axis=-1)
    for found in (in_numpy, in_jax):
        for values, expected in zip(found, (above, reached, np.sort(scores)[:, places]), strict=True):
            np.testing.assert_array_equal(values, expected)


def test_devices_count_for_as_many_runs_as_fit_and_hosts_for_one(monkeypatch):
    assert ranking.runs_at_once(1000) == 1
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert ranking.runs_at_once(ranking._AT_ONCE // 3) == 3
    assert ranking.runs_at_once(2 * ranking._AT_ONCE) == 1
    used, counts = [], (np.zeros((1, 2), int), np.zeros((1, 2), int), np.zeros((1, 0), np.float32))
    monkeypatch.setattr(ranking, "count_in_jax", lambda *_: used.append("jax") or counts)
    monkeypatch.setattr(ranking, "count_in_numpy", lambda *_: used.append("numpy") or counts)
    few = np.zeros((1, 2), np.float32)
    ranking.count(few, few, np.zeros(0, int))
    # No machine's memory holds what 32 bits cannot count; its shape is enough.
    ranking.count(few, np.broadcast_to(np.float32(0), (1, 2**31)), np.zeros(0, int))
    assert used == ["jax", "numpy"]
