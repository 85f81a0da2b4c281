"""What the suites make of the times that they measure, and what the command writes."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import benchmark
from experiments.suites import scaling, serve, table

SVG = "{http://www.w3.org/2000/svg}"


def power_laws():
    """Seconds by axis and place, with a power of its own for each axis."""
    powers = {"seeds": 1.0, "shots": 0.0, "tokens": 0.5, "prototypes": 1.5, "devices": -0.9}
    return {axis: {x: 0.03 * x ** powers[axis] for x in places} for axis, places in scaling.AXES.items()}, powers


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.97, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    assert scaling.exponent({x: 7.0 * x**power for x in (1, 3, 10, 200)}) == pytest.approx(power, abs=1e-9)


def test_the_exponent_is_that_of_all_points_not_of_the_ends():
    times = {1: 1.0, 2: 8.0, 4: 4.0}
    x, y = np.log2(list(times)), np.log2(list(times.values()))
    assert scaling.exponent(times) == pytest.approx(np.cov(x, y)[0, 1] / np.var(x, ddof=1))
    assert scaling.exponent({1: 1.0, 2: 8.0, 16: 16.0}) != pytest.approx(1.0, abs=0.01)


def test_growth_is_held_against_proportion_from_the_first_point():
    cases = scaling.cases({"shots": {5: 0.2, 10: 0.3, 50: 0.5}})
    assert list(cases) == ["shots, 5", "shots, 10", "shots, 50"]
    assert [case["x"] for case in cases.values()] == [5, 10, 50]
    np.testing.assert_allclose([case["reference"] for case in cases.values()], [0.2, 0.4, 2.0])
    np.testing.assert_allclose([case["ratio"] for case in cases.values()], [1.0, 4 / 3, 4.0])


def test_devices_are_held_against_sharing_the_time_of_one():
    cases = scaling.cases({"devices": {1: 0.8, 2: 0.5, 4: 0.4}})
    np.testing.assert_allclose([case["reference"] for case in cases.values()], [0.8, 0.4, 0.2])
    np.testing.assert_allclose([case["ratio"] for case in cases.values()], [1.0, 0.8, 0.5])


def test_devices_are_an_axis_where_there_are_several():
    assert "devices" not in scaling.points(1)
    found = scaling.points(5)["devices"]
    assert {x: point.devices for x, point in found.items()} == {1: 1, 2: 2, 4: 4}
    assert len({point._replace(devices=1) for point in found.values()}) == 1
    assert {
        point.devices for axis, places in scaling.points(5).items() if axis != "devices" for point in places.values()
    } == {1}


def test_the_plot_has_a_panel_for_each_axis_with_its_power_and_straight_power_laws():
    seconds, powers = power_laws()
    root = ET.fromstring(scaling.plot(scaling.cases(seconds)))
    panels = root.findall(f"{SVG}g")
    slopes = {}
    for panel in panels:
        lines = [
            np.array([pair.split(",") for pair in line.attrib["points"].split()], float)
            for line in panel.findall(f"{SVG}polyline")
        ]
        (measured, proportional) = (np.diff(line[:, 1]) / np.diff(line[:, 0]) for line in lines)
        np.testing.assert_allclose(measured, measured[0], atol=2e-3)
        label = next(text.text for text in panel.iter(f"{SVG}text") if ": power" in (text.text or ""))
        slopes[label] = measured[0] / proportional[0]
    assert list(slopes) == [f"{axis}: power {power:.2f}" for axis, power in powers.items()]
    # Proportion is a slope of 1, over devices of -1.
    np.testing.assert_allclose(list(slopes.values()), [abs(power) for power in powers.values()], atol=0.02)
    labels = {text.text for text in root.iter(f"{SVG}text")}
    assert {str(x) for places in scaling.AXES.values() for x in places} <= labels


def test_a_table_counts_every_model_of_the_reference_and_the_median_round_of_ours():
    own = [{"train_s": t, "score_s": 2.0, "metrics_s": 1.0, "compile_s": c} for t, c in ((9, 30.0), (5, 0), (6, 0))]
    few = {"train_s": 1.0, "score_s": 0.5, "metrics_s": 0.1}
    many = {**few, "train_s": 4.0}
    slow = {**many, "train_s": 100.0}
    cases = table.cases(own, {"eager": {5: [few, few], 10: [many, slow, many]}}, models=30)
    assert cases["train, eager"] == {"ours": 6, "reference": 150.0, "ratio": 25.0}
    assert cases["metrics, eager"]["reference"] == pytest.approx(6.0)
    altogether = cases["altogether, eager"]
    assert altogether["ours"] == 9.0
    assert altogether["reference"] == pytest.approx(150 + 30 + 6)
    assert (altogether["models"], altogether["compile_s"]) == (60, 30.0)


def test_the_command_writes_numbers_with_the_machine_and_the_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(benchmark.SUITES, "scaling", lambda repeats: scaling.cases(power_laws()[0]))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(suite=["scaling"], output_dir=str(tmp_path)), pytest.raises(SystemExit):
        benchmark.main([])
    assert ET.parse(tmp_path / "scaling.svg").getroot().tag == f"{SVG}svg"
    found = json.loads((tmp_path / "benchmark.json").read_text("utf-8"))
    assert found["suites"]["scaling"]["tokens, 64"]["x"] == 64
    machine = found["machine"]
    assert machine["cores"] > 0
    assert machine["cpu"]
    assert machine["command"].startswith("python -m experiments.benchmark")
    assert {"jax", "device", "numpy"} <= machine["versions"].keys()
    capsys.readouterr()
    with flagsaver.flagsaver(markdown=str(tmp_path / "benchmark.json")), pytest.raises(SystemExit):
        benchmark.main([])
    printed = capsys.readouterr().out
    assert f"{machine['cores']} cores" in printed
    assert "| shots, 200 | 0.03 | 6 | 200 | 200 |" in printed


@pytest.mark.parametrize("content", [None, "{", "[]", '{"results": 1}'])
def test_a_file_of_tables_that_is_not_there_or_another_is_a_sentence(tmp_path, content):
    path = tmp_path / "found.json"
    if content is not None:
        path.write_text(content)
    with flagsaver.flagsaver(markdown=str(path)), pytest.raises(SystemExit, match="cannot be read"):
        benchmark.main([])


def test_a_suite_without_its_flag_is_refused():
    with pytest.raises(SystemExit, match="'encoder' is no flag"):
        benchmark.main(["benchmark", "encoder"])


def test_tables_leave_out_what_a_case_lacks():
    facts = {"versions": {"device": "cpu", "jax": "1"}, "cpu": "x", "cores": 2, "date": "d", "command": "c"}
    suites = {"s": {"a": {"ours": 0.01234, "peak": 1234.5}, "b": {"ours": 2.0, "ratio": 3.0}}}
    lines = benchmark.markdown({"machine": facts, "suites": suites}).splitlines()
    assert lines[-4:] == [
        "| s | ours | peak | ratio |",
        "|---|---|---|---|",
        "| a | 0.0123 | 1234 |  |",
        "| b | 2 |  | 3 |",
    ]


def test_a_loaded_server_loses_nothing_and_scores_as_the_command_does(monkeypatch):
    pytest.importorskip("fastapi")
    monkeypatch.setattr(serve, "_REQUESTS", 10)
    monkeypatch.setattr(serve, "CLIENTS", (1, 8))
    found = serve.measure(1, 40, ("--encoder=chroma", "--input_size=56", "--false_alarms=.2"))
    assert list(found) == ["1 clients", "8 clients"]
    for case in found.values():
        assert case["requests"] == 10
        assert case["lost"] == 0
        assert case["apart"] <= 1e-6
        assert 0 < case["p50_ms"] <= case["p99_ms"]
        assert case["memory_mb"] > 50
    assert "parts_per_s" in benchmark._row(found["8 clients"])
