"""Folders of one's own parts: every layout that is offered gives the parts in it, and every slip is told in words."""

import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data import folder, folders, sample, settings
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems

SIZE = (4, 6)
CAMERA = "[depth]\nscale = 0.001\nfx = 100.0\nfy = 200\n"


def write_scan(place: pathlib.Path, kind: str, name: str) -> None:
    """Writes points at z = 500 in the file's unit; the first one was not seen."""
    xyz = np.full((*SIZE, 3), 500, np.float32)
    xyz[0, 0] = np.nan
    (place / kind).mkdir(parents=True, exist_ok=True)
    if kind == "xyz":
        tifffile.imwrite(place / kind / f"{name}.tiff", xyz, photometric="rgb")
    elif kind == "depth":
        PIL.Image.fromarray(np.nan_to_num(xyz[..., 2]).astype(np.uint16)).save(place / kind / f"{name}.png")
    else:
        header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 24\nHEIGHT 1\nDATA binary\n"
        (place / kind / f"{name}.pcd").write_bytes(header.encode() + xyz.tobytes())


def write_parts(place: pathlib.Path, count: int, kind: str = "xyz", masks: bool = False, suffix: str = "png") -> None:
    """Writes parts 000, 001, … into a folder such as good/."""
    for i in range(count):
        (place / "rgb").mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((*SIZE, 3), 90, np.uint8)).save(place / "rgb" / f"{i:03}.{suffix}")
        write_scan(place, kind, f"{i:03}")
        if masks:
            (place / "gt").mkdir(exist_ok=True)
            marked = np.zeros(SIZE, np.uint8)
            marked[1, 2] = 255
            PIL.Image.fromarray(marked).save(place / "gt" / f"{i:03}.png")


def write_category(home: pathlib.Path, kind: str = "xyz") -> pathlib.Path:
    """Two good parts, one good part to test, two dents with masks and a scratch without."""
    write_parts(home / "good", 2, kind)
    write_parts(home / "good_test", 1, kind)
    write_parts(home / "dent", 2, kind, masks=True)
    write_parts(home / "scratch", 1, kind)
    return home


def ids(records: list[sample.Record]) -> list[str]:
    return [record.id for record in records]


def assert_refused(root: pathlib.Path, named: pathlib.Path, *fragments: str, **arguments) -> None:
    with pytest.raises(InputError) as error:
        folder.read(root, **arguments)
    message = str(error.value)
    assert message.startswith(f"{named}: ")
    assert "; " in message, "no remedy"
    for fragment in fragments:
        assert fragment in message


def test_one_category_is_named_after_its_folder(tmp_path, monkeypatch):
    home = write_category(tmp_path / "bolt")
    found = folder.read(home)
    assert list(found) == ["bolt"]
    bolt = found["bolt"]
    assert ids(bolt.train) == ["train/good/000", "train/good/001"]
    assert bolt.validation == []
    assert ids(bolt.test) == ["test/dent/000", "test/dent/001", "test/good/000", "test/scratch/000"]
    assert [record.defective for record in bolt.test] == [True, True, False, True]
    assert {record.split for record in bolt.train} == {"train"}
    assert {record.split for record in bolt.test} == {"test"}
    assert {record.category for record in bolt.train + bolt.test} == {"bolt"}
    assert folder.read(home, ["bolt"]) == found
    monkeypatch.chdir(home)
    assert folder.read(pathlib.Path(".")) == found


def test_several_categories_are_folders_of_a_folder(tmp_path):
    write_category(tmp_path / "bolt")
    write_category(tmp_path / "anvil")
    (tmp_path / "docs").mkdir()
    found = folder.read(tmp_path)
    assert list(found) == ["anvil", "bolt"]
    assert found["bolt"].train[0].category == "bolt"
    assert list(folder.read(tmp_path, ["bolt"])) == ["bolt"]


def test_masks_are_read_where_there_are_some(tmp_path):
    test = folder.read(write_category(tmp_path / "bolt"))["bolt"].test
    dent = sample.load(test[0])
    np.testing.assert_array_equal(np.argwhere(dent.gt), [[1, 2]])
    assert test[3].defect == "scratch"
    assert test[3].source.mask() is None


