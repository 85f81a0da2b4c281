"""Real-IAD D3: files are paired by name, sizes differ, NaN is a hole, and what cannot be paired is named."""

import errno
import os
import pathlib
import shutil

import layouts
import numpy as np
import pytest
import tifffile

from pirn_jax.data import realiad_d3, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems


def ids(records: list[sample.Record]) -> list[str]:
    return [record.id for record in records]


def gt_of(record: sample.Record) -> np.ndarray:
    gt = sample.load(record).gt
    assert gt is not None
    return gt


def xyz_of(record: sample.Record) -> np.ndarray:
    xyz = sample.load(record).xyz
    assert xyz is not None
    return xyz


def noted(root: pathlib.Path, options: Options | None = None) -> tuple[list[str], sample.Splits]:
    problems = Problems()
    splits = realiad_d3.read(root, options=options or Options(), problems=problems)["fuse_holder"]
    assert all("; " in sentence for sentence in problems.found), "no remedy"
    return problems.found, splits


@pytest.fixture(name="train")
def train_folder(tmp_path) -> pathlib.Path:
    return layouts.realiad_d3(tmp_path) / "train" / "GOOD"


def test_all_parts_are_found(tmp_path):
    layouts.realiad_d3(tmp_path, "purple-clay-pot")
    layouts.realiad_d3(tmp_path, "fuse_holder")
    found = realiad_d3.read(tmp_path)
    assert list(found) == ["fuse_holder", "purple-clay-pot"]
    splits = found["purple-clay-pot"]
    assert ids(splits.train) == ["train/GOOD/0001", "train/GOOD/0002"]
    assert splits.validation == []
    assert ids(splits.test) == ["test/GOOD/0003", "test/scratch/0001", "test/scratch/0002"]
    assert [record.defect for record in splits.test] == ["good", "scratch", "scratch"]
    assert {record.category for record in splits.test} == {"purple-clay-pot"}


@pytest.mark.parametrize("good", ["good", "GOOD", "Good", "OK"])
def test_good_may_be_spelled_in_several_ways(tmp_path, good):
    layouts.realiad_d3(tmp_path, good=good)
    found, splits = noted(tmp_path)
    assert found == []
    assert [record.id for record in splits.test if not record.defective] == [f"test/{good}/0003"]
    assert not any(record.defective for record in splits.train)


def test_the_fifth_light_the_cloud_and_the_mask_are_read_at_their_own_sizes(train, tmp_path):
    record = realiad_d3.read(tmp_path)["fuse_holder"].test[1]
    np.testing.assert_array_equal(sample.load(record).rgb, np.full((4, 6, 3), 50))
    xyz, gt = xyz_of(record), gt_of(record)
    assert xyz.shape == (5, 7, 3)
    np.testing.assert_array_equal(xyz[0, 0], 0)
    np.testing.assert_array_equal(xyz[3, 2], [2, 3, 102])
    assert sample.load(record).normals is None
    np.testing.assert_array_equal(np.argwhere(gt), [[1, 2]])
    assert gt.shape == (4, 6)


def test_the_unit_turns_millimetres_into_metres(train, tmp_path):
    record = realiad_d3.read(tmp_path, options=Options(unit=0.001))["fuse_holder"].train[0]
    np.testing.assert_allclose(xyz_of(record)[3, 2], [0.002, 0.003, 0.102], rtol=1e-6)


def test_native_normals_look_at_the_camera_and_keep_the_scan(train, tmp_path):
    part = sample.load(realiad_d3.read(tmp_path, options=Options(native_normals=True))["fuse_holder"].train[0])
    assert part.normals is not None
    assert part.normals.shape == (8, 8, 3)
    np.testing.assert_allclose(part.normals[4, 4], [0, 0, -1], atol=0.03)
    assert part.xyz is not None


def test_clouds_may_be_missing_with_native_normals_only(train, tmp_path):
    for path in tmp_path.rglob("*.tiff"):
        path.unlink()
    found, splits = noted(tmp_path, Options(native_normals=True))
    assert found == []
    assert sample.load(splits.train[0]).xyz is None
    found, splits = noted(tmp_path)
    assert len(found) == 5
    assert not splits.train
    assert not splits.test


def test_pseudo_3d_is_missed_only_where_it_is_asked_for(train, tmp_path):
    (train / "ps" / "0001_PS.jpg").unlink()
    assert noted(tmp_path)[0] == []
    (sentence,), splits = noted(tmp_path, Options(native_normals=True))
    assert sentence.startswith(f"{train / 'rgb' / '0001' / '0001_L05_RGB_0.jpg'}: no .jpg file of part 0001 in ")
    assert ids(splits.train) == ["train/GOOD/0002"]


