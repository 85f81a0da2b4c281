"""Folders as people have them: strays are passed over, gaps are named, and no part is lost without a word."""

import os
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data import mvtec3d, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems

FILES = (("rgb", ".png"), ("xyz", ".tiff"), ("gt", ".png"))


def write_part(folder: pathlib.Path, name: str, gt: np.ndarray | None = None, size=(4, 6), suffixes=FILES) -> None:
    """Writes `rgb`, `xyz` and, if given, `gt` of one part under a folder such as train/good."""
    rgb, xyz = np.full((*size, 3), 90, np.uint8), np.ones((*size, 3), np.float32)
    for (kind, suffix), array in zip(suffixes, (rgb, xyz, gt), strict=True):
        path = folder / kind / f"{name}{suffix}"
        if array is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "xyz":
            tifffile.imwrite(path, array, photometric="rgb")
        else:
            PIL.Image.fromarray(array).save(path)


def write_category(root: pathlib.Path, category: str = "bolt", defect: str = "dent") -> pathlib.Path:
    """Two train parts, one validation part, a good and two defective test parts of 4x6 pixels."""
    folder = root / category
    marked = np.zeros((4, 6), np.uint8)
    marked[1, 2] = 255
    for name in ("001", "000"):
        write_part(folder / "train" / "good", name)
        write_part(folder / "test" / defect, name, marked)
    write_part(folder / "validation" / "good", "000")
    write_part(folder / "test" / "good", "000", np.zeros((4, 6), np.uint8))
    return folder


def assert_refused(root: pathlib.Path, named: pathlib.Path, *fragments: str, categories=()) -> None:
    with pytest.raises(InputError) as error:
        mvtec3d.read(root, categories)
    (message,) = [line for line in str(error.value).splitlines() if line.strip().startswith(f"{named}: ")]
    assert "; " in message, "no remedy"
    for fragment in fragments:
        assert fragment in message


def ids(records: list[sample.Record]) -> list[str]:
    return [record.id for record in records]


def test_all_parts_are_found(tmp_path):
    write_category(tmp_path, "bolt")
    write_category(tmp_path, "anvil", "scratch")
    found = mvtec3d.read(tmp_path)
    assert list(found) == ["anvil", "bolt"]
    bolt = found["bolt"]
    assert ids(bolt.train) == ["train/good/000", "train/good/001"]
    assert ids(bolt.validation) == ["validation/good/000"]
    assert ids(bolt.test) == ["test/dent/000", "test/dent/001", "test/good/000"]
    assert [record.defective for record in bolt.test] == [True, True, False]
    assert {record.category for record in bolt.test} == {"bolt"}
    part = sample.load(bolt.test[0])
    assert part.rgb.shape == part.xyz.shape == (4, 6, 3)
    np.testing.assert_array_equal(np.argwhere(part.gt), [[1, 2]])


def test_only_the_named_categories_are_read_in_the_order_of_the_names(tmp_path):
    for category in ("a", "b", "c"):
        write_category(tmp_path, category)
    (tmp_path / "a" / "test" / "dent" / "gt" / "000.png").unlink()
    assert list(mvtec3d.read(tmp_path, ["c", "b"])) == ["c", "b"]


