"""Tables and figures of the paper: published numbers, rows and their studies, what the command writes and refuses."""

import csv
import dataclasses
import json
import pathlib
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from experiments import departures
from experiments.paper import displacement, figures, pictures, published, studies, tables
from experiments.paper.studies import ALL, Setting, Study, changed
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Files, Record, Splits
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.methods import METHODS
from pirn_jax.report import plots, sheet
from tests import commands

MEANS = {"image_auroc": 0.9, "pixel_auroc": 0.8, "aupro_30": 0.7}


def record(name, defect="good"):
    return Record("knob", "test", defect, name, Files(pathlib.Path(name), None))


def setting(tmp_path, train=60, **config):
    splits = {"knob": Splits([record("part")] * train, [], [])}
    given = {"dataset": "procedural", "preparation": Preparation(), "grid": 7}
    encoder = pretrained.load("chroma")
    return Setting("default", config, {}, encoder, 2, given, splits, tmp_path, lambda *of: None)


def done(study, categories=("knob",), value=0.0):
    """A finished study without any work."""
    results = {c: {name: [mean + value] * 2 for name, mean in MEANS.items()} for c in categories}
    means = {name: {"mean": mean + value, "std": 0.01} for name, mean in MEANS.items()}
    shots = str(study.shots)
    content = {"mean": {shots: means}, "results": {shots: results}, "settings": {"seeds": 2}}
    return studies.Done(None, None, content, [])  # pyright: ignore


def test_published_rows_are_those_of_the_catalogue():
    pirn = {(row.dataset, row.shots): row for row in METHODS["pirn"].published if row.source.endswith("Table 1")}
    for row in published.FEW_SHOT:
        for dataset, values in row.values.items():
            if row.method == "PIRN":
                told = pirn.pop((dataset, row.shots))
                assert values == (told.image_auroc, told.pixel_auroc, told.aupro_30)
    assert not pirn


def test_published_means_are_those_of_their_categories():
    for metric, rows in published.PER_CATEGORY.items():
        for name, values in rows.items():
            # These the paper prints otherwise.
            if (metric, name) not in {
                ("image_auroc", "BTF"),
                ("image_auroc", "Shape Guided"),
                ("aupro_30", "BTF"),
                ("aupro_30", "CFM"),
            }:
                assert np.mean(values[:-1]) == pytest.approx(values[-1], abs=0.0025), (metric, name)
    full = [rows[-1] for rows in (list(published.MODULES.values()), list(published.ASSIGNMENTS.values()))]
    few = next(row for row in published.FEW_SHOT if (row.shots, row.method) == ("10", "PIRN"))
    assert full == [few.values["mvtec3d"]] * 2


@pytest.mark.parametrize("number", [2, 3, 4, 9])
def test_rows_of_ablations_are_different_studies_that_can_be_run(number, tmp_path, monkeypatch):
    seen = []

    def run_all(asked, setting):
        seen.extend(asked)
        return {study: done(study) for study in asked}

    monkeypatch.setattr(tables, "run_all", run_all)
    given = setting(tmp_path)
    made = tables.make(number, [10], "procedural", given)
    assert len(set(seen)) == len(seen) == len(made.section.grids[0].rows)
    assert seen[-1] == Study(10)
    for study in seen:
        spec = studies.spec_of(study, given)
        assert all(getattr(spec.config, name) == value for name, value in study.changes)


def test_differences_are_told_where_the_parts_are_the_papers(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "run_all", lambda asked, _: {study: done(study) for study in asked})
    same, other = (tables.make(2, [10], dataset, setting(tmp_path)) for dataset in ("mvtec3d", "procedural"))
    row = same.section.grids[0].rows[-1]
    assert row == ["full PIRN", "0.922", "0.991", "0.966", *("0.900 ± 0.010", "0.800 ± 0.010", "0.700 ± 0.010")] + [
        "−0.022",
        "−0.191",
        "−0.266",
    ]
    assert [group for group, _ in same.section.grids[0].groups][-1] == "ours - paper"
    assert len(other.section.grids[0].rows[-1]) == 7
    assert any("not the same parts" in note for note in other.section.notes)
    numbers = [dict(zip(tables.CSV_HEADER, row, strict=True)) for row in same.numbers]
    assert numbers[-3]["difference"] == pytest.approx(-0.022)
    assert all(row[-1] is None for row in other.numbers)


