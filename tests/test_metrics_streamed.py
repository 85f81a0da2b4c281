"""Streamed evaluation equals the definitions, for all defects, each kind and each size."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from experiments.suites import metrics_loop
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.metrics import batched, evaluation, exact, ground_truth, peer, streamed
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.metrics.streamed import StoredMap
from tests import reference

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def stored_of(maps):
    return [StoredMap(f"map{i}", scores.shape, lambda scores=scores: scores) for i, scores in enumerate(maps)]


def truth_of(maps, masks, defects, settings=MetricSettings()):  # noqa: B008
    return ground_truth.prepare(defects, masks, [scores.shape for scores in maps], settings)


def evaluate(maps, masks, defects, settings=MetricSettings()):  # noqa: B008
    problems = Problems()
    found = streamed.evaluate(stored_of(maps), truth_of(maps, masks, defects, settings), problems)
    problems.check()
    assert found is not None
    return found


@pytest.fixture
def category():
    """Two good parts; dents of 1, 30 and 100 pixels of 2000, a scratch of exactly 1 %; scores with many ties."""
    rng = np.random.default_rng(0)
    masks = [np.zeros((40, 50), bool) for _ in range(5)]
    masks[2][3, 4] = True
    masks[2][10:15, 0:6] = True
    masks[3][20, 10:30] = True
    masks[4][30:40, 40:50] = True
    maps = [np.round(rng.normal(size=mask.shape) + 1.5 * mask, 1).astype(np.float32) for mask in masks]
    return maps, masks, ["good", "good", "dent", "scratch", "dent"]


def expected_of(maps, masks, marked):
    """The definitions; defective pixels that are not marked count neither as found nor as false."""
    kept = [~mask | mark for mask, mark in zip(masks, marked, strict=True)]
    scores = np.concatenate([m[k] for m, k in zip(maps, kept, strict=True)])
    labels = np.concatenate([m[k] for m, k in zip(marked, kept, strict=True)])
    f1, threshold = reference.f1_max(scores, labels)
    values = {
        "pixel_auroc": roc_auc_score(labels, scores),
        "pixel_ap": reference.average_precision(scores, labels),
        "pixel_f1": f1,
        "pixel_f1_threshold": threshold,
    }
    # Left out pixels: below every threshold that matters, and in no region.
    hidden = [np.where(k, m, -1e9) for m, k in zip(maps, kept, strict=True)]
    share = sum((~k).sum() for k in kept) / sum((~mark).sum() for mark in marked)
    for limit in exact.LIMITS:
        # They swell the number of good pixels: the limit shrinks by as much.
        values[exact.aupro_name(limit)] = reference.aupro(hidden, marked, limit * (1 - share))
    return values


@pytest.mark.parametrize("batch", [1, 5000, 1 << 24])
def test_all_each_kind_and_each_size_are_the_definitions(category, batch, monkeypatch):
    monkeypatch.setattr(streamed, "_BATCH", batch)
    maps, masks, defects = category
    found = evaluate(*category)
    no = [np.zeros_like(mask) for mask in masks]
    dents = [no[0], no[1], masks[2], no[3], masks[4]]
    scratches = [no[0], no[1], no[2], masks[3], no[4]]
    dot = [mask.copy() for mask in no]
    dot[2][3, 4] = True
    large = [mask.copy() for mask in dents]
    large[2][3, 4] = False
    for group, marked, regions in (
        (found.all, masks, 4),
        (found.defects["dent"], dents, 3),
        (found.defects["scratch"], scratches, 1),
        (found.sizes["small"], dot, 1),
        (found.sizes["medium"], scratches, 1),
        (found.sizes["large"], large, 2),
    ):
        expected = expected_of(maps, masks, marked)
        np.testing.assert_allclose([group.values[name] for name in expected], list(expected.values()), atol=1e-7)
        assert group.regions == regions
        assert group.undefined == {}
    assert [found.sizes[name].parts for name in evaluation.SIZES] == [1, 1, 2]
    assert (found.good_parts, found.all.parts, found.defects["dent"].parts) == (2, 3, 2)
    highest = np.array([m.max() for m in maps])
    for group, chosen in ((found.all, [2, 3, 4]), (found.defects["dent"], [2, 4]), (found.defects["scratch"], [3])):
        rows = [0, 1, *chosen]
        labels = np.array([0, 0] + [1] * len(chosen), bool)
        np.testing.assert_allclose(group.values["image_auroc"], reference.auroc(highest[rows], labels))
        np.testing.assert_allclose(group.values["image_ap"], reference.average_precision(highest[rows], labels))
        assert (group.values["image_f1"], group.values["image_f1_threshold"]) == pytest.approx(
            reference.f1_max(highest[rows], labels)
        )


def test_by_means_aupro_is_that_of_maps_over_their_means_and_all_else_of_maps_over_the_roots_of_these(category):
    maps, masks, defects = category
    maps = [np.maximum(scores, 0) for scores in maps]
    maps[1][:] = 0
    found = evaluate(maps, masks, defects, MetricSettings(normalisation="means"))
    means = [max(float(scores.sum()) / max(np.count_nonzero(scores), 1), 1e-9) for scores in maps]
    roots, wholes = ([m / np.float32(s**power) for m, s in zip(maps, means, strict=True)] for power in (0.5, 1.0))
    of_all, of_aupro = (evaluate(divided, masks, defects) for divided in (roots, wholes))
    for group, other, third in zip(*([of.all, *of.defects.values()] for of in (found, of_all, of_aupro)), strict=True):
        for name, value in group.values.items():
            expected = (third if name.startswith("aupro") else other).values[name]
            assert value == pytest.approx(expected, abs=1e-6), name
    plain = evaluate(maps, masks, defects).all.values
    assert abs(plain["aupro_30"] - found.all.values["aupro_30"]) > 1e-4


def test_the_whole_is_the_mean_over_regions_of_the_kinds_and_of_the_sizes(category):
    found = evaluate(*category)
    for groups in (found.defects, found.sizes):
        for name in ("aupro_30", "aupro_01"):
            whole = sum(group.values[name] * group.regions for group in groups.values()) / found.all.regions
            np.testing.assert_allclose(found.all.values[name], whole, atol=1e-12)


def flat(found):
    """Counts, reasons and values of every group."""
    groups = {"all": found.all, **found.defects, **found.sizes}
    values = [v for group in groups.values() for v in group.values.values()]
    return found.good_parts, [(n, g.parts, g.regions, g.undefined, list(g.values)) for n, g in groups.items()], values


@pytest.mark.parametrize(
    "settings",
    [
        MetricSettings(),
        MetricSettings("peer"),
        MetricSettings("peer", (0.02,), 40),
        MetricSettings(resolution=30, top_share=0.1),
        MetricSettings(normalisation="means"),
    ],
    ids=["exact", "peer", "resized", "top share", "means"],
)
def test_a_study_measures_runs_together_as_the_stream_does_each(category, settings):
    maps, masks, defects = category
    rng = np.random.default_rng(2)
    runs = [maps, [rng.permutation(scores) for scores in maps], [-scores for scores in maps]]
    truth = truth_of(maps, masks, defects, settings)
    together = batched.evaluate(np.stack([batched.flatten(run, truth) for run in runs]), truth)
    for run, found in zip(runs, together, strict=True):
        *counted, values = flat(found)
        *expected_counts, expected = flat(evaluate(run, masks, defects, settings))
        assert counted == expected_counts
        np.testing.assert_allclose(np.array(values, float), np.array(expected, float), atol=1e-12)
    assert together[0].all.values != together[1].all.values


@pytest.mark.parametrize("together", [True, False])
def test_a_top_share_is_the_mean_of_as_many_of_the_highest_pixels(category, together):
    maps, masks, defects = category
    settings = MetricSettings(top_share=0.01)
    if together:
        truth = truth_of(maps, masks, defects, settings)
        found = batched.evaluate(batched.flatten(maps, truth)[None], truth)[0]
    else:
        found = evaluate(*category, settings)
    scores = np.array([np.sort(m, axis=None)[-20:].mean() for m in maps])
    defective = np.array(defects) != "good"
    values = found.defects["scratch"].values
    # The scratch alone among defects: the threshold is its score.
    assert values["image_f1_threshold"] == pytest.approx(scores[3], rel=1e-6)
    assert found.all.values["image_auroc"] == pytest.approx(reference.auroc(scores, defective))
    assert found.all.values["image_ap"] == pytest.approx(reference.average_precision(scores, defective))
    assert values["image_f1_threshold"] != evaluate(*category).defects["scratch"].values["image_f1_threshold"]


def test_without_a_mask_a_study_has_kinds_but_neither_pixel_metrics_nor_sizes(category):
    maps, masks, defects = category
    masks[3] = None
    truth = truth_of(maps, masks, defects)
    found = batched.evaluate(batched.flatten(maps, truth)[None], truth)[0]
    expected = evaluate(maps, masks, defects)
    assert found.defects["dent"].values == expected.defects["dent"].values
    assert found.defects["dent"].values["image_auroc"] is not None
    assert found.sizes == {}


def test_the_benchmarks_reference_evaluation_finds_the_same(category):
    maps, masks, defects = category
    found = metrics_loop.evaluate(maps, masks, np.array(defects) != "good")
    values = evaluate(*category).all.values
    assert {*found} == {name for name in values if "threshold" not in name}
    np.testing.assert_allclose([values[name] for name in found], list(found.values()), atol=1e-12)


def test_aupro_30_is_measured_whatever_limits_are_asked_for(category):
    found = evaluate(*category, MetricSettings(limits=(0.05,)))
    assert found.all.values["aupro_30"] == evaluate(*category).all.values["aupro_30"]
    assert "aupro_05" in found.all.values
    assert MetricSettings(limits=(0.05, 0.3)).describe()["limits"] == [0.3, 0.05]


def test_the_order_of_parts_does_not_count(category):
    turned = evaluate(*(list(reversed(column)) for column in category))
    for name, value in evaluate(*category).all.values.items():
        np.testing.assert_allclose(turned.all.values[name], value, atol=1e-12)


@hypothesis.given(hnp.arrays(np.float32, st.integers(1, 60), elements=FLOATS | st.sampled_from([0.0, -0.0, 1.0])))
@hypothesis.settings(deadline=None, max_examples=60)
def test_order_statistics_are_those_of_the_sorted_numbers(scores):
    statistics = peer.OrderStatistics()
    ranks = np.unique(np.linspace(0, len(scores) - 1, 7, dtype=int))
    for piece in np.array_split(scores, 3):
        statistics.count(piece)
    statistics.choose(ranks)
    for piece in np.array_split(scores, 2):
        statistics.refine(piece)
    np.testing.assert_array_equal(statistics.values(), np.sort(scores)[ranks])


def test_the_peer_form_has_100_thresholds(category):
    maps, masks, _ = category
    found = evaluate(*category, MetricSettings("peer")).all.values
    whole = evaluate(*category).all.values
    for limit in exact.LIMITS:
        name = exact.aupro_name(limit)
        np.testing.assert_allclose(found[name], reference.peer_aupro(maps, masks, limit), atol=1e-12)
    assert abs(found["aupro_30"] - whole["aupro_30"]) < 0.02
    assert found["aupro_01"] != pytest.approx(whole["aupro_01"], abs=1e-3)
    assert {name: found[name] for name in exact.PIXEL_NAMES} == {name: whole[name] for name in exact.PIXEL_NAMES}


def test_maps_are_resized_bilinearly_and_masks_to_the_nearest_pixel(category):
    maps, masks, defects = category
    small = (32, 40)
    rows, columns = (reference.bilinear_weights(out, size) for out, size in zip(small, (40, 50), strict=True))
    resized = [(rows @ m @ columns.T).astype(np.float32) for m in maps]
    nearest = np.ix_(*([int((i + 0.5) * 1.25) for i in range(out)] for out in small))
    expected = evaluate(resized, [mask[nearest] for mask in masks], defects)
    found = evaluate(*category, MetricSettings(resolution=40))
    for name, value in expected.all.values.items():
        np.testing.assert_allclose(found.all.values[name], value, rtol=1e-6)
    assert found.all.values["pixel_auroc"] != evaluate(*category).all.values["pixel_auroc"]


def test_a_missing_mask_leaves_image_metrics_and_a_reason(category):
    maps, masks, defects = category
    found = evaluate(maps, [*masks[:4], None], defects)
    assert found.all.values["image_auroc"] is not None
    assert found.all.values["aupro_30"] is found.defects["scratch"].values["pixel_ap"] is None
    assert found.all.undefined["pixel"] == "defective parts without a mask: 1"
    assert found.all.regions is None


def test_metrics_without_good_parts_defects_or_regions_are_none_with_a_reason(category):
    maps, masks, defects = category
    only_good = evaluate(maps[:2], masks[:2], defects[:2])
    assert set(only_good.all.values.values()) == {None}
    assert set(only_good.all.undefined) == {"image", "pixel"}
    only_bad = evaluate(maps[2:], masks[2:], defects[2:])
    assert only_bad.all.values["image_auroc"] is None
    assert only_bad.all.values["aupro_30"] is not None
    assert only_bad.all.undefined == {"image": "no good part in the test set"}
    no_large = evaluate(maps[:4], [*masks[:2], masks[2] & (np.arange(40) < 5)[:, None], masks[3]], defects[:4])
    assert set(no_large.sizes["large"].values.values()) == {None}
    assert "pixel" in no_large.sizes["large"].undefined


def test_all_that_is_wrong_with_maps_is_told_at_once(category):
    maps, masks, defects = category
    maps[1] = maps[1][:-1]
    maps[3] = maps[3].copy()
    maps[3][0, :2] = np.nan
    stored = stored_of(maps)
    stored[1] = stored[1]._replace(image=(40, 50))
    problems = Problems()
    truth = ground_truth.prepare(defects, masks, [(40, 50)] * 5, MetricSettings())
    assert streamed.evaluate(stored, truth, problems) is None
    assert [sentence.split(":")[0] for sentence in problems.found] == ["map1", "map3"]
    assert "50x39" in problems.found[0]
    assert "2 of 2000" in problems.found[1]


def test_a_map_of_another_aspect_is_not_stretched(category):
    maps, masks, defects = category
    with pytest.raises(InputError, match="aspect"):
        streamed.load(StoredMap("map", (40, 50), lambda: maps[0][:20, :20]), 20)
    half = streamed.load(StoredMap("map", (40, 50), lambda: maps[0][::2, ::2]), 10)
    assert truth_of(maps, masks, defects, MetricSettings(resolution=10)).fit(0, half).shape == (8, 10)


@pytest.mark.parametrize(
    "arguments",
    [
        ("fast",),
        ("exact", ()),
        ("exact", (0.3, 0.0)),
        ("exact", (2.0,)),
        ("exact", (0.3,), 0),
        ("exact", (0.3,), 9, 1.5),
    ],
)
def test_impossible_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="unknown|limits|resolution|image score"):
        MetricSettings(*arguments)


def test_settings_tell_the_two_forms_apart():
    exact, peer = MetricSettings().describe(), MetricSettings("peer", (0.3,), 224).describe()
    assert exact.keys() == peer.keys()
    assert {name for name in exact if exact[name] != peer[name]} == {
        *("form", "resolution", "resizing", "limits", "thresholds", "ties")
    }
