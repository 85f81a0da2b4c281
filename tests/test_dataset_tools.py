"""The commands that walk a whole data set: what they print, that one bad file stops nothing, and that they continue."""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data import mvtec3d
from pirn_jax.data.problems import InputError, Problems
from tests.test_mvtec3d import write_category, write_part
from tools import check_dataset, workers

ROOT = pathlib.Path(__file__).parents[1]
SIZE = (24, 32)


def run(tool: str, cache: pathlib.Path, *flags: str) -> tuple[int, str, str]:
    """Status, output and errors of a command."""
    done = subprocess.run(
        [sys.executable, "-m", f"tools.{tool}", *flags],
        cwd=ROOT,
        env={**os.environ, "PIRN_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def write_scan(folder: pathlib.Path, name: str, unit: float = 1.0) -> None:
    """A part that faces the camera half a metre away, its upper third unseen; no two have one colour."""
    write_part(folder, name, size=SIZE)
    colour = sum(f"{folder}/{name}".encode()) % 256
    PIL.Image.fromarray(np.full((*SIZE, 3), colour, np.uint8)).save(folder / "rgb" / f"{name}.png")
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] * 1e-3
    xyz = np.stack([x, y, np.full_like(x, 0.5)], axis=-1).astype(np.float32) * unit
    xyz[: SIZE[0] // 3] = 0
    tifffile.imwrite(folder / "xyz" / f"{name}.tiff", xyz.astype(np.float32), photometric="rgb")


@pytest.fixture
def data(tmp_path) -> pathlib.Path:
    """Category "bolt" with three good parts, one of them in millimetres, a test part, and four bad files."""
    root = tmp_path / "my data"
    folder = root / "bolt"
    for name in ("a", "b"):
        write_scan(folder / "train" / "good", name)
    write_scan(folder / "train" / "good", "mm", unit=1000.0)
    write_scan(folder / "test" / "good", "a")
    for name in ("cut", "empty", "lone"):
        write_scan(folder / "train" / "good", name)
    cut = folder / "train" / "good" / "xyz" / "cut.tiff"
    cut.write_bytes(cut.read_bytes()[:2000])
    (folder / "train" / "good" / "rgb" / "empty.png").write_bytes(b"")
    (folder / "train" / "good" / "xyz" / "lone.tiff").unlink()
    return root


BAD = ("cut.tiff: not a readable TIFF", "empty.png: not a readable image", "lone.png: no partner")


def test_the_check_prints_a_table_and_every_bad_file(data, tmp_path):
    status, output, errors = run("check_dataset", tmp_path, "--dataset=mvtec3d", f"--data_dir={data}", "--workers=2")
    assert status == 1, errors
    table = [line.split() for line in output.splitlines()[:3]]
    assert table[1] == ["bolt", "train", "5", "-", "3", "32x24", "32x24", "67%", "(67%-67%)"]
    assert table[2][:5] == ["bolt", "test", "good", "1", "-"]
    problems = [line for line in output.splitlines() if line.startswith("problem: ")]
    assert len(problems) == 3
    for text in BAD:
        assert sum(text in line for line in problems) == 1
    (note,) = [line for line in output.splitlines() if line.startswith("note: ")]
    assert "bolt/train/good/mm: its points lie about 500 m away" in note
    assert "--xyz_unit" in note
    assert "Traceback" not in errors


def test_counts_stand_beside_the_published_ones(tmp_path):
    write_category(tmp_path, "bagel")
    splits = mvtec3d.read(tmp_path)["bagel"]
    records = [*splits.train, *splits.validation, *splits.test]
    facts = [check_dataset.examine(record) for record in records[:-1]]
    table = check_dataset.rows(records, [*facts, None], mvtec3d.PUBLISHED)
    assert [row[1:5] for row in table] == [
        ("train", "2", "244", "2"),
        ("validation", "1", "22", "1"),
        ("test good", "1", "22", "0"),
        ("test defective", "2", "88", "2"),
    ]
    assert {row[5] for row in table} == {"6x4", "-"}
    only_train = check_dataset.rows(splits.train, facts[:2], mvtec3d.PUBLISHED)
    assert [row[2] for row in only_train] == ["2", "0", "0", "0"]


def test_other_counts_than_the_published_ones_and_missing_categories_are_told(tmp_path):
    write_category(tmp_path / "data", "bagel")
    flags = ("--dataset=mvtec3d", f"--data_dir={tmp_path / 'data'}", "--workers=1")
    status, output, errors = run("check_dataset", tmp_path, *flags)
    assert status == 1, errors
    assert "not there: cable_gland, carrot" in output
    assert output.splitlines()[-1] == "parts: 6, problems: 0, counts that differ from the published ones: 4"


def test_sizes_are_counted_and_the_rest_is_summed_up():
    assert check_dataset._sizes([(4, 3), (6, 5), (6, 5), (8, 8), (9, 9)]) == "6x5, 4x3, 2 more"
    assert check_dataset._sizes([]) == "-"


def test_normals_are_prepared_where_studies_find_them_and_bad_files_stop_nothing(data, tmp_path):
    flags = ("--dataset=mvtec3d", f"--data_dir={data}", "--foreground=none", "--workers=2")
    cache, pngs = tmp_path / "cache", tmp_path / "png"
    status, output, errors = run("prepare_normals", cache, *flags, f"--png_dir={pngs}")
    assert status == 1, errors
    for text in BAD:
        assert text in output
    prepared = sorted(cache.rglob("*.npz"))
    assert len(prepared) == 4
    shown = np.asarray(PIL.Image.open(pngs / "bolt" / "train" / "good" / "a.png"))
    assert shown.shape == (*SIZE, 3)
    assert not shown[: SIZE[0] // 3].any()
    np.testing.assert_array_equal(shown[12:, :], np.broadcast_to([128, 128, 255], (12, 32, 3)))

    # Again: nothing is made anew but what is missing or shows something else, and notes are told again.
    written = {path: path.stat().st_mtime_ns for path in prepared}
    foreign = pngs / "bolt" / "train" / "good" / "b.png"
    PIL.Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(foreign)
    prepared[0].unlink()
    status, again, errors = run("prepare_normals", cache, *flags, f"--png_dir={pngs}")
    assert status == 1, errors
    assert again == output
    assert "about 500 m away" in output
    assert sorted(cache.rglob("*.npz")) == prepared
    assert np.asarray(PIL.Image.open(foreign)).any()
    assert sum(path.stat().st_mtime_ns != written[path] for path in prepared) in (1, 2)


def fails_for_b(record) -> str:
    if record.id.endswith("001"):
        raise InputError("b is bad")
    return record.id


def dies(record) -> None:
    os._exit(9)


@pytest.mark.parametrize("count", [1, 2])
def test_workers_keep_the_order_and_note_failures(tmp_path, count):
    write_category(tmp_path)
    splits = mvtec3d.read(tmp_path)["bolt"]
    problems = Problems()
    found = workers.over_parts(fails_for_b, splits.test, count, "testing", problems)
    assert found == ["test/dent/000", None, "test/good/000"]
    assert problems.found == ["b is bad"]


def test_a_worker_that_dies_is_told(tmp_path):
    write_category(tmp_path)
    with pytest.raises(InputError, match="--workers=2: a process died"):
        workers.over_parts(dies, mvtec3d.read(tmp_path)["bolt"].train, 2, "dying", Problems())


def sleeps(record) -> None:
    pathlib.Path(record.source.name).with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(60)


def over_sleepers(folder: str) -> None:
    workers.over_parts(sleeps, mvtec3d.read(pathlib.Path(folder))["bolt"].train, 2, "sleeping", Problems())


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    write_category(tmp_path)
    command = "import sys; from tests import test_dataset_tools; test_dataset_tools.over_sleepers(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", command, str(tmp_path)], env=environment, cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(pids := list(tmp_path.rglob("*.pid"))) < 2 or not all(path.read_text() for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(os.path.exists(f"/proc/{path.read_text()}") for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_native_normals_that_are_not_there_are_missed(tmp_path):
    write_category(tmp_path)
    (record, *_) = mvtec3d.read(tmp_path)["bolt"].train
    assert check_dataset.examine(record).size == (6, 4)
    with pytest.raises(InputError, match="--normals=exact"):
        check_dataset.examine(record, native_normals=True)