def test_rows_that_cannot_be_run_say_so_and_the_others_stand(tmp_path, monkeypatch):
    found = {Study(10): done(Study(10))}
    monkeypatch.setattr(
        tables, "run_all", lambda asked, _: {s: found.get(s, f"encoder {s.encoder} is not there") for s in asked}
    )
    made = tables.make(10, [10], "procedural", setting(tmp_path))
    assert [row[-1] for row in made.section.grids[0].rows] == ["–"] * 3 + ["0.700 ± 0.010"]
    assert "DINOv1 ViT-B/8 was not run: encoder dino_vitb8 is not there" in made.section.notes


def test_categories_stand_beside_the_published_ones_of_the_same_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "run_all", lambda asked, _: {s: done(s, published.MVTEC_CATEGORIES) for s in asked})
    given = setting(tmp_path)
    splits = dict.fromkeys(published.MVTEC_CATEGORIES, given.splits["knob"])
    made = tables.make(5, [10], "mvtec3d", dataclasses.replace(given, splits=splits))
    grids = {grid.caption: grid for grid in made.section.grids}
    ours = grids["image AUROC, built-in parts (ours), 2 seeds".replace("built-in parts", "MVTec 3D-AD")]
    assert ours.header[1:] == [*published.MVTEC_CATEGORIES, "mean"]
    assert ours.rows[1][:2] == ["ours - paper", "−0.071"]
    assert grids["AUPRO@30%, MVTec 3D-AD (paper)"].rows[-1][-1] == "0.973"


