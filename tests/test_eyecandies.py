"""Eyecandies: parts are paired by their digits, metadata say what is good, depths become points as documented."""

import errno
import os
import pathlib
import shutil

import layouts
import numpy as np
import PIL.Image
import pytest

from pirn_jax.data import eyecandies, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems


def ids(records: list[sample.Record]) -> list[str]:
    return [record.id for record in records]


def gt_of(record: sample.Record) -> np.ndarray:
    gt = sample.load(record).gt
    assert gt is not None
    return gt


def noted(root: pathlib.Path, options: Options | None = None) -> tuple[list[str], sample.Splits]:
    problems = Problems()
    splits = eyecandies.read(root, options=options or Options(), problems=problems)["Lollipop"]
    assert all("; " in sentence for sentence in problems.found), "no remedy"
    return problems.found, splits


@pytest.fixture(name="train")
def train_data(tmp_path) -> pathlib.Path:
    return layouts.eyecandies(tmp_path) / "train" / "data"


def test_a_part_has_seventeen_files_as_in_the_data_set(train):
    assert len(list(train.iterdir())) == 2 * 17


def test_all_parts_are_found(tmp_path):
    layouts.eyecandies(tmp_path, "Lollipop")
    layouts.eyecandies(tmp_path, "CandyCane")
    found = eyecandies.read(tmp_path)
    assert list(found) == ["CandyCane", "Lollipop"]
    splits = found["Lollipop"]
    assert ids(splits.train) == ["train/000", "train/001"]
    assert ids(splits.validation) == ["val/00"]
    assert ids(splits.test) == ["test_public/00", "test_public/01", "test_public/02"]
    assert [record.defect for record in splits.test] == ["bumps", "good", "colors+normals"]
    assert {record.split for record in splits.validation} == {"validation"}
    assert {record.split for record in splits.test} == {"test"}
    assert {record.category for record in splits.test} == {"Lollipop"}


@pytest.mark.parametrize("size", [(4, 6), (9, 3)])
def test_points_follow_the_documented_camera(tmp_path, size):
    folder = layouts.eyecandies(tmp_path)
    values = np.random.default_rng(0).integers(0, 65536, size, dtype=np.uint16)
    values[0, 0], values[-1, -1] = 0, 65535
    layouts.eyecandies_part(folder / "train" / "data", "002", size=size, bounds=(0.84, 2.5), depth=values)
    part = sample.load(eyecandies.read(tmp_path)["Lollipop"].train[-1])
    assert part.xyz is not None
    expected = np.zeros((*size, 3))
    for row in range(size[0]):
        for column in range(size[1]):
            metres = float(values[row, column]) / 65535 * (2.5 - 0.84) + 0.84
            # The focal length is that of images 512 pixels wide.
            focal_length = 711.11 * size[1] / 512
            ray = np.array([(column - size[1] / 2) / focal_length, (row - size[0] / 2) / focal_length, 1.0])
            expected[row, column] = metres * ray
    np.testing.assert_allclose(part.xyz, expected, rtol=2e-6, atol=1e-8)
    assert part.xyz[0, 0, 2] == np.float32(0.84), "value zero is the nearest depth, not a hole"
    assert part.xyz[-1, -1, 2] == np.float32(2.5)


def test_masks_mark_the_defect(tmp_path):
    layouts.eyecandies(tmp_path)
    bumped, good, _ = eyecandies.read(tmp_path)["Lollipop"].test
    np.testing.assert_array_equal(np.argwhere(gt_of(bumped)), [[1, 2]])
    assert not gt_of(good).any()


@pytest.mark.parametrize("light", range(6))
def test_the_chosen_light_is_read(tmp_path, light):
    layouts.eyecandies(tmp_path)
    record = eyecandies.read(tmp_path, options=Options(light=light))["Lollipop"].train[0]
    np.testing.assert_array_equal(sample.load(record).rgb, np.full((4, 6, 3), 10 * light))