def test_stray_files_and_hidden_folders_are_passed_over(tmp_path):
    folder = write_category(tmp_path)
    expected = mvtec3d.read(tmp_path)
    (tmp_path / "README.md").write_text("Our parts.")
    (tmp_path / "docs").mkdir()
    for place in [tmp_path, folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", "._000.tiff", "notes.txt"):
            (place / name).write_bytes(b"stray")
    shutil.copytree(folder, tmp_path / ".trash")
    shutil.copytree(folder / "test" / "dent", folder / "test" / ".dent")
    assert mvtec3d.read(tmp_path) == expected


def test_names_with_spaces_dots_and_other_scripts(tmp_path):
    folder = write_category(tmp_path, "Zahnrad größer", "Kratzer 歯車")
    write_part(folder / "train" / "good", "Teil 7.b é")
    splits = mvtec3d.read(tmp_path, ["Zahnrad größer"])["Zahnrad größer"]
    assert ids(splits.train)[-1] == "train/good/Teil 7.b é"
    assert splits.test[0].id == "test/Kratzer 歯車/000"
    assert sample.load(splits.train[-1]).rgb.shape == (4, 6, 3)


def test_ids_are_sorted_where_one_defect_begins_with_the_name_of_another(tmp_path):
    folder = write_category(tmp_path)
    for defect in ("dent-big", "dent 2"):
        shutil.copytree(folder / "test" / "dent", folder / "test" / defect)
    test = ids(mvtec3d.read(tmp_path)["bolt"].test)
    assert len(test) == 7
    assert test == sorted(test)


@pytest.mark.parametrize("capitals", [("rgb", "xyz", "gt"), ("xyz",), ("gt",)])
def test_suffixes_in_capitals_are_accepted(tmp_path, capitals):
    folder = write_category(tmp_path)
    suffixes = [(kind, suffix.upper() if kind in capitals else suffix) for kind, suffix in FILES]
    marked = np.full((4, 6), 255, np.uint8)
    write_part(folder / "test" / "dent", "002", marked, suffixes=suffixes)
    test = mvtec3d.read(tmp_path)["bolt"].test
    assert ids(test)[2] == "test/dent/002"
    assert sample.load(test[2]).gt.all()


def test_two_files_of_one_name_are_refused(tmp_path):
    folder = write_category(tmp_path)
    rgb = folder / "train" / "good" / "rgb"
    shutil.copy(rgb / "000.png", rgb / "000.PNG")
    if len(list(rgb.iterdir())) == 2:
        pytest.skip("a file system that takes capitals for small letters")
    assert_refused(tmp_path, rgb / "000.png", "000.PNG", "remove one")


def test_a_missing_root_is_refused(tmp_path):
    assert_refused(tmp_path / "none", tmp_path / "none", "no such folder", "--data_dir")


def test_a_root_without_categories_is_refused(tmp_path):
    (tmp_path / "docs").mkdir()
    assert_refused(tmp_path, tmp_path, "no category")
    folder = write_category(tmp_path)
    assert_refused(folder, folder, "no category")


def test_an_unknown_category_is_refused_with_those_there_are(tmp_path):
    write_category(tmp_path, "bolt")
    write_category(tmp_path, "anvil")
    assert_refused(tmp_path, tmp_path, "screw, tyre", "anvil, bolt", categories=["tyre", "bolt", "screw"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_refused(tmp_path, split):
    folder = write_category(tmp_path)
    shutil.rmtree(folder / split)
    assert_refused(tmp_path, folder / ("test" if split == "test" else "train/good"))


def test_validation_may_be_missing(tmp_path):
    folder = write_category(tmp_path)
    shutil.rmtree(folder / "validation")
    assert mvtec3d.read(tmp_path)["bolt"].validation == []


def test_empty_folders_are_refused(tmp_path):
    folder = write_category(tmp_path)
    for kind in ("rgb", "xyz"):
        for path in (folder / "train" / "good" / kind).iterdir():
            path.unlink()
    assert_refused(tmp_path, folder / "train" / "good", "no part", "<name>.tiff under xyz/")


def test_a_test_folder_without_folders_is_refused(tmp_path):
    folder = write_category(tmp_path)
    shutil.rmtree(folder / "test")
    (folder / "test").mkdir()
    assert_refused(tmp_path, folder / "test", "test/<defect>")


def test_a_defect_whose_files_have_other_suffixes_is_refused(tmp_path):
    folder = write_category(tmp_path)
    write_part(folder / "test" / "rust", "000", suffixes=(("rgb", ".jpg"), ("xyz", ".tif"), ("gt", ".png")))
    assert_refused(tmp_path, folder / "test" / "rust", "no part in it", "<name>.png under rgb/")


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("train/good/rgb/001.png", "train/good/xyz/001.tiff"),
        ("train/good/xyz/000.tiff", "train/good/rgb/000.png"),
        ("validation/good/xyz/000.tiff", "validation/good/rgb/000.png"),
        ("test/dent/xyz/001.tiff", "test/dent/rgb/001.png"),
        ("test/dent/gt/001.png", "test/dent/rgb/001.png"),
        ("test/good/rgb/000.png", "test/good/xyz/000.tiff"),
    ],
)
def test_a_file_without_its_partner_is_refused(tmp_path, gone, named):
    folder = write_category(tmp_path)
    (folder / gone).unlink()
    assert_refused(tmp_path, folder / named, str(folder / gone), "add it or remove this file")


def test_a_mask_without_its_part_is_refused(tmp_path):
    folder = write_category(tmp_path)
    shutil.copy(folder / "test/dent/gt/000.png", folder / "test/dent/gt/009.png")
    assert_refused(tmp_path, folder / "test/dent/gt/009.png", str(folder / "test/dent/rgb/009.png"))


def test_all_that_is_wrong_is_told_at_once_and_whole_parts_are_found(tmp_path):
    folder = write_category(tmp_path)
    write_category(tmp_path, "nut")
    shutil.rmtree(folder / "test" / "dent" / "gt")
    (tmp_path / "nut" / "train" / "good" / "xyz" / "000.tiff").unlink()
    named = [
        folder / "test/dent/rgb/000.png",
        folder / "test/dent/rgb/001.png",
        tmp_path / "nut/train/good/rgb/000.png",
    ]
    with pytest.raises(InputError, match="^3 problems:") as error:
        mvtec3d.read(tmp_path)
    for path in named:
        assert f"{path}: no partner" in str(error.value)
    problems = Problems()
    found = mvtec3d.read(tmp_path, problems=problems)
    assert [sentence.split(": ")[0] for sentence in problems.found] == list(map(str, named))
    assert ids(found["bolt"].test) == ["test/good/000"]
    assert ids(found["nut"].train) == ["train/good/001"]


def test_long_lists_of_problems_are_cut(tmp_path):
    folder = write_category(tmp_path)
    for i in range(30):
        shutil.copy(folder / "train/good/rgb/000.png", folder / f"train/good/rgb/lone{i:02}.png")
    with pytest.raises(InputError, match="^30 problems:") as error:
        mvtec3d.read(tmp_path)
    assert "lone19.png" in str(error.value)
    assert "lone20.png" not in str(error.value)
    assert "and 10 more; python -m tools.check_dataset lists all" in str(error.value)


def test_the_unit_of_the_clouds_can_be_told(tmp_path):
    write_category(tmp_path)
    record = mvtec3d.read(tmp_path, options=Options(unit=0.001))["bolt"].train[0]
    np.testing.assert_array_equal(sample.load(record).xyz, np.full((4, 6, 3), 0.001, np.float32))


def test_published_counts_add_up_to_those_of_the_paper():
    totals = [sum(counts[split] for counts in mvtec3d.PUBLISHED.values()) for split in mvtec3d.PUBLISHED["bagel"]]
    assert totals == [2656, 294, 249, 948]


def test_a_folder_that_cannot_be_read_and_a_link_to_itself_are_named(tmp_path, monkeypatch):
    folder = write_category(tmp_path)
    (folder / "test" / "loop").symlink_to(folder / "test" / "loop")
    (folder / "train" / "good" / "rgb" / "loop.png").symlink_to("loop.png")
    assert_refused(tmp_path, folder / "train" / "good" / "rgb" / "loop.png", "no partner")
    (folder / "train" / "good" / "rgb" / "loop.png").unlink()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    assert_refused(tmp_path, tmp_path, "cannot be read (Permission denied)")


def test_good_parts_need_no_mask(tmp_path):
    folder = write_category(tmp_path)
    shutil.rmtree(folder / "test" / "good" / "gt")
    good = mvtec3d.read(tmp_path)["bolt"].test[-1]
    assert good.source.gt is None
    assert not sample.load(good).gt.any()


def assert_load_refused(record: sample.Record, named: pathlib.Path | None, *fragments: str) -> None:
    with pytest.raises(InputError) as error:
        sample.load(record)
    message = str(error.value)
    assert message.startswith(f"{named}: ")
    assert "; " in message, "no remedy"
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("size", [(6, 4), (4, 5), (8, 12)])
def test_files_of_unequal_sizes_are_refused(tmp_path, size):
    folder = write_category(tmp_path)
    scan, mask = mvtec3d.read(tmp_path)["bolt"].test[:2]
    tifffile.imwrite(scan.source.scan.path, np.ones((*size, 3), np.float32), photometric="rgb")
    assert_load_refused(
        scan, scan.source.scan.path, f"{size[1]}x{size[0]} pixels", "6x4", str(scan.source.rgb), "one size"
    )
    PIL.Image.fromarray(np.full(size, 255, np.uint8)).save(folder / "test/dent/gt/001.png")
    assert_load_refused(mask, mask.source.gt, f"{size[1]}x{size[0]} pixels", "6x4", str(mask.source.rgb), "one size")


def test_an_empty_mask_of_a_defect_is_refused(tmp_path):
    folder = write_category(tmp_path)
    PIL.Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "test/dent/gt/000.png")
    record = mvtec3d.read(tmp_path)["bolt"].test[0]
    assert_load_refused(record, record.source.gt, "'dent'", "draw the defect")


