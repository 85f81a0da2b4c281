"""Grids of hyperparameters: names and order of cells, table and page of finished ones."""

import csv
import json

import pytest

from pirn_jax.data.problems import InputError
from pirn_jax.report import sweep
from pirn_jax.study import grid
from tests import reports

PARAMETERS = {"num_prototypes": (6, 10), "mnc": (True, False), "epsilon": (0.02, 0.05)}


def finish(directory, name, image_auroc, std=0.01):
    results = reports.results()
    for means in results["mean"].values():
        means["image_auroc"] = {"mean": image_auroc, "std": std}
    (directory / name).mkdir(parents=True)
    (directory / name / "results.json").write_text(json.dumps(results))


@pytest.fixture
def directory(tmp_path):
    """A grid of eight cells, two of them finished."""
    grid.write_plan(tmp_path, PARAMETERS)
    finish(tmp_path, "num_prototypes=6,mnc=True,epsilon=0.02", 0.625)
    finish(tmp_path, "num_prototypes=10,mnc=False,epsilon=0.05", 0.75, 0.03)
    return tmp_path


def test_cells_are_all_combinations_and_the_last_changes_fastest():
    names = list(grid.cells(PARAMETERS))
    assert len(names) == 8
    assert names[:2] == ["num_prototypes=6,mnc=True,epsilon=0.02", "num_prototypes=6,mnc=True,epsilon=0.05"]
    assert grid.cells({}) == {"": {}}


def test_rows_are_those_of_finished_cells_with_the_fewest_shots_first(directory):
    found = sweep.rows(grid.read(directory))
    assert [(row.shots, row.values) for row in found] == [
        ("2", (6, True, 0.02)),
        ("2", (10, False, 0.05)),
        ("10", (6, True, 0.02)),
        ("10", (10, False, 0.05)),
    ]
    assert found[1].scores["image_auroc"] == (0.75, 0.03)
    assert found[1].scores["aupro_30"] == (None, None)


def test_the_summary_says_how_far_cells_are_apart_and_which_is_highest(directory):
    told = sweep.summary(grid.read(directory))
    assert told[0] == "2 of 8 settings are finished."
    assert told[3] == (
        "10 shots: image AUROC from 0.625 to 0.750, the highest with num_prototypes 10, mnc false, epsilon 0.05."
    )
    assert told[4] == "Seeds of one setting deviate by 0.020 (median of the settings)."


def test_the_table_holds_a_line_for_each_row(directory):
    lines = sweep.format_table(grid.read(directory)).splitlines()
    assert lines[0].split()[:4] == ["shots", "num_prototypes", "mnc", "epsilon"]
    assert lines[3].split()[:5] == ["2", "10", "false", "0.05", "0.750"]


def test_the_csv_holds_the_same_numbers(directory):
    sweep.write(directory)
    rows = list(csv.DictReader((directory / "sweep.csv").read_text().splitlines()))
    assert [row["epsilon"] for row in rows] == ["0.02", "0.05"] * 2
    assert [float(row["image_auroc_mean"]) for row in rows] == [0.625, 0.75] * 2
    assert {row["aupro_30_mean"] for row in rows} == {""}


def test_the_page_colours_what_is_finished_and_links_to_it(directory):
    text = sweep.write(directory).read_text()
    assert text.count('href="num_prototypes%3D') == 2
    assert text.count("(not finished)") == 6
    # The lowest mean is dark with white ink, the highest bright with black ink; two shots, one metric that differs.
    assert text.count('color:#fff">0.625\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.010') == 2
    assert text.count('color:#000">0.750\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.030') == 2


def test_a_grid_of_which_nothing_is_finished_has_a_page(tmp_path):
    grid.write_plan(tmp_path, {"epsilon": (0.02, 0.05)})
    assert "0 of 2 settings are finished." in sweep.write(tmp_path).read_text()


def test_a_directory_of_another_grid_is_refused(directory):
    grid.write_plan(directory, PARAMETERS)
    with pytest.raises(InputError, match=r"sweep over other values; choose another --output_dir"):
        grid.write_plan(directory, {"epsilon": (0.02, 0.05)})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2, "parameters": {}}'])
def test_a_damaged_plan_is_refused(tmp_path, text):
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep\.json"):
        grid.read(tmp_path)
