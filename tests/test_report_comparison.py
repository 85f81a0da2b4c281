"""Comparisons of runs: differences, their noise, and when two runs may be paired."""

import copy
import math
import re

import numpy as np
import pytest

from pirn_jax.data.problems import InputError
from pirn_jax.report import comparison
from tests import reports


def test_paired_difference_by_hand():
    # Differences .1, .2, .3: mean .2, standard error .1 / sqrt(3); Student's 97.5 % point at 2 degrees is 4.303.
    found = comparison.difference(np.array([0.5, 0.1, 0.3]), np.array([0.6, 0.3, 0.6]), paired=True)
    assert found.mean == pytest.approx(0.2)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.verdict == "within noise"  # .2 < 4.303 * .0577 = .248
    assert comparison.difference(np.zeros(3), np.array([0.2, 0.25, 0.3]), paired=True).verdict == "higher"
    assert comparison.difference(np.array([0.2, 0.25, 0.3]), np.zeros(3), paired=True).verdict == "lower"


def test_unpaired_difference_by_hand():
    # Variances .01 and .04 over three seeds each: error sqrt(.05 / 3) and, by Welch, 2 * .05^2 / (.01^2 + .04^2)
    # = 2.94 degrees of freedom, whose 97.5 % point is 3.22: noise reaches .416.
    first = np.array([0.0, 0.1, 0.2])
    for shift, verdict in ((0.40, "within noise"), (0.43, "higher")):
        found = comparison.difference(first, np.array([-0.1, 0.1, 0.3]) + shift, paired=False)
        assert (found.mean, found.error) == (pytest.approx(shift), pytest.approx(math.sqrt(0.05 / 3)))
        assert found.verdict == verdict


def test_pairing_finds_what_the_spread_of_seeds_hides():
    first = np.array([0.2, 0.5, 0.8, 0.4])
    second = first + [0.01, 0.011, 0.012, 0.011]
    assert comparison.difference(first, second, paired=True).verdict == "higher"
    assert comparison.difference(first, second, paired=False).verdict == "within noise"


def test_one_seed_has_no_noise_and_equal_runs_no_difference():
    one = comparison.difference(np.array([0.1]), np.array([0.9]), paired=True)
    assert (one.error, one.verdict) == (None, "noise unknown")
    for paired in (True, False):
        assert comparison.difference(np.full(3, 0.1), np.full(3, 0.1), paired).verdict == "within noise"
        assert comparison.difference(np.full(3, 0.1), np.full(3, 0.2), paired).verdict == "higher"


def test_equal_methods_are_called_different_one_time_in_twenty():
    rng = np.random.default_rng(0)
    for paired in (True, False):
        verdicts = [comparison.difference(*rng.normal(0.9, 0.02, (2, 5)), paired).verdict for _ in range(2000)]
        assert 0.03 < sum(verdict != "within noise" for verdict in verdicts) / 2000 < 0.07


@pytest.fixture
def runs():
    """Two runs that differ in the learning rate and, in one category at 2 shots, by 0.1 at every seed."""
    first, second = reports.results(), copy.deepcopy(reports.results())
    second["settings"]["learning_rate"] = 0.002
    bracket = second["results"]["2"]["bracket"]
    bracket["image_auroc"] = [value + 0.1 for value in bracket["image_auroc"]]
    return {"first": first, "<b>second": second}


def rows(path):
    """Text of the cells of all rows of body."""
    text = path.read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)]
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in cells]


def test_page_shows_differences_beside_both_means(tmp_path, runs):
    comparison.write_page(tmp_path / "compare.html", runs)
    found = rows(tmp_path / "compare.html")
    assert ["bracket", "0.800 ± 0.082", "0.900 ± 0.082", "+0.100 ± 0.000", "higher (paired)"] in found
    # The mean over both categories rises by .05 at every seed.
    assert any(row[0] == "Mean" and row[3:] == ["+0.050 ± 0.000", "higher (paired)"] for row in found)
    assert sum(row[-1] == "undefined" for row in found) == 4  # two metrics of the unmasked category at two shots
    assert sum(row[-1].startswith("higher") for row in found) == 2
    assert ["learning_rate", "0.001", "0.002"] in found
    assert not any(row[0] in ("data_dir", "jax") for row in found)


def test_runs_with_other_episodes_are_not_paired(tmp_path, runs):
    runs["<b>second"]["episodes"]["2"] = {
        category: [["train/good/000"]] * 3 for category in runs["<b>second"]["episodes"]["2"]
    }
    comparison.write_page(tmp_path / "compare.html", runs)
    verdicts = [row[-1] for row in rows(tmp_path / "compare.html") if row[-1].endswith("paired)")]
    assert verdicts.count("within noise (paired)") == 7
    assert sum(verdict.endswith("(not paired)") for verdict in verdicts) == 7


def test_only_what_runs_have_in_common_is_compared(tmp_path, runs):
    del runs["<b>second"]["results"]["2"]["bracket"]
    del runs["<b>second"]["results"]["10"]
    comparison.write_page(tmp_path / "compare.html", runs)
    assert {row[0] for row in rows(tmp_path / "compare.html")} & {"bracket", "Mean"} == set()
    del runs["<b>second"]["results"]["2"]
    with pytest.raises(InputError, match="<b>second: has no category and shots in common with first; compare"):
        comparison.write_page(tmp_path / "compare.html", runs)


def test_comparison_stands_alone_and_shows_hostile_names_literally(tmp_path, runs):
    comparison.write_page(tmp_path / "compare.html", {**runs, "third": runs["first"]})
    text = (tmp_path / "compare.html").read_text("utf-8")
    assert not re.search(r"https?:|<script|<link|src=|<b>", text)
    assert text.count("&lt;b&gt;second") > 3
    assert text.count('<section aria-labelledby="run-') == 2