@pytest.mark.parametrize("light", [-1, 6])
def test_an_unknown_light_is_refused(tmp_path, light):
    layouts.eyecandies(tmp_path)
    with pytest.raises(InputError, match=f"light {light}; choose a light from 0 to 5"):
        eyecandies.read(tmp_path, options=Options(light=light))


def test_native_normals_look_at_the_camera_and_keep_the_scan(train, tmp_path):
    colours = np.full((4, 6, 3), (128, 128, 255), np.uint8)
    colours[0, 0] = (255, 128, 128)
    colours[0, 1] = (128, 255, 128)
    PIL.Image.fromarray(colours).save(train / "000_normals.png")
    part = sample.load(eyecandies.read(tmp_path, options=Options(native_normals=True))["Lollipop"].train[0])
    assert part.normals is not None
    assert part.xyz is not None
    np.testing.assert_allclose(part.normals[2, 2], [0, 0, -1], atol=0.006)
    np.testing.assert_allclose(part.normals[0, 0], [1, 0, 0], atol=0.006)
    np.testing.assert_allclose(part.normals[0, 1], [0, -1, 0], atol=0.006)
    assert sample.load(eyecandies.read(tmp_path)["Lollipop"].train[0]).normals is None


def test_stray_files_are_passed_over(train, tmp_path):
    expected = eyecandies.read(tmp_path)
    strays = (
        "Thumbs.db",
        "notes.txt",
        "000_copy.png",
        "000_image_4_copy.png",
        "000_image_4 (1).png",
        "._000_depth.png",
    )
    for name in (".DS_Store", "copy_000_depth.png", "x_mask.png", "000_obj_params.png", "000_depth.yaml", *strays):
        (train / name).write_bytes(b"stray")
    (tmp_path / "README.md").write_text("Sweets.")
    (tmp_path / "docs").mkdir()
    assert eyecandies.read(tmp_path) == expected


def test_parts_are_paired_by_their_digits_whatever_their_length(train, tmp_path):
    layouts.eyecandies_part(train, "00", size=(3, 5))
    layouts.eyecandies_part(train, "0001", size=(7, 5))
    records = eyecandies.read(tmp_path)["Lollipop"].train
    assert ids(records) == ["train/00", "train/000", "train/0001", "train/001"]
    assert [gt_of(record).shape for record in records] == [(3, 5), (4, 6), (7, 5), (4, 6)]


def test_names_with_spaces_and_other_scripts(tmp_path):
    layouts.eyecandies(tmp_path, "Bonbon größer 飴")
    assert gt_of(eyecandies.read(tmp_path, ["Bonbon größer 飴"])["Bonbon größer 飴"].test[0]).any()


def test_missing_files_are_named_and_the_other_parts_are_returned(train, tmp_path):
    for name in ("image_4.png", "info_depth.yaml"):
        (train / f"000_{name}").unlink()
    public = train.parents[1] / "test_public" / "data"
    (public / "00_mask.png").unlink()
    (public / "01_metadata.yaml").unlink()
    layouts.eyecandies_part(train, "007")
    for path in train.glob("007*"):
        if path.name != "007_depth.png":
            path.unlink()
    found, splits = noted(tmp_path)
    assert [sentence.split(";")[0] for sentence in sorted(found)] == [
        f"{public / '00'}_*: no 00_mask.png",
        f"{public / '01'}_*: no 01_metadata.yaml",
        f"{train / '000'}_*: no 000_image_4.png, 000_info_depth.yaml",
        f"{train / '007'}_*: no 007_image_4.png, 007_info_depth.yaml",
    ]
    assert ids(splits.train) == ["train/001"]
    assert ids(splits.test) == ["test_public/02"]
    with pytest.raises(InputError, match="^4 problems:"):
        eyecandies.read(tmp_path)