@pytest.mark.parametrize(("good", "trained", "tested"), [(2, 1, 1), (9, 8, 1), (10, 8, 2), (23, 19, 4)])
def test_the_last_fifth_of_the_good_parts_is_tested_where_none_are_set_apart(tmp_path, good, trained, tested):
    write_parts(tmp_path / "bolt" / "good", good)
    splits = folder.read(tmp_path / "bolt")["bolt"]
    assert ids(splits.train) == [f"train/good/{i:03}" for i in range(trained)]
    assert ids(splits.test) == [f"test/good/{i:03}" for i in range(trained, trained + tested)]
    assert {(record.split, record.defective) for record in splits.test} == {("test", False)}
    write_parts(tmp_path / "bolt" / "dent", 1)
    assert ids(folder.read(tmp_path / "bolt")["bolt"].test)[1:] == ids(splits.test)
    write_parts(tmp_path / "bolt" / "good_test", 1)
    assert len(folder.read(tmp_path / "bolt")["bolt"].train) == good


def test_a_single_good_part_is_refused_unless_others_are_there_to_test(tmp_path):
    home = tmp_path / "bolt"
    write_parts(home / "good", 1)
    assert_refused(home, home / "good", "add good parts")
    write_parts(home / "good_test", 1)
    assert len(folder.read(home)["bolt"].train) == 1


@pytest.mark.parametrize("kind", ["xyz", "depth", "cloud"])
def test_each_kind_of_scan_becomes_points_in_metres_with_holes(tmp_path, kind):
    home = write_category(tmp_path / "bolt", kind)
    (home / "dataset.toml").write_text(CAMERA + "[xyz]\nunit = 0.001\n")
    part = sample.load(folder.read(home)["bolt"].train[0])
    assert part.rgb.shape == part.xyz.shape == (*SIZE, 3)
    np.testing.assert_array_equal(part.xyz[0, 0], 0)
    np.testing.assert_allclose(part.xyz[3, 5, 2], 0.5, rtol=1e-6)
    # Half a row or column from the centre is 0.5 m * 0.5 / fx.
    expected = (0.0025, 0.00125, 0.5) if kind == "depth" else (0.5, 0.5, 0.5)
    np.testing.assert_allclose(part.xyz[2, 3], expected, rtol=1e-6)


def test_the_principal_point_may_be_told(tmp_path):
    home = write_category(tmp_path / "bolt", "depth")
    (home / "dataset.toml").write_text(CAMERA + "cx = 3\ncy = 0.0\n")
    part = sample.load(folder.read(home)["bolt"].train[0])
    np.testing.assert_allclose(part.xyz[2, 3], (0, 0.005, 0.5), rtol=1e-6)


def test_the_unit_of_the_options_counts_before_that_of_the_file(tmp_path):
    home = write_category(tmp_path / "bolt")

    def depth(**options) -> float:
        return sample.load(folder.read(home, options=Options(**options))["bolt"].train[0]).xyz[3, 5, 2]

    assert depth() == 500
    (home / "dataset.toml").write_text("[xyz]\nunit = 0.001\n")
    assert depth() == pytest.approx(0.5)
    assert depth(unit=0.01) == pytest.approx(5)


def test_the_nearer_dataset_toml_counts(tmp_path):
    for category in ("anvil", "bolt"):
        write_category(tmp_path / category)
    (tmp_path / "dataset.toml").write_text("[xyz]\nunit = 0.1\n")
    (tmp_path / "bolt" / "dataset.toml").write_text("[xyz]\nunit = 0.01\n")
    units = {name: splits.train[0].source.scan.unit for name, splits in folder.read(tmp_path).items()}
    assert units == {"anvil": 0.1, "bolt": 0.01}


def test_jpeg_tif_and_capitals_are_accepted(tmp_path):
    home = tmp_path / "bolt"
    write_parts(home / "good", 2, suffix="JPG")
    write_parts(home / "good_test", 1, suffix="jpeg")
    scan = home / "good_test" / "xyz" / "000.tiff"
    scan.rename(scan.with_suffix(".tif"))
    splits = folder.read(home)["bolt"]
    for record in splits.train + splits.test:
        assert sample.load(record).xyz.shape == (*SIZE, 3)


