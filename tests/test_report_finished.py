"""A page is made again from the directory of its run alone, and directories that are no finished run are told apart."""

import json

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import report
from pirn_jax.data.problems import InputError
from pirn_jax.report import finished, gallery, page, pictures
from pirn_jax.study import storage
from tests import commands, reports


@pytest.fixture
def directory(tmp_path):
    """A finished run with a gallery and two groups of 2 shots."""
    path, results = tmp_path / "run", reports.results()
    for number, runs in enumerate((2, 1)):
        losses = np.full((runs, 3), float(number))
        storage.save_group(
            path,
            f"2-{number:03d}",
            results["settings"],
            {"w": np.zeros(1)},
            {"train_loss": losses, "distances": losses},
            {},
        )
    pictures.save(path / finished.GALLERY, [reports.gallery()])
    storage.write_json(path / "results.json", results)
    return path


def test_galleries_come_back_as_they_were(tmp_path):
    before = reports.gallery()
    pictures.save(tmp_path / "gallery.npz", [before, before])
    first, second = pictures.load(tmp_path / "gallery.npz")
    for after in (first, second):
        assert (after.shots, after.category, after.seed, after.scale) == ("2", reports.HOSTILE, 1, (0.25, 0.875))
        np.testing.assert_array_equal(after.good_scores, before.good_scores)
        np.testing.assert_array_equal(after.defect_scores, before.defect_scores)
        for found, expected in zip(after.pictures, before.pictures, strict=True):
            for name in ("kind", "sample_id", "defect", "score", "geometry_name"):
                assert getattr(found, name) == getattr(expected, name)
            np.testing.assert_array_equal(found.rgb, expected.rgb)
            np.testing.assert_array_equal(found.geometry, expected.geometry)
            np.testing.assert_array_equal(found.gt, expected.gt)
            np.testing.assert_allclose(found.fused, expected.fused, atol=1e-3)
            assert list(found.maps) == list(expected.maps)
            for name, values in expected.maps.items():
                np.testing.assert_allclose(found.maps[name], values, atol=1e-3)
    assert first.pictures[2].gt is None


def test_page_made_again_equals_the_page_of_the_run(tmp_path, directory):
    histories = {"2": {"loss": np.array([[0.0] * 3, [0.0] * 3, [1.0] * 3])}}
    galleries = pictures.load(directory / finished.GALLERY)
    page.write_page(tmp_path / "expected.html", reports.results(), galleries, histories)
    assert finished.write_page(directory) == directory / "report.html"
    assert (directory / "report.html").read_text("utf-8") == (tmp_path / "expected.html").read_text("utf-8")


def test_histories_leave_out_groups_of_other_studies(directory):
    archive_of_other = {"train_loss": np.full((1, 3), 9.0)}
    (directory / "settings.json").unlink()
    storage.save_group(directory, "10-000", {"other": 1}, {"w": np.zeros(1)}, archive_of_other, {})
    assert list(finished.read(directory).histories) == ["2"]


def test_a_run_without_kept_pictures_still_has_a_page(directory):
    (directory / finished.GALLERY).unlink()
    finished.write_page(directory)
    text = (directory / "report.html").read_text("utf-8")
    assert "0.811" in text
    assert "<dialog" not in text


def without(directory, name):
    (directory / name).unlink()


def with_schema(directory, schema):
    (directory / "results.json").write_text(json.dumps(reports.results() | {"schema": schema}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: without(run, "results.json"), r"run: unfinished; run the command"),
        (lambda run: [without(run, name) for name in ("results.json", "settings.json")], r"run: no run, .*output_dir"),
        (lambda run: with_schema(run, 2), r"results.json: has schema 2, not 1; use the version"),
        (lambda run: (run / "results.json").write_text("[1]"), r"results.json: has schema None, not 1"),
        (lambda run: (run / "results.json").write_text("{"), r"results.json: cannot be read"),
        (lambda run: (run / "results.json").write_text('{"schema": 1, "mean": {}}'), r"results.json: lacks dataset"),
        (lambda run: (run / "gallery.npz").write_bytes(b"PK broken"), r"gallery.npz: missing or damaged"),
        (lambda run: np.savez(run / "gallery.npz", facts=np.array("[{}]")), r"gallery.npz: missing or damaged"),
    ],
)
def test_what_is_no_finished_run_is_told_in_a_sentence(directory, change, message):
    change(directory)
    with pytest.raises(InputError, match=message) as caught:
        finished.read(directory)
    assert "\n" not in str(caught.value)


def build(*arguments: str) -> None:
    """Runs the command, which ends the process."""
    with pytest.raises(SystemExit) as end:
        report.main(["report", *arguments])
    assert end.value.code is None


def test_command_writes_a_page_of_one_run_and_a_comparison_of_several(tmp_path, directory, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags.FLAGS.mark_as_parsed()
    other = tmp_path / "other"
    other.mkdir()
    storage.write_json(other / "results.json", reports.results())
    build("run")
    assert (directory / "report.html").exists()
    build("run", "other")
    assert capsys.readouterr().out.splitlines() == ["run/report.html", "compare.html"]
    with flagsaver.flagsaver(page="one.html"):
        build("run")
        assert (tmp_path / "one.html").read_bytes() == (directory / "report.html").read_bytes()
    for arguments, message in ([], "no run given"), (["run", "run"], "a run is given twice"):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            report.main(["report", *arguments])


def test_command_ends_with_one_sentence_and_status_1(tmp_path):
    done = commands.run("experiments.report", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {tmp_path}: no run, it holds no results.json; give an --output_dir of experiments.fewshot\n"
    )


def test_a_page_of_ten_categories_stays_under_15_megabytes(tmp_path):
    rng, side = np.random.default_rng(0), gallery._SIDE
    noise = rng.integers(0, 255, (side // 4, side // 4, 3), np.uint8)
    photo = np.asarray(noise.repeat(4, 0).repeat(4, 1))  # harder to compress than photos of parts are
    smooth = np.sin(np.linspace(0, 9, side))[:, None] * np.cos(np.linspace(0, 9, side))
    maps = {"RGB map": smooth, "Normals map": smooth}
    shown = [
        page.Picture(kind, "a", "dent", 1.0, photo, "Normals", photo, maps, 2 * smooth, smooth > 0.9)
        for kind in page.KINDS
    ] * 2
    one = page.Gallery("2", "a", 0, shown, np.ones(3), np.ones(3), (-1.0, 1.0))
    page.write_page(tmp_path / "report.html", reports.results(), [one])
    assert 0.2e6 < (tmp_path / "report.html").stat().st_size < 1.5e6