def test_normals_are_missed_only_where_they_are_asked_for(train, tmp_path):
    (train / "000_normals.png").unlink()
    assert noted(tmp_path)[0] == []
    found, splits = noted(tmp_path, Options(native_normals=True))
    assert found[0].startswith(f"{train / '000'}_*: no 000_normals.png; ")
    assert ids(splits.train) == ["train/001"]


def test_the_two_texts_may_end_in_yml_and_suffixes_may_be_in_capitals(train, tmp_path):
    (train / "000_info_depth.yaml").rename(train / "000_info_depth.YML")
    (train / "000_depth.png").rename(train / "000_depth.PNG")
    assert noted(tmp_path)[0] == []


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "a NoneType where"),
        ("- 1\n", "a list where"),
        ("normalization: {min: 1, max: 2", "not readable YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not readable YAML"),
        ("when: 2001-99-99", "not readable YAML"),
        ("[" * 5000, "not readable YAML"),
        ("\udcff", "not readable YAML"),
        ("depth: 1", "normalization is None"),
        ("normalization: 3", "normalization is 3"),
        ("normalization: {min: 1}", "normalization.max is None"),
        ("normalization: {min: near, max: 2}", "normalization.min is 'near'"),
        ("normalization: {min: true, max: 2}", "normalization.min is True"),
        ("normalization: {min: 1, max: .nan}", "normalization.max is nan"),
        ("normalization: {min: 1, max: .inf}", "normalization.max is inf"),
        ("normalization: {min: 2, max: 2}", "min is 2 and max 2"),
        ("normalization: {min: 3, max: 2}", "min is 3 and max 2"),
    ],
)
def test_a_text_that_holds_no_depths_is_named(train, tmp_path, text, fragment):
    path = train / "000_info_depth.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    (sentence,), splits = noted(tmp_path)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    assert fragment in sentence
    assert ids(splits.train) == ["train/001"]


@pytest.mark.parametrize(("text", "shown"), [("bumps: 1", "None"), ("anomalous: 2", "2"), ("anomalous: 'no'", "'no'")])
def test_metadata_that_say_nothing_are_named(train, tmp_path, text, shown):
    path = train.parents[1] / "test_public" / "data" / "00_metadata.yaml"
    path.write_text(text)
    (sentence,), splits = noted(tmp_path)
    assert sentence.startswith(f"{path}: anomalous is {shown}; write 0 ")
    assert ids(splits.test) == ["test_public/01", "test_public/02"]


@pytest.mark.parametrize("text", ["anomalous: true", "anomalous: 1"])
@pytest.mark.parametrize(
    ("kinds", "name"), [(("dents",), "dents"), (("normals", "bumps"), "bumps+normals"), ((), "anomalous")]
)
def test_masks_name_the_defect_where_the_metadata_do_not(train, tmp_path, text, kinds, name):
    public = train.parents[1] / "test_public" / "data"
    layouts.eyecandies_part(public, "00", kinds, told=False)
    (public / "00_metadata.yaml").write_text(text)
    layouts.save(public / "00_mask.png", layouts.marked((4, 6)))
    assert eyecandies.read(tmp_path)["Lollipop"].test[0].defect == name


def test_masks_of_single_kinds_may_be_missing_where_the_metadata_name_the_defect(train, tmp_path):
    for kind in layouts.KINDS:
        (train.parents[1] / "test_public" / "data" / f"02_{kind}_mask.png").unlink()
    assert eyecandies.read(tmp_path)["Lollipop"].test[2].defect == "colors+normals"


def test_a_good_test_part_needs_no_mask(train, tmp_path):
    (train.parents[1] / "test_public" / "data" / "01_mask.png").unlink()
    good = eyecandies.read(tmp_path)["Lollipop"].test[1]
    assert not gt_of(good).any()


