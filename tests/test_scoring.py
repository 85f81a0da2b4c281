"""From distances to maps: the combined operators against the four steps they stand for; fusion, calibration, scores."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import svm

from pirn_jax import scoring
from tests import reference

ONES = np.ones(2, np.float32)


@pytest.mark.parametrize("size", [(16, 16), (20, 12), (9, 30)])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_maps_are_upsampled_smoothed_resized_and_cropped(size, sigma):
    maps = scoring.Maps(grid=4, input_size=24, sigma=sigma)
    distances, scales = np.random.default_rng(0).random((2, 16)), np.array([0.5, 4.0])
    up, side = reference.bilinear_weights(24, 4), max(size)
    smooth = reference.gaussian_weights(24, sigma) if sigma else np.eye(24)
    axis = reference.bilinear_weights(side, 24) @ smooth @ up
    top, left = ((side - length) // 2 for length in size)
    rows, columns = axis[top : top + size[0]], axis[left : left + size[1]]
    expected = [rows @ d.reshape(4, 4) @ columns.T for d in distances]
    np.testing.assert_allclose(maps.upsample(distances, size), expected, atol=1e-6)
    np.testing.assert_allclose(maps.fused(distances, ONES, size), sum(expected), atol=1e-6)
    np.testing.assert_allclose(maps.fused(distances, scales, size), 2 * expected[0] + expected[1] / 4, atol=1e-6)


def test_constant_distances_give_a_constant_map():
    fused = scoring.Maps(grid=4, input_size=56, sigma=4.0).fused(np.full((2, 16), 0.25), ONES, (50, 30))
    np.testing.assert_allclose(fused, 0.5, rtol=1e-5)


def test_a_patch_lights_up_where_it_lies():
    distances = np.zeros((2, 16))
    distances[0, 1 * 4 + 2] = 1.0
    fused = scoring.Maps(grid=4, input_size=56, sigma=2.0).fused(distances, ONES, (40, 40))
    row, column = np.unravel_index(fused.argmax(), fused.shape)
    assert abs(row - 14.5) < 1
    assert abs(column - 24.5) < 1


@pytest.mark.parametrize(("size_out", "size_in"), [(7, 3), (3, 7), (5, 5), (4, 1)])
def test_bilinear_is_the_reference(size_out, size_in):
    np.testing.assert_allclose(
        scoring.bilinear(size_out, size_in), reference.bilinear_weights(size_out, size_in), atol=1e-12
    )


@pytest.mark.parametrize(
    ("fusion", "join"), [("sum", np.add), ("calibrated", np.add), ("one_class", np.add), ("maximum", np.maximum)]
)
def test_fusion_joins_maps_divided_by_their_scales_on_host_and_device(fusion, join):
    distances, scales = np.random.default_rng(0).random((3, 2, 16)), np.array([0.5, 4.0])
    expected = join(2 * distances[:, 0], distances[:, 1] / 4)
    np.testing.assert_allclose(scoring.fuse(distances, scales, fusion), expected)
    np.testing.assert_allclose(scoring.fuse(jnp.asarray(distances), jnp.asarray(scales), fusion), expected, rtol=1e-6)
    maps = scoring.Maps(grid=4, input_size=24, sigma=1.0, fusion=fusion)
    found = maps.fused(distances[0], scales, (24, 24))
    np.testing.assert_allclose(found, maps.upsample(expected[:1], (24, 24))[0], rtol=1e-6)


def test_maxima_of_several_judges_are_added():
    distances, scales = np.random.default_rng(0).random((2, 5, 16)), np.array([1.0, 2.0, 0.5, 1.0, 4.0])
    scaled = distances / scales[:, None]
    expected = scaled[:, :3].max(1) + scaled[:, 3:].max(1)
    for array in (np.asarray, jnp.asarray):
        found = scoring.fuse(array(distances), array(scales), "maximum", (3, 2))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(scoring.fuse(distances, scales, "sum", (3, 2)), scaled.sum(1))
    maps = scoring.Maps(grid=4, input_size=24, sigma=1.0, fusion="maximum", judges=(3, 2))
    np.testing.assert_allclose(maps.fused(distances[0], scales, (24, 24)), maps.upsample(expected[:1], (24, 24))[0])


def test_scales_are_medians_of_maxima_over_good_parts_and_one_where_these_are_zero():
    maps, rng = scoring.Maps(grid=4, input_size=24, sigma=1.5), np.random.default_rng(0)
    support = rng.random((5, 3, 16)) * np.array([1.0, 20.0, 0.0])[:, None]
    support[0, 0] = 1e3  # One odd part moves no median.
    axis = reference.gaussian_weights(24, 1.5) @ reference.bilinear_weights(24, 4)
    highest = [[(axis @ d.reshape(4, 4) @ axis.T).max() for d in part] for part in support]
    scales = scoring.calibrate(support, maps)
    assert scales.dtype == np.float32
    np.testing.assert_allclose(scales, [*np.median(highest, axis=0)[:2], 1.0], rtol=1e-5)


def test_a_part_that_meets_itself_has_no_scale():
    rounding = np.full((1, 2, 16), 2e-7, np.float32) * np.array([1.0, 3.0])[:, None]
    for fusion in ("maximum", "one_class"):
        scales = scoring.calibrate(rounding.astype(np.float32), scoring.Maps(4, 24, 0.0, fusion))
        np.testing.assert_allclose(scales[0] if fusion == "maximum" else 1.0, 1.0)
    nothing = scoring.calibrate(np.zeros((1, 2, 16), np.float32), scoring.Maps(4, 24, 0.0, "one_class"))
    assert np.isfinite(nothing).all()


@pytest.mark.parametrize(("share", "count"), [(0.0, 1), (0.001, 1), (0.05, 6), (1.0, 120)])
def test_image_scores_are_maxima_or_means_of_a_top_share_on_host_and_device(share, count):
    values = np.random.default_rng(0).normal(size=(2, 3, 10, 12)).astype(np.float32)
    expected = np.sort(values.reshape(2, 3, -1))[..., -count:].mean(-1)
    np.testing.assert_allclose(scoring.image_score(values, share), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scoring.image_score(jnp.asarray(values), share), expected, rtol=1e-5, atol=1e-6)


def test_one_class_weights_are_those_of_a_linear_one_class_machine():
    rows = np.random.default_rng(0).gamma(2.0, size=(400, 3)) * np.array([1.0, 0.3, 2.0])
    machine = svm.OneClassSVM(kernel="linear", nu=0.5, tol=1e-8).fit(rows)
    expected = machine.coef_[0] / machine.coef_.sum()
    found = scoring.one_class_weights(rows)
    np.testing.assert_allclose(found / found.sum(), expected, atol=2e-3)
    assert np.abs(rows.mean(0) / rows.mean(0).sum() - expected).max() > 0.01


def test_one_class_fusion_weighs_calibrated_maps_of_the_part_alone():
    support = np.random.default_rng(1).gamma(2.0, size=(5, 2, 16)).astype(np.float32)
    support[..., :4] = 0.0
    plain = scoring.calibrate(support, scoring.Maps(4, 24, 0.0, "calibrated"))
    found = scoring.calibrate(support, scoring.Maps(4, 24, 0.0, "one_class"))
    rows = np.moveaxis(support[..., 4:] / plain[:, None], 1, 2).reshape(-1, 2)
    weights = scoring.one_class_weights(rows)
    np.testing.assert_allclose(plain / found, weights / weights.sum(), rtol=1e-5)
