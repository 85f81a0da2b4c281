"""Line charts put every number where it belongs; what the paper reports stands beside the right runs only."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from pirn_jax.methods import METHODS
from pirn_jax.report import charts, page
from tests import reports


def points(svg):
    """The points of every line of a chart."""
    lines = ET.fromstring(svg).iter("polyline")
    return [np.array([pair.split(",") for pair in line.get("points").split()], float) for line in lines]


def levels(svg):
    """Height in the picture by value, from the labels of the vertical axis."""
    texts = [text for text in ET.fromstring(svg).iter("text") if text.get("text-anchor") == "end"]
    return {float(text.text): float(text.get("y")) - 4 for text in texts}


def value_at(svg, y):
    (low, bottom), *_, (high, top) = sorted(levels(svg).items())
    return low + (y - bottom) / (top - bottom) * (high - low)


def line(name, y, spread=0.0):
    y = np.array(y, float)
    return charts.Line(name, np.arange(len(y), dtype=float), y, y - spread, y + spread)


def test_a_line_goes_through_its_values_on_the_labelled_axis():
    y = [0.91, 0.955, 0.93]
    svg = charts.line_svg("three", [line("a", y)], [(0.0, "2"), (1.0, "5"), (2.0, "10")], "shots")
    (drawn,) = points(svg)
    np.testing.assert_allclose([value_at(svg, height) for height in drawn[:, 1]], y, atol=1e-3)
    _, _, width, height = map(float, ET.fromstring(svg).get("viewBox").split())
    assert (drawn >= 0).all()
    assert (drawn <= [width, height]).all()
    labels = {t.text: float(t.get("x")) for t in ET.fromstring(svg).iter("text")}
    np.testing.assert_allclose(drawn[:, 0], [labels["2"], labels["5"], labels["10"]], atol=0.1)


def test_the_band_encloses_the_line():
    svg = charts.line_svg("band", [line("a", [0.5, 0.6], 0.05)], [(0.0, "1"), (1.0, "2")], "x")
    band = ET.fromstring(svg).find("polygon").get("points")
    heights = [value_at(svg, float(pair.split(",")[1])) for pair in band.split()]
    np.testing.assert_allclose(heights, [0.45, 0.55, 0.65, 0.55], atol=2e-3)


def test_missing_values_leave_out_points_and_hostile_names_stay_text():
    svg = charts.line_svg(
        reports.HOSTILE, [line("<i>", [0.5, np.nan, 0.7]), line("b", [np.nan] * 3)], [(0.0, "0")], "x"
    )
    assert [len(drawn) for drawn in points(svg)] == [2]
    assert ET.fromstring(svg).find("title").text == reports.HOSTILE
    assert "nan" not in svg


def test_lines_differ_without_colour():
    svg = charts.line_svg("two", [line("a", [0.1, 0.2]), line("b", [0.3, 0.4])], [(0.0, "0"), (1.0, "1")], "x")
    dashes = re.findall(r'<polyline[^>]*stroke-dasharray:([^"]*)"', svg)
    assert len(set(dashes)) == 2


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.913, 0.917), (-3.0, 40.0), (0.5, 0.5), (0.0, 0.0), (2e5, 9e5)]
)
def test_levels_enclose_the_values_and_are_few(low, high):
    found = charts.nice_ticks(low, high)
    assert found[0] <= low + 1e-9
    assert found[-1] >= high - 1e-9
    assert 2 <= len(found) <= 6
    assert len({f"{level:.4g}" for level in found}) == len(found)


def test_metrics_over_shots_are_the_means_of_the_results():
    results = reports.results()
    results["mean"]["2"]["image_auroc"] = {"mean": 0.4, "std": 0.1}
    image, pixel = points(svg := charts.shots_svg(results))  # AUPRO is undefined everywhere and has no line
    np.testing.assert_allclose([value_at(svg, y) for y in image[:, 1]], [0.4, 0.8111], atol=2e-3)
    np.testing.assert_allclose([value_at(svg, y) for y in pixel[:, 1]], [0.6333, 0.6333], atol=2e-3)


def test_training_is_drawn_for_every_metric_by_its_name():
    rng = np.random.default_rng(0)
    few, many = rng.random((3, 4)), rng.random((3, 1000))
    drawn = dict(charts.training_svgs({"2": {"loss": few, "gate": few}, "10": {"loss": many}}))
    assert list(drawn) == ["loss", "gate"]
    short, long = points(drawn["loss"])
    np.testing.assert_allclose([value_at(drawn["loss"], y) for y in short[:, 1]], few.mean(0), atol=5e-3)
    assert len(long) <= 150
    assert np.mean([value_at(drawn["loss"], y) for y in long[:, 1]]) == pytest.approx(many.mean(), abs=5e-3)
    assert len(points(drawn["gate"])) == 1
    assert f"in the end {few[:, -1].mean():.3g} with 2 shots" in ET.fromstring(drawn["gate"]).find("title").text


def of_mvtec(shots):
    results = reports.results() | {"dataset": "mvtec3d"}
    return results | {key: {shots: results[key]["2"]} for key in ("results", "mean", "episodes")}


@pytest.mark.parametrize(
    ("dataset", "shots", "found"),
    [
        ("mvtec3d", "10", [0.922, 0.923]),
        ("tfds:pirn_mvtec3d/bagel:1.0.0", "5", [0.890]),
        ("eyecandies", "50", [0.924]),
        ("realiad_d3", "all", [0.873]),
        ("mvtec3d", "2", []),
        ("procedural", "10", []),
    ],
)
def test_published_numbers_belong_to_a_data_set_and_a_number_of_shots(dataset, shots, found):
    results = {"dataset": dataset, "method": "pirn"}
    assert [row.image_auroc for row in page.published(results, shots)] == found
    assert page.published({**results, "method": "patchcore"}, shots) == []
    assert page.published({**results, "method": "another"}, shots) == []


def test_published_numbers_are_fractions_that_rise_with_shots():
    rows = METHODS["pirn"].published
    for dataset in {row.dataset for row in rows}:
        main = [row for row in rows if row.dataset == dataset and "Table 10" not in row.source]
        values = [[value or 0.0 for value in row[4:]] for row in main]
        assert (np.diff(values, axis=0) > 0).all()
        assert 0 < np.max(values) < 1


def test_page_shows_published_numbers_of_the_method_at_the_same_number_of_shots_only(tmp_path):
    for method, shots, shown in (("pirn", "10", True), ("pirn", "2", False), ("patchcore", "10", False)):
        page.write_page(tmp_path / "report.html", of_mvtec(shots) | {"method": method}, [])
        text = (tmp_path / "report.html").read_text("utf-8")
        assert ("Table 1, mean of 10 categories" in text and "0.922" in text) == shown
        assert ("Table 10" in text and "0.923" in text) == shown
        assert ("its own numbers" in text) == shown


def test_page_draws_shots_only_where_there_are_several(tmp_path):
    titles = []
    for results in (reports.results(), of_mvtec("2")):
        page.write_page(tmp_path / "report.html", results, [])
        titles.append("by number of shots" in (tmp_path / "report.html").read_text("utf-8"))
    assert titles == [True, False]


def test_page_says_why_a_metric_is_undefined(tmp_path):
    results = reports.results() | {"undefined": {reports.HOSTILE: {"pixel": "no part has a mask"}}}
    page.write_page(tmp_path / "report.html", results, [])
    assert "pixel metrics are undefined: no part has a mask." in (tmp_path / "report.html").read_text("utf-8")
