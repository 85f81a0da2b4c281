"""The archive of Real-IAD D3: parts are what its lists say, and every entry that cannot be used is named."""

import errno
import os
import pathlib
import shutil

import layouts
import numpy as np
import pytest

from pirn_jax.data import realiad_d3, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from tests.test_realiad_d3 import gt_of, ids, noted, xyz_of

OK = "fuse_holder_000{}_OK_RGBL05_00000000000000"
SCRATCH = "fuse_holder_000{}_scratch_RGBL05_00000000000000"
TRAIN = [f"train/OK/S000{i}/{OK.format(i)}" for i in (1, 3)]
TEST = [f"test/OK/S0004/{OK.format(4)}", *(f"test/scratch/S000{i}/{SCRATCH.format(i)}" for i in (2, 3))]


@pytest.fixture(name="content")
def written_list(tmp_path) -> dict:
    """The list of category fuse_holder, whose files are in `tmp_path`."""
    return layouts.realiad_d3_archive(tmp_path)


def rewritten(root: pathlib.Path, content: object, options: Options | None = None) -> tuple[list[str], sample.Splits]:
    """Problems and parts of another list, without the path of the list before each problem."""
    path = layouts.realiad_d3_list(root, content)
    found, splits = noted(root, options)
    assert all(sentence.startswith(f"{path}: ") for sentence in found)
    return [sentence.removeprefix(f"{path}: ") for sentence in found], splits


def test_all_parts_of_the_lists_are_found(tmp_path):
    for category in ("power_jack", "fuse_holder"):
        layouts.realiad_d3_archive(tmp_path, category)
    found = realiad_d3.read(tmp_path)
    assert list(found) == ["fuse_holder", "power_jack"]
    splits = found["fuse_holder"]
    assert ids(splits.train) == TRAIN
    assert ids(splits.test) == TEST
    assert [record.defect for record in splits.test] == ["good", "scratch", "scratch"]
    assert {record.split for record in splits.test} == {"test"}
    assert {record.category for record in splits.train + splits.test} == {"fuse_holder"}


def test_defective_parts_are_tested_only_where_the_test_list_names_them(tmp_path, content):
    content["train"].append(content["validation"][1])
    found, splits = rewritten(tmp_path, content)
    assert found == []
    assert ids(splits.train) == TRAIN
    assert ids(splits.validation) == [f"validation/OK/S0002/{OK.format(2)}"]
    assert ids(splits.test) == TEST


def test_files_are_those_of_the_entry_whatever_their_names(tmp_path, content):
    first, second = content["train"]
    first["xyz_path"], second["xyz_path"] = second["xyz_path"], first["xyz_path"]
    found, splits = rewritten(tmp_path, content, Options(unit=0.001))
    assert found == []
    assert [xyz_of(record).shape for record in splits.train] == [(3, 7, 3), (1, 7, 3)]
    np.testing.assert_allclose(xyz_of(splits.train[0])[2, 1], [0.001, 0.002, 0.101], rtol=1e-6)
    np.testing.assert_array_equal(sample.load(splits.train[0]).rgb, np.full((4, 6, 3), 50))
    assert sample.load(splits.train[0]).normals is None
    assert [gt_of(record).sum() for record in splits.test] == [0, 1, 1]
    assert [gt_of(record)[1, 2] for record in splits.test] == [False, True, True]


@pytest.mark.parametrize("mask", [None, "", "OK/S0004/nothing.png"])
def test_a_good_part_needs_no_mask(tmp_path, content, mask):
    content["test"][1]["mask_path"] = mask
    del content["validation"][0]["mask_path"]
    found, splits = rewritten(tmp_path, content)
    assert found == []
    assert not gt_of(splits.test[0]).any()


def test_native_normals_need_pseudo_3d_and_no_cloud(tmp_path, content):
    native = Options(native_normals=True)
    content["train"][0]["xyz_path"] = None
    for path in tmp_path.rglob("S0001/*.tiff"):
        path.unlink()
    found, splits = rewritten(tmp_path, content, native)
    assert found == []
    assert [sample.load(record).xyz is None for record in splits.train + splits.test] == [True, True] + 3 * [False]
    normals = sample.load(splits.train[0]).normals
    assert normals is not None
    np.testing.assert_allclose(normals[4, 4], [0, 0, -1], atol=0.03)
    for path in tmp_path.rglob("S0003/*_PS_*.jpg"):
        path.unlink()
    found, splits = rewritten(tmp_path, content, native)
    assert [sentence.split(":")[0] for sentence in found] == ["train[0].ps_path", "test[0].ps_path"]
    assert (ids(splits.train), ids(splits.test)) == (TRAIN[:1], TEST[:2])


