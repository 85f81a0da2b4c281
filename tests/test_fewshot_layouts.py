"""The command on small data sets in every layout that it reads, written as their authors lay them out."""

import json
import pathlib
import subprocess

import pytest

from tests import commands, layouts
from tests.test_folder import write_category

TINY = ("--method=patchcore", "--encoder=random", "--input_size=28", "--shots=1", "--seeds=1", "--save_maps=none")


def run(cache: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    return commands.run("experiments.fewshot", *TINY, *flags, PIRN_CACHE=str(cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


CASES = {
    "eyecandies": (layouts.eyecandies, ("--dataset=eyecandies", "--light=1"), "Lollipop", "defined"),
    "eyecandies, own normals": (
        layouts.eyecandies,
        ("--dataset=eyecandies", "--normals=native"),
        "Lollipop",
        "defined",
    ),
    "realiad_d3": (layouts.realiad_d3, ("--dataset=realiad_d3", "--xyz_unit=mm"), "fuse_holder", "defined"),
    "realiad_d3, pseudo-3D": (
        layouts.realiad_d3_archive,
        ("--dataset=realiad_d3", "--normals=native"),
        "fuse_holder",
        "defined",
    ),
    "folder": (lambda root: write_category(root / "my part"), ("--dataset=folder", "--xyz_unit=mm"), "my part", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_study_runs_on_every_layout(case, cache, tmp_path):
    write, flags, category, pixel_metrics = CASES[case]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data")
    done = run(cache, *flags, f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    (values,) = results["results"]["1"].values()
    assert list(results["results"]["1"]) == [category]
    assert 0 <= values["image_auroc"][0] <= 1
    # The folder has a defect without masks: which of its pixels are defective nobody knows.
    assert (values["pixel_auroc"][0] is None) == (pixel_metrics is None)
    if pixel_metrics is None:
        assert any("no mask" in note for note in results["notes"])
        assert "no mask" in (tmp_path / "out" / "report.html").read_text()


def test_a_unit_is_refused_where_it_is_known(cache, tmp_path):
    flags = ("--dataset=eyecandies", "--xyz_unit=mm", f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    done = commands.run("experiments.fewshot", *flags)
    assert done.returncode == 1
    assert "--xyz_unit: the unit of eyecandies is known; leave it out" in done.stderr


def test_everything_that_is_wrong_is_told_in_one_run(cache, tmp_path):
    folder = layouts.eyecandies(tmp_path / "data")
    (folder / "train" / "data" / "000_depth.png").write_bytes(b"")
    (folder / "test_public" / "data" / "01_image_4.png").unlink()
    (folder / "test_public" / "data" / "02_mask.png").write_bytes(b"nothing")
    flags = ("--dataset=eyecandies", f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}")
    done = run(cache, *flags)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "3 problems:" in done.stderr
    for name in ("000_depth.png", "01_image_4.png", "02_mask.png"):
        assert name in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_found_only_in_the_files_is_told_in_one_run_as_well(cache, tmp_path):
    folder = layouts.realiad_d3(tmp_path / "data")
    damaged = [folder / "train/GOOD/xyz/0001_XYZ.tiff", folder / "test/scratch/gt/rgb/0002_GT.png"]
    for path in damaged:
        assert path.exists()
        path.write_bytes(b"nothing")
    flags = ("--dataset=realiad_d3", "--shots=2", f"--data_dir={tmp_path / 'data'}", f"--output_dir={tmp_path / 'out'}")
    done = run(cache, *flags)
    assert done.returncode == 1
    assert "error: 2 problems:" in done.stderr
    assert all(f"{path}: not a readable" in done.stderr for path in damaged)