@pytest.mark.parametrize("stem", ["{part}", "{part}_{kind}", "fuse-{part}-OK.{kind}", "S 12 {part}"])
def test_files_are_paired_by_name_and_not_by_order(tmp_path, stem):
    place = layouts.realiad_d3(tmp_path) / "train" / "GOOD"
    shutil.rmtree(place)
    for height, part in enumerate(("9", "10", "100"), start=3):
        layouts.realiad_d3_part(place, part, rgb_size=(height, 6), xyz_size=(height, 7), stem=stem)
    found, splits = noted(tmp_path)
    assert found == []
    for record in splits.train:
        assert (
            len(sample.load(record).rgb) == len(xyz_of(record)) == {"9": 3, "10": 4, "100": 5}[record.id.split("/")[-1]]
        )


def test_a_file_belongs_to_the_longest_name_in_its_own(train, tmp_path):
    layouts.realiad_d3_part(train, "0001_b", xyz_size=(9, 9), stem="x_{part}_{kind}")
    found, splits = noted(tmp_path)
    assert found == []
    assert ids(splits.train) == ["train/GOOD/0001", "train/GOOD/0001_b", "train/GOOD/0002"]
    assert [xyz_of(record).shape[:2] for record in splits.train] == [(5, 7), (9, 9), (5, 7)]
    (train / "xyz" / "0001_XYZ.tiff").unlink()
    (sentence,), splits = noted(tmp_path)
    assert "no .tiff file of part 0001 in " in sentence
    assert ids(splits.train) == ["train/GOOD/0001_b", "train/GOOD/0002"]


def test_a_file_with_the_names_of_two_parts_is_given_to_neither(train, tmp_path):
    layouts.realiad_d3_part(train, "10")
    (train / "xyz" / "0001_XYZ.tiff").rename(train / "xyz" / "0001_10.tiff")
    found, splits = noted(tmp_path)
    assert found[0].startswith(f"{train / 'xyz' / '0001_10.tiff'}: has the name of parts 0001 and 10; ")
    assert ids(splits.train) == ["train/GOOD/0002", "train/GOOD/10"]


def test_several_clouds_of_one_part_are_named(train, tmp_path):
    shutil.copy(train / "xyz" / "0001_XYZ.tiff", train / "xyz" / "0001_again.tiff")
    (sentence,), splits = noted(tmp_path)
    assert sentence.startswith(f"{train / 'xyz'}: 0001_XYZ.tiff, 0001_again.tiff all belong to part 0001; ")
    assert ids(splits.train) == ["train/GOOD/0002"]


def test_several_images_of_the_fifth_light_are_named(train, tmp_path):
    image = train / "rgb" / "0001" / "0001_L05_RGB_0.jpg"
    shutil.copy(image, image.with_name("0001_L05_RGB_1.jpg"))
    (sentence,), _ = noted(tmp_path)
    assert sentence.startswith(f"{image.with_name('0001_L05_RGB_1.jpg')}: 0001_L05_RGB_0.jpg shows part 0001 as well; ")


def test_a_part_without_the_fifth_light_is_named(train, tmp_path):
    (train / "rgb" / "0001" / "0001_L05_RGB_0.jpg").unlink()
    found, splits = noted(tmp_path)
    assert found[0].startswith(f"{train / 'rgb' / '0001'}: no JPEG with L05 and RGB in its name; ")
    assert found[1].startswith(f"{train / 'xyz' / '0001_XYZ.tiff'}: has the name of no part under rgb/; ")
    assert ids(splits.train) == ["train/GOOD/0002"]


def test_colour_images_may_lie_side_by_side(tmp_path):
    folder = layouts.realiad_d3(tmp_path)
    place = folder / "train" / "GOOD"
    shutil.rmtree(place)
    for number in ("0153", "0154"):
        name = f"fuse_holder_{number}_OK"
        layouts.save(place / "rgb" / f"{name}_RGBL05_00000000.jpg", np.full((4, 6, 3), 9, np.uint8))
        layouts.save(place / "rgb" / f"{name}_RGBL01_00000000.jpg", np.full((4, 6, 3), 1, np.uint8))
        layouts.save(place / "xyz" / f"{name}_XYZ_00000001.tiff", np.full((5, 5, 3), int(number), np.float32))
    found, splits = noted(tmp_path)
    assert found == []
    assert ids(splits.train) == ["train/GOOD/fuse_holder_0153_OK", "train/GOOD/fuse_holder_0154_OK"]
    assert (sample.load(splits.train[1]).rgb.max(), xyz_of(splits.train[1]).max()) == (9, 154)


def test_masks_may_lie_in_gt_itself_and_a_good_part_needs_none(tmp_path):
    place = layouts.realiad_d3(tmp_path) / "test" / "scratch"
    for path in (place / "gt" / "rgb").iterdir():
        path.rename(place / "gt" / path.name)
    (place / "gt" / "rgb").rmdir()
    found, splits = noted(tmp_path)
    assert found == []
    assert [gt_of(record).sum() for record in splits.test] == [0, 1, 1]