def test_a_marked_mask_of_a_good_part_is_refused(tmp_path):
    folder = write_category(tmp_path)
    PIL.Image.fromarray(np.full((4, 6), 1, np.uint8)).save(folder / "test/good/gt/000.png")
    record = mvtec3d.read(tmp_path)["bolt"].test[-1]
    assert_load_refused(record, record.source.gt, "'good'", "move the part")


def test_parts_of_one_category_may_differ_in_size_and_shape(tmp_path):
    folder = write_category(tmp_path)
    write_part(folder / "train" / "good", "002", size=(9, 3))
    parts = [sample.load(record) for record in mvtec3d.read(tmp_path)["bolt"].train]
    assert [part.xyz.shape for part in parts] == [(4, 6, 3), (4, 6, 3), (9, 3, 3)]
    assert [part.gt.shape for part in parts] == [(4, 6), (4, 6), (9, 3)]


def test_a_category_that_cannot_be_read_and_a_pipe_are_named_and_the_rest_is_found(tmp_path, monkeypatch):
    write_category(tmp_path)
    locked = tmp_path / "locked"
    locked.mkdir()
    pipe = tmp_path / "bolt" / "train" / "good" / "rgb" / "000.png"
    pipe.unlink()
    os.mkfifo(pipe)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked and access(path, mode))
    problems = Problems()
    found = mvtec3d.read(tmp_path, problems=problems)
    assert list(found) == ["bolt"]
    assert ids(found["bolt"].train) == ["train/good/001"]
    assert problems.found[0] == f"{locked}: cannot be read; check the folder and its permissions"
    assert problems.found[1].startswith(f"{pipe}: a pipe")


def test_a_defect_that_cannot_be_listed_does_not_hide_the_others(tmp_path, monkeypatch):
    folder = write_category(tmp_path)
    listing = pathlib.Path.iterdir

    def refuse(path):
        if path == folder / "test" / "dent" / "rgb":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    problems = Problems()
    found = mvtec3d.read(tmp_path, problems=problems)
    assert ids(found["bolt"].test) == ["test/good/000"]
    assert problems.found == [
        f"{folder / 'test/dent/rgb'}: cannot be read (Permission denied); check the folder and its permissions"
    ]