def test_stray_files_and_hidden_folders_are_passed_over(tmp_path):
    home = write_category(tmp_path / "bolt")
    expected = folder.read(home)
    for place in [home, *(path for path in home.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "._000.png", "._000.tiff", "notes.txt"):
            (place / name).write_bytes(b"stray")
    shutil.copytree(home / "dent", home / ".dent")
    assert folder.read(home) == expected


def test_names_with_spaces_dots_and_other_scripts(tmp_path):
    home = write_category(tmp_path / "Zahnrad größer")
    (home / "dent").rename(home / "Kratzer 歯車 2.b")
    assert "test/Kratzer 歯車 2.b/001" in ids(folder.read(home)["Zahnrad größer"].test)


def test_a_folder_that_is_missing_or_holds_no_category_is_refused(tmp_path):
    assert_refused(tmp_path / "none", tmp_path / "none", "no such folder")
    (tmp_path / "docs").mkdir()
    assert_refused(tmp_path, tmp_path, "no category", "good/rgb")


def test_an_unknown_category_is_refused_with_those_there_are(tmp_path):
    home = write_category(tmp_path / "bolt")
    assert_refused(home, home, "no category screw", "bolt", categories=["screw", "bolt"])
    assert_refused(tmp_path, tmp_path, "no category screw", "bolt", categories=["screw", "bolt"])


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("good/rgb/001.png", "good/xyz/001.tiff"),
        ("good/xyz/000.tiff", "good/rgb/000.png"),
        ("good_test/xyz/000.tiff", "good_test/rgb/000.png"),
        ("dent/xyz/001.tiff", "dent/rgb/001.png"),
        ("dent/gt/001.png", "dent/rgb/001.png"),
    ],
)
def test_a_file_without_its_partner_is_refused(tmp_path, gone, named):
    home = write_category(tmp_path / "bolt")
    if gone == "good_test/xyz/000.tiff":
        write_parts(home / "good_test", 2)
    (home / gone).unlink()
    assert_refused(home, home / named, str(home / gone), "add it or remove this file")


def test_a_mask_without_its_part_is_refused(tmp_path):
    home = write_category(tmp_path / "bolt")
    shutil.copy(home / "dent/gt/000.png", home / "dent/gt/009.png")
    assert_refused(home, home / "dent/gt/009.png", str(home / "dent/rgb/009.png"))


@pytest.mark.parametrize("place", ["good", "good_test", "scratch"])
def test_a_folder_without_parts_or_with_two_kinds_of_scans_is_refused(tmp_path, place):
    home = write_category(tmp_path / "bolt")
    write_parts(home / "good_test", 2)
    (home / place / "cloud").mkdir()
    assert_refused(home, home / place, "xyz/ and cloud/ in it", "under one of xyz/, depth/, cloud/")
    shutil.rmtree(home / place / "cloud")
    shutil.rmtree(home / place / "xyz")
    assert_refused(home, home / place, "no scans in it", "under one of xyz/, depth/, cloud/")
    shutil.rmtree(home / place / "rgb")
    assert_refused(home, home / place, "no part in it", "<name>.png under rgb/")


def test_all_problems_are_told_in_one_run(tmp_path):
    home = write_category(tmp_path / "bolt")
    for gone in ("good/rgb/001.png", "dent/gt/000.png"):
        (home / gone).unlink()
    (home / "empty").mkdir()
    problems = Problems()
    found = folder.read(home, problems=problems)
    assert len(problems.found) == 3
    assert ids(found["bolt"].train) == ["train/good/000"]