def test_a_defect_without_its_mask_is_named(tmp_path):
    place = layouts.realiad_d3(tmp_path) / "test" / "scratch"
    (place / "gt" / "rgb" / "0002_GT.png").unlink()
    (sentence,), splits = noted(tmp_path)
    assert f"no .png file of part 0002 in {place / 'gt' / 'rgb'}; " in sentence
    assert ids(splits.test) == ["test/GOOD/0003", "test/scratch/0001"]


def test_stray_files_are_passed_over(train, tmp_path):
    expected = realiad_d3.read(tmp_path)
    (tmp_path / "README.md").write_text("Parts.")
    for place in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        for name in (".DS_Store", "Thumbs.db", "._0001.tiff", "notes.txt"):
            (place / name).write_bytes(b"stray")
    (train / "rgb" / "loop").symlink_to(train / "rgb" / "loop")
    assert realiad_d3.read(tmp_path) == expected


def test_names_with_hyphens_spaces_and_other_scripts(tmp_path):
    place = layouts.realiad_d3(tmp_path, "knob-cap größer") / "test" / "Kratzer 歯車"
    layouts.realiad_d3_part(place, "Teil é 部品", gt=True, stem="{kind} {part}")
    record = realiad_d3.read(tmp_path)["knob-cap größer"].test[1]
    assert record.id == "test/Kratzer 歯車/Teil é 部品"
    assert gt_of(record).any()


def test_damaged_files_are_told_in_one_list(train, tmp_path, monkeypatch):
    (train / "xyz" / "0001_XYZ.tiff").write_bytes(b"")
    loop = train / "rgb" / "0002" / "0002_L05_RGB_0.jpg"
    loop.unlink()
    loop.symlink_to(loop)
    unreadable = tmp_path / "fuse_holder" / "test" / "scratch" / "xyz" / "0001_XYZ.tiff"
    whole = tifffile.TiffFile

    def opened(path, *args, **kwargs):
        if path == unreadable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return whole(path, *args, **kwargs)

    monkeypatch.setattr(tifffile, "TiffFile", opened)
    splits = realiad_d3.read(tmp_path)["fuse_holder"]
    problems, loaded = Problems(), []
    for record in splits.train + splits.test:
        with problems.collecting():
            sample.load(record)
            loaded.append(record.id)
    assert [sentence.split(":")[0] for sentence in problems.found] == [
        str(train / "xyz" / "0001_XYZ.tiff"),
        str(loop),
        str(unreadable),
    ]
    assert loaded == ["test/GOOD/0003", "test/scratch/0002"]


def test_no_file_is_opened_by_the_reader(train, tmp_path):
    for path in tmp_path.rglob("*.*"):
        path.write_bytes(b"")
    found, splits = noted(tmp_path)
    assert found == []
    assert len(splits.train + splits.test) == 5


def test_a_folder_that_cannot_be_read_is_named_beside_the_other_parts(train, tmp_path, monkeypatch):
    listed = pathlib.Path.iterdir

    def iterdir(path):
        if path == train / "rgb" / "0001":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return listed(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", iterdir)
    found, splits = noted(tmp_path)
    assert found[0].startswith(f"{train / 'rgb' / '0001'}: cannot be read (Permission denied); ")
    assert ids(splits.train) == ["train/GOOD/0002"]


@pytest.mark.parametrize("gone", ["train", "test"])
def test_a_missing_split_is_named(train, tmp_path, gone):
    shutil.rmtree(tmp_path / "fuse_holder" / gone)
    (sentence,), _ = noted(tmp_path)
    assert sentence.startswith(f"{tmp_path / 'fuse_holder' / gone}: no folder ")


def test_an_empty_folder_is_named(train, tmp_path):
    (tmp_path / "fuse_holder" / "test" / "dent").mkdir()
    (sentence,), _ = noted(tmp_path)
    assert sentence.startswith(f"{tmp_path / 'fuse_holder' / 'test' / 'dent'}: no part in it; ")


def test_a_folder_without_categories_is_refused(train, tmp_path):
    with pytest.raises(InputError, match="train/GOOD/rgb and train/GOOD/xyz"):
        realiad_d3.read(tmp_path / "fuse_holder")
    with pytest.raises(InputError, match="no category knob-cap; there are fuse_holder"):
        realiad_d3.read(tmp_path, ["knob-cap"])


def test_twenty_categories_are_published():
    assert len(set(realiad_d3.CATEGORIES)) == 20
    assert sum(realiad_d3.PUBLISHED_TOTALS.values()) == 8450