def test_methods_of_table_1_are_asked_for_every_number_of_shots(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(tables, "run_all", lambda asked, _: seen.extend(asked) or {s: done(s) for s in asked})
    made = tables.make(1, [5, 10, 50], "eyecandies", setting(tmp_path))
    assert set(seen) == {Study(shots, name) for shots in (5, 10, 50, ALL) for name in tables.OURS.values()}
    rows = {row[0].strip(): row for row in made.section.grids[0].rows}
    assert rows["5 BTF"][7] == "–"
    assert rows["all PIRN"][1] == "0.963"
    assert rows["50 PIRN"][-3] == "−0.024"


@pytest.mark.parametrize(("preset", "expected"), [("default", {5, 60}), ("paper", {5, 60, ALL})])
def test_all_shots_are_few_shots_where_these_are_every_good_part(preset, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(tables, "run_all", lambda asked, _: seen.extend(asked) or {s: done(s) for s in asked})
    given = dataclasses.replace(setting(tmp_path, train=60), preset=preset)
    made = tables.make(1, [5, 60], "procedural", given)
    assert {study.shots for study in seen} == expected
    rows = {row[0].strip(): row for row in made.section.grids[0].rows}
    assert rows["all PIRN"][-1] == rows["10 PIRN"][-1] == "0.700 ± 0.010"
    assert ("each category has 60 good parts, so all shots are these" in made.section.notes) == (preset == "default")
    # The paper's preset has layers of its own for all shots; parts of another category may be more.
    more = {**given.splits, "gear": Splits([record("part")] * 61, [], [])}
    assert studies.all_shots([5, 60], dataclasses.replace(given, splits=more, preset="default")) == (ALL, [])


def test_ablations_take_the_papers_shots_and_no_difference_is_told_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "run_all", lambda asked, _: {s: done(s) for s in asked})
    given = setting(tmp_path)
    made, few = (tables.make(2, shots, "mvtec3d", given) for shots in ([5, 10, 50], [5]))
    assert made.section.title.endswith("10 shots")
    assert few.section.title.endswith("5 shots")
    assert made.section.grids[0].rows[-1][-1] == "−0.266"
    assert few.section.grids[0].rows[-1][-3:] == ["–"] * 3
    numbers = [dict(zip(tables.CSV_HEADER, row, strict=True)) for row in few.numbers]
    assert {(row["shots"], row["difference"]) for row in numbers} == {(5, None)}
    table = tables.make(1, [10, 2], "eyecandies", given)
    rows = {row[0].strip(): row for row in table.section.grids[0].rows}
    assert [rows[f"{shots} PIRN"][-3] for shots in ("5", "10", "50", "all")] == ["–", "−0.012", "–", "−0.048"]
    assert "in the rows of 5 stand ours of 2 shots" in table.section.notes


def test_studies_have_folders_of_their_own_and_changes_of_both_parts(tmp_path):
    names = [
        study.name for study in (Study(5), Study(10), Study(10, "cfm"), changed(10, apr=False), changed(10, epochs=3))
    ]
    assert len(set(names)) == len(names)
    spec = studies.spec_of(changed(10, epochs=3, epsilon=0.2), setting(tmp_path, score="cosine"))
    assert (spec.recipe.epochs, spec.config.epsilon, spec.config.score) == (3, 0.2, "cosine")


def test_too_few_parts_and_missing_encoders_are_told(tmp_path):
    given = setting(tmp_path, train=20)
    found = studies.run_all([Study(50), Study(10, encoder="dino_vitb8")], given)
    assert found[Study(50)] == "knob has 20 good parts, fewer than 50"
    assert "encoder dino_vitb8 is not there yet" in str(found[Study(10, encoder="dino_vitb8")])


def test_samples_that_are_not_there_are_refused_with_some_that_are():
    splits = {"gear": Splits([], [], [record("test/good/000"), record("test/wear/001", "wear")])}
    assert figures.find(["gear/test/wear/001"], splits) == [pictures.Chosen("gear", 1)]
    with pytest.raises(InputError, match=r"--samples=gear/9: no test sample; there are 2 such as gear/test/good/000"):
        figures.find(["gear/9"], splits)


def traced(count=4):
    """Two good samples and two defective ones of nine patches; the last two prototypes get no patch."""
    rng = np.random.default_rng(0)
    before = rng.normal(size=(count, 2, 9, 5))
    plan = np.zeros((count, 2, 9, 3))
    plan[..., 0] = 1.0
    plan[:, :, 0] = [0.0, 1.0, 0.0]
    good = np.arange(count) < 2
    shown = np.ones((count, 9), bool)
    records = [record(str(i), "good" if good[i] else "wear") for i in range(count)]
    prototypes = rng.normal(size=(count, 1, 2, 3, 5))
    normal = shown & good[:, None]
    return displacement.Traced(records, before, before, prototypes, plan, shown, normal, shown & ~normal)


def test_figure_1_has_ours_beside_published_points_and_counts_prototypes_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "run_all", lambda asked, _: {study: done(study) for study in asked})
    monkeypatch.setattr(figures, "follow", lambda *of: traced())
    monkeypatch.setattr(displacement, "embed", lambda rows: rows[:, :2])
    made = figures.make(1, [5, 10, 50], "procedural", [], setting(tmp_path))
    left, right = made.grids
    rows = {row[0]: row[1:] for row in left.rows}
    assert rows["PIRN (paper, Eyecandies)"][-1] == "0.948"
    assert rows["PIRN (ours, built-in parts)"] == ["0.900"] * 4
    assert [row[0] for row in right.rows] == ["softmax", "transport (BPA)"]
    # One of nine patches has the second prototype, none the third: exp(-(8/9 ln 8/9 + 1/9 ln 1/9)).
    assert right.rows[0][1:] == ["2 of 3", f"{np.exp(-(8 / 9 * np.log(8 / 9) + 1 / 9 * np.log(1 / 9))):.1f}", "89%"]
    assert any("not the same parts" in note for note in made.notes)
    for plot in made.plots:
        assert (tmp_path / f"{plot.stem}.svg").stat().st_size > 3000
        assert (tmp_path / f"{plot.stem}.pdf").read_bytes().startswith(b"%PDF")


def test_moves_are_those_of_the_kinds_and_samples(tmp_path):
    rng = np.random.default_rng(0)
    before = rng.normal(size=(4, 2, 9, 5))
    step = np.zeros((4, 2, 9, 5))
    step[2:, 1, 0] = 3.0
    shown, good = np.ones((4, 9), bool), np.array([True, True, False, False])[:, None]

    marked = np.zeros((4, 9), bool)
    marked[2:, 0] = True
    traced = displacement.Traced(
        [record(str(i), "wear" if i > 1 else "good") for i in range(4)],
        before,
        before + step,
        rng.normal(size=(4, 2, 2, 3, 5)),
        np.ones((4, 2, 9, 3)) / 27,
        shown,
        shown & good,
        marked,
    )
    assert traced.lengths[2, 1, 0] == pytest.approx(3 * 5**0.5)
    found = displacement.moves(traced, 1, "gear, normals", [])
    assert [len(of) for of in found.before] == [18, 2]
    assert [len(of) for of in displacement.moves(traced, 1, "", [0, 2]).before] == [9, 1]
    np.testing.assert_allclose(found.lengths.anomalous, 3 * 5**0.5 / 9)
    plots.moves(tmp_path / "figure", [found, found])
    assert "gear, normals" in (tmp_path / "figure.svg").read_text()
    assert (tmp_path / "figure.pdf").read_bytes().startswith(b"%PDF")