@pytest.mark.parametrize("key", ["image_path", "xyz_path", "mask_path"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, " is None; "),
        ("", " is ''; "),
        (7, " is 7; "),
        (["a"], " is ['a']; "),
        ("OK/S0009/gone.png", ": no file "),
        ("scratch", ": no file "),
        (".", ": no file "),
        (300 * "long", ": no file "),
        ("nul\0.png", ": no file "),
        ("../fuse_holder/OK/S0001/x.png", ", which leaves the data set; "),
        ("scratch/../../x.png", ", which leaves the data set; "),
        ("/etc/x.png", ", which leaves the data set; "),
    ],
)
def test_a_path_that_cannot_be_used_is_named_beside_the_other_parts(tmp_path, content, key, value, expected):
    content["test"][2][key] = value
    (sentence,), splits = rewritten(tmp_path, content)
    assert sentence.startswith(f"test[2].{key}")
    assert expected in sentence
    assert (ids(splits.train), ids(splits.test)) == (TRAIN, [TEST[0], TEST[2]])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, "test[0].anomaly_class is None; "),
        ({"anomaly_class": 1}, "test[0].anomaly_class is 1; "),
        ({"anomaly_class": ""}, "test[0].anomaly_class is ''; "),
        ({"anomaly_class": "OK"}, "test[0].image_path is None; "),
        ("scratch", "test[0] is 'scratch'; "),
        (None, "test[0] is None; "),
    ],
)
def test_an_entry_without_what_it_needs_is_named(tmp_path, content, entry, expected):
    content["test"][0] = entry
    (sentence,), splits = rewritten(tmp_path, content)
    assert sentence.startswith(expected)
    assert (ids(splits.train), ids(splits.test)) == (TRAIN, TEST[:2])