def test_private_parts_take_part_only_with_labels(train, tmp_path):
    private = train.parents[1] / "test_private" / "data"
    layouts.eyecandies_part(private, "010", ("dents",))
    layouts.eyecandies_part(private, "011")
    layouts.eyecandies_part(private, "012", ("dents",))
    (private / "012_mask.png").unlink()
    (private / "000_metadata.yaml").write_text("scene: 4\n")
    found, splits = noted(tmp_path)
    assert found == []
    labelled = splits.test[:2]
    assert ids(labelled) == ["test_private/010", "test_private/011"]
    assert [record.defect for record in labelled] == ["dents", "good"]
    assert len(splits.test) == 2 + 3


@pytest.mark.parametrize("item", ["depth", "normals", "mask"])
def test_files_of_unequal_sizes_are_refused(train, tmp_path, item):
    path = train.parents[1] / "test_public" / "data" / f"00_{item}.png"
    arrays = {"depth": np.full((3, 6), 9, np.uint16), "mask": np.full((3, 6), 9, np.uint8)}
    layouts.save(path, arrays.get(item, np.full((3, 6, 3), 9, np.uint8)))
    record = eyecandies.read(tmp_path, options=Options(native_normals=True))["Lollipop"].test[0]
    with pytest.raises(InputError, match=f"^{path}: 6x3 pixels, but .*_image_4.png has 6x4; "):
        sample.load(record)


@pytest.mark.parametrize("gone", ["val", "test_private"])
def test_validation_and_private_parts_may_be_missing(train, tmp_path, gone):
    shutil.rmtree(train.parents[1] / gone)
    assert noted(tmp_path)[0] == []


@pytest.mark.parametrize("gone", ["train", "test_public"])
def test_training_and_public_test_parts_may_not(train, tmp_path, gone):
    shutil.rmtree(train.parents[1] / gone)
    (sentence,), _ = noted(tmp_path)
    assert sentence.startswith(f"{train.parents[1] / gone / 'data'}: no part in it; ")


def test_a_folder_without_categories_is_refused(train, tmp_path):
    with pytest.raises(InputError, match="train/data and test_public/data"):
        eyecandies.read(train.parents[1])
    with pytest.raises(InputError, match="no category Gumdrop; there are Lollipop"):
        eyecandies.read(tmp_path, ["Gumdrop"])


def test_damaged_files_are_told_in_one_list(train, tmp_path, monkeypatch):
    for prefix in ("002", "003", "004", "005"):
        layouts.eyecandies_part(train, prefix)
    (train / "002_depth.png").write_bytes(b"")
    (train / "003_info_depth.yaml").write_bytes(b"")
    for name in ("004_depth.png", "005_info_depth.yaml"):
        (train / name).unlink()
        (train / name).symlink_to(train / name)
    unreadable = train / "000_info_depth.yaml"
    whole = pathlib.Path.read_bytes

    def read_bytes(path: pathlib.Path) -> bytes:
        if path == unreadable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return whole(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    found, splits = noted(tmp_path)
    assert sorted(sentence.split(":")[0] for sentence in found) == [
        str(unreadable),
        str(train / "002_depth.png"),
        str(train / "003_info_depth.yaml"),
        str(train / "004_depth.png"),
        str(train / "005_info_depth.yaml"),
    ]
    assert any("Permission denied" in sentence for sentence in found)
    assert ids(splits.train) == ["train/001"]


def test_the_published_counts_are_those_of_the_documentation():
    assert len(eyecandies.PUBLISHED) == 10
    assert sum(sum(counts.values()) for counts in eyecandies.PUBLISHED.values()) == 10 * (1000 + 100 + 50)


def test_depth_of_8_bits_is_refused(tmp_path):
    folder = layouts.eyecandies(tmp_path)
    path = folder / "train" / "data" / "000_depth.png"
    PIL.Image.fromarray(np.full((4, 6), 9, np.uint8)).save(path)
    with pytest.raises(InputError, match="depth of 8 bits") as error:
        eyecandies.read(tmp_path)
    assert str(error.value).startswith(f"{path}: ")