def test_graphics_are_whole_and_the_same_again(tmp_path):
    series = [
        plots.Series("PIRN (paper)", [0.8, None, 0.9], [None] * 3, True),
        plots.Series("PIRN (ours)", [0.7, 0.8, 0.8], [0.1, None, 0.0], False),
    ]
    for name in "ab":
        plots.lines(tmp_path / name, ["5", "10", "all"], series, "image AUROC", "good parts")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    texts = [of.text for of in ET.parse(tmp_path / "a.svg").iter("{http://www.w3.org/2000/svg}text")]
    assert {"PIRN (paper)", "PIRN (ours)", "all", "image AUROC"} <= set(texts)


def test_text_of_a_section_is_aligned():
    grid = sheet.Grid("caption", ["", "A", "B"], [["row", "1.0", "2.0"], ["longer", "–", "3.0"]], [("both of them", 2)])
    text = sheet.text(sheet.Section("table-2", "Title", [grid], notes=["a note"]))
    assert text.splitlines()[3:7] == [
        "        both of them",
        "          A        B",
        "─" * 20,
        "row     1.0      2.0",
    ]
    assert text.endswith("Note: a note.")


def test_the_page_has_all_sections_tables_first(tmp_path):
    (tmp_path / "figure-1.svg").write_text("<svg/>")
    plot = sheet.Plot("figure-1", "points <b>")
    for name in ("figure-1", "table-10", "table-2"):
        sheet.save(tmp_path, sheet.Section(name, f"Heading of {name}", plots=[plot] if "figure" in name else []))
    page = sheet.write_page(tmp_path, "PIRN", {"seeds": "3"}).read_text()
    places = [page.index(f"Heading of {name}") for name in ("table-2", "table-10", "figure-1")]
    assert places == sorted(places)
    assert "data:image/svg+xml;base64,PHN2Zy8+" in page
    assert "points &lt;b&gt;" in page
    (tmp_path / "figure-1.svg").unlink()
    with pytest.raises(InputError, match=r"figure-1\.svg: cannot be read"):
        sheet.write_page(tmp_path, "PIRN", {})


def test_departures_stand_in_the_documentation():
    text = (commands.ROOT / "docs" / "fidelity.md").read_text("utf-8")
    assert not [of.name for of in departures.DEPARTURES if f"| {of.name} |" not in text]
    for departure in departures.DEPARTURES:
        preset = METHODS["pirn"].presets["default"]
        known = {**dataclasses.asdict(preset.config), **dataclasses.asdict(preset.recipe)}
        assert all(known[name] != value for name, value in departure.changes.items())


def test_tables_and_figures_from_command_to_page(tmp_path):
    flags = ("--debug", "--table=4", "--figure=4,6", "--categories=gear", f"--output_dir={tmp_path / 'out'}")
    done = commands.run("experiments.paper", *flags, PIRN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "Table 4: contexts of APR, 4 shots" in done.stdout
    with (tmp_path / "out" / "table-4.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    results = json.loads((tmp_path / "out" / "pirn-4shots-1seeds" / "results.json").read_text())
    assert float(rows[-3]["ours"]) == pytest.approx(results["mean"]["4"]["image_auroc"]["mean"])
    for name in ("figure-4", "figure-6"):
        assert (tmp_path / "out" / f"{name}.svg").stat().st_size > 3000
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    page = (tmp_path / "out" / "paper.html").read_text()
    assert page.count("data:image/svg+xml") == 2
    assert "anomalous larger by" in page


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--table=7", "--table=7: the paper's tables that can be made are 1, 2, 3, 4, 5, 6, 9, 10, 11"),
        ("--figure=2", "--figure=2: the paper's figures that can be made are 1, 3, 4, 5, 6, 7, 8"),
        ("--seeds=1", "give --table or --figure, one number or several separated by commas"),
    ],
)
def test_what_cannot_be_made_is_refused(flag, told, tmp_path):
    found = commands.run("experiments.paper", flag, f"--output_dir={tmp_path / 'out'}")
    assert found.returncode == 1
    assert told in found.stderr
    assert not (tmp_path / "out").exists()