def test_a_part_that_is_listed_twice_is_named(tmp_path, content):
    content["test"] += [content["test"][0], content["train"][1]]
    found, splits = rewritten(tmp_path, content)
    assert [sentence.split(";")[0] for sentence in found] == [
        "test[3].image_path is that of test[0] as well",
        "test[4].image_path is that of train[1] as well",
    ]
    assert ids(splits.test) == TEST


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe\xff", b'"train"', b"[" * 100_000])
def test_a_broken_list_is_named_beside_the_other_categories(tmp_path, content, text):
    layouts.realiad_d3_archive(tmp_path, "power_jack")
    path = tmp_path / "realiad_d3_jsons" / "fuse_holder.json"
    path.write_bytes(text)
    problems = Problems()
    assert list(realiad_d3.read(tmp_path, problems=problems)) == ["power_jack"]
    (sentence,) = problems.found
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith("; download it again")
    with pytest.raises(InputError, match="download it again"):
        realiad_d3.read(tmp_path)


def test_a_list_that_cannot_be_read_is_named(tmp_path, content, monkeypatch):
    def read_bytes(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(pathlib.Path, "read_bytes", read_bytes)
    with pytest.raises(InputError, match=r"fuse_holder\.json: cannot be read \(Permission denied\); "):
        realiad_d3.read(tmp_path)


@pytest.mark.parametrize(
    ("split", "value", "expected"),
    [
        ("train", [], "no part in its train list that can be used; "),
        ("train", None, "train is a NoneType, not a list; "),
        ("test", {}, "test is a dict, not a list; "),
        ("test", [], "no part in its test list that can be used; "),
        ("validation", "OK", "validation is a str, not a list; "),
    ],
)
def test_a_split_without_parts_is_named_beside_the_others(tmp_path, content, split, value, expected):
    content[split] = value
    (sentence,), splits = rewritten(tmp_path, content)
    assert sentence.startswith(expected)
    assert ids(splits.train) == (TRAIN if split != "train" else [])
    assert ids(splits.test) == (TEST if split != "test" else [])


def test_validation_parts_and_the_prefix_may_be_missing(tmp_path, content):
    del content["validation"], content["meta"]
    found, splits = rewritten(tmp_path, content)
    assert found == []
    assert (ids(splits.train), splits.validation, ids(splits.test)) == (TRAIN, [], TEST)


def test_paths_start_from_the_prefix(tmp_path, content):
    raw = tmp_path / "realiad_d3_raw"
    (raw / "fuse_holder").rename(raw / "fuse-holder")
    content["meta"]["prefix"] = "fuse-holder/"
    found, splits = rewritten(tmp_path, content)
    assert found == []
    assert ids(splits.train) == TRAIN


@pytest.mark.parametrize("prefix", ["../realiad_d3_raw/fuse_holder", "/fuse_holder", None, 1])
def test_a_prefix_that_leaves_the_data_set_is_refused(tmp_path, content, prefix):
    content["meta"]["prefix"] = prefix
    layouts.realiad_d3_list(tmp_path, content)
    with pytest.raises(InputError, match=r"fuse_holder\.json: meta\.prefix is .*; "):
        realiad_d3.read(tmp_path)


def test_files_that_are_not_unpacked_are_told_once(tmp_path, content):
    raw = tmp_path / "realiad_d3_raw"
    shutil.rmtree(raw / "fuse_holder")
    layouts.realiad_d3_archive(tmp_path, "power_jack")
    problems = Problems()
    assert list(realiad_d3.read(tmp_path, problems=problems)) == ["power_jack"]
    (sentence,) = problems.found
    assert sentence.startswith(f"{raw / 'fuse_holder'}: no such folder; put the files there ")
    (raw / "fuse_holder.zip").write_bytes(b"PK")
    with pytest.raises(InputError) as caught:
        realiad_d3.read(tmp_path, ["fuse_holder"])
    assert str(caught.value) == f"{raw / 'fuse_holder'}: no such folder; unpack {raw / 'fuse_holder.zip'}"


def test_categories_may_be_asked_for_with_hyphens_or_underscores(tmp_path):
    layouts.realiad_d3_archive(tmp_path / "lists", "knob_cap")
    layouts.realiad_d3_archive(tmp_path / "lists", "limit-switch")
    for category in ("knob_cap", "limit-switch", "limit_switch"):
        layouts.realiad_d3(tmp_path / "folders", category)
    assert list(realiad_d3.read(tmp_path / "lists", ["limit_switch", "knob-cap"])) == ["limit-switch", "knob_cap"]
    assert list(realiad_d3.read(tmp_path / "folders", ["limit-switch", "knob-cap"])) == ["limit-switch", "knob_cap"]
    with pytest.raises(InputError, match="no category knob; there are knob_cap, limit-switch"):
        realiad_d3.read(tmp_path / "lists", ["knob"])


def test_lists_may_lie_one_folder_deeper_and_count_before_folders(tmp_path, content):
    layouts.realiad_d3(tmp_path, "power_jack")
    expected = realiad_d3.read(tmp_path)
    assert list(expected) == ["fuse_holder"]
    (tmp_path / "jsons").mkdir()
    shutil.move(tmp_path / "realiad_d3_jsons", tmp_path / "jsons")
    assert realiad_d3.read(tmp_path) == expected


def test_stray_files_beside_the_lists_are_passed_over(tmp_path, content):
    expected = realiad_d3.read(tmp_path)
    for name in ("._fuse_holder.json", "README.md", ".DS_Store"):
        (tmp_path / "realiad_d3_jsons" / name).write_bytes(b"stray")
    assert realiad_d3.read(tmp_path) == expected


def test_a_folder_without_lists_is_named(tmp_path):
    (tmp_path / "realiad_d3_jsons").mkdir()
    with pytest.raises(InputError, match="realiad_d3_jsons: no list in it; unpack "):
        realiad_d3.read(tmp_path)
    (tmp_path / "realiad_d3_jsons").rmdir()
    with pytest.raises(InputError, match="no category in it; .* a list in realiad_d3_jsons, unpacked"):
        realiad_d3.read(tmp_path)


def test_no_file_of_a_part_is_opened(tmp_path, content):
    for path in (tmp_path / "realiad_d3_raw").rglob("*.*"):
        path.write_bytes(b"")
    found, splits = noted(tmp_path)
    assert found == []
    assert ids(splits.test) == TEST