def test_depth_without_a_camera_is_refused_with_the_lines_to_write(tmp_path):
    home = write_category(tmp_path / "bolt", "depth")
    assert_refused(home, home / "dataset.toml", "[depth]", "scale = 0.001", "fx = 900.0", "fy = 900.0")
    (home / "dataset.toml").write_text("[xyz]\nunit = 1\n")
    assert_refused(home, home / "dataset.toml", "[depth]")
    with pytest.raises(InputError) as error:
        folder.read(home)
    lines = str(error.value).split(":\n")[1]
    # The numbers are those of a larger image.
    (home / "dataset.toml").write_text(lines.replace("900", "9"))
    assert sample.load(folder.read(home)["bolt"].train[0]).xyz[3, 5, 2] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ("[depth\n", ("not TOML", "line 1")),
        ("[depht]\nscale = 1\n", ("unknown table 'depht'", "depth, xyz")),
        ("scale = 1\n", ("unknown table 'scale'", "depth, xyz")),
        ("depth = 0.001\n", ("depth = 0.001", "[depth]")),
        (CAMERA + "cz = 3\n", ("unknown key of [depth] 'cz'", "scale, fx, fy, cx, cy")),
        ("[xyz]\nscale = 1\n", ("unknown key of [xyz] 'scale'", "unit")),
        ("[depth]\n", ("[depth] has no scale", "scale = <number>")),
        ("[depth]\nscale = 0.001\nfy = 9\n", ("[depth] has no fx",)),
        ("[depth]\nscale = 0.001\nfx = 9\n", ("[depth] has no fy",)),
        (CAMERA.replace("0.001", "0"), ("[depth] scale = 0", "above zero")),
        (CAMERA.replace("100.0", "-1.5"), ("[depth] fx = -1.5", "above zero")),
        (CAMERA.replace("200", "nan"), ("[depth] fy = nan", "no number")),
        (CAMERA + 'cx = "320"\n', ("[depth] cx = '320'", "without quotes")),
        (CAMERA + "cy = inf\n", ("[depth] cy = inf", "no number")),
        (CAMERA + "cy = true\n", ("[depth] cy = True", "no number")),
        ("[xyz]\nunit = -0.001\n", ("[xyz] unit = -0.001", "above zero")),
        ("[xyz]\nunit = [1]\n", ("[xyz] unit = [1]", "no number")),
    ],
)
def test_an_unusable_dataset_toml_is_refused(tmp_path, content, fragments):
    home = write_category(tmp_path / "bolt")
    (home / "dataset.toml").write_text(content)
    assert_refused(home, home / "dataset.toml", *fragments)
    assert_refused(tmp_path, home / "dataset.toml", *fragments)


def test_a_dataset_toml_in_another_encoding_is_refused(tmp_path):
    home = write_category(tmp_path / "bolt")
    (home / "dataset.toml").write_bytes("# größe\n".encode("latin-1"))
    assert_refused(home, home / "dataset.toml", "not TOML")


def test_a_principal_point_outside_the_image_or_at_zero_is_taken_as_it_is(tmp_path):
    path = tmp_path / "dataset.toml"
    path.write_text(CAMERA + "cx = -20\ncy = 0\n")
    camera = settings.read(path).camera()
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (100.0, 200.0, -20.0, 0.0)


def test_a_dataset_toml_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    home = write_category(tmp_path / "bolt", "depth")
    (home / "dataset.toml").write_text(CAMERA, "utf-8-sig")
    assert sample.load(folder.read(home)["bolt"].train[0]).xyz[3, 5, 2] == pytest.approx(0.5)


def test_a_number_beyond_all_bounds_is_refused(tmp_path):
    home = write_category(tmp_path / "bolt", "depth")
    (home / "dataset.toml").write_text(CAMERA.replace("100.0", "1" + "0" * 400))
    assert_refused(home, home / "dataset.toml", "fx", "no number")


def test_a_link_to_a_pipe_is_told_and_a_link_to_nothing_is_left_to_its_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb" / "a.png").symlink_to(tmp_path / "pipe")
    (tmp_path / "rgb" / "b.png").symlink_to(tmp_path / "nothing")
    problems = Problems()
    assert list(folders.files(tmp_path / "rgb", ".png", problems=problems)) == ["b"]
    assert problems.found == [f"{tmp_path / 'rgb' / 'a.png'}: a pipe, which is never read to its end; remove it"]


def test_folders_that_cannot_be_read_are_told_where_no_other_is_a_category(tmp_path, monkeypatch):
    (tmp_path / "bolts").mkdir()
    monkeypatch.setattr(os, "access", lambda *of: False)
    with pytest.raises(InputError, match="bolts: cannot be read; check the folder and its permissions"):
        folders.read_categories(tmp_path, [], lambda _: False, "good/", lambda *_: None, None)


def test_masks_of_another_kind_are_missed(tmp_path):
    home = write_category(tmp_path / "bolt")
    for path in (home / "dent" / "gt").iterdir():
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(InputError, match="^2 problems") as error:
        folder.read(home)
    assert f"000.png: no partner {home / 'dent' / 'gt' / '000.png'}" in str(error.value)


def test_braces_in_a_name_are_braces(tmp_path):
    home = write_category(tmp_path / "bolt{}{0}")
    (home / "good" / "xyz" / "001.tiff").unlink()
    assert_refused(home, home / "good" / "rgb" / "001.png", f"no partner {home / 'good' / 'xyz' / '001.tiff'}")
