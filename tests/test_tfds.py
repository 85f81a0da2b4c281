"""Prepared with tensorflow-datasets and read back, a data set is what lies in its files; TensorFlow takes no part."""

import dataclasses
import importlib.util
import pathlib
import pickle
import re
import shutil
import subprocess
import sys

import layouts
import numpy as np
import PIL.Image
import pytest
import tifffile
from layouts import marked, save

from pirn_jax.data import eyecandies, folder, images, mvtec3d, realiad_d3, sample
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems

tfds = pytest.importorskip("tensorflow_datasets", reason="needs pirn_jax[tfds]")

from pirn_jax.data.tfds import builders, examples, read, source  # noqa: E402

# tensorflow-datasets reads its information with what newer releases of protobuf are retiring.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")

NAME = "pirn_mvtec3d"
GEAR = "Zahnrad größer 歯車"


def write_part(place: pathlib.Path, name: str, size: tuple[int, int], gt: np.ndarray | None = None) -> None:
    """Writes `rgb` and `xyz`, other ones for other names, and `gt` if given; the first point is a hole."""
    random = np.random.default_rng(list(f"{place.name}{name}".encode()))
    xyz = random.normal(size=(*size, 3)).astype(np.float32)
    xyz[0, 0] = 0
    save(place / "rgb" / f"{name}.png", random.integers(0, 255, (*size, 3), np.uint8))
    save(place / "xyz" / f"{name}.tiff", xyz)
    if gt is not None:
        save(place / "gt" / f"{name}.png", gt)


def prepare(name: str, files: pathlib.Path, prepared: pathlib.Path, **config) -> None:
    download_config = tfds.download.DownloadConfig(manual_dir=files, **config)
    tfds.builder(name, data_dir=prepared).download_and_prepare(download_config=download_config)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two categories of parts of unequal sizes; one category has no validation parts."""
    root = tmp_path_factory.mktemp("files")
    for category, size in (("bolt", (4, 6)), (GEAR, (9, 5))):
        for name in ("001", "000", "b é"):
            write_part(root / category / "train" / "good", name, size)
        write_part(root / category / "test" / "dent", "000", size, marked(size))
        write_part(root / category / "test" / "good", "000", size, np.zeros(size, np.uint8))
        write_part(root / category / "test" / "good", "001", (7, 8))
    write_part(root / "bolt" / "validation" / "good", "000", (4, 6))
    return root


@pytest.fixture(scope="module")
def prepared(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    prepare(NAME, files, root)
    return root


@pytest.fixture
def own(prepared, tmp_path):
    """A copy of the prepared data set, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "own")


def records(found: dict[str, sample.Splits]) -> list[sample.Record]:
    return [r for splits in found.values() for r in (*splits.train, *splits.validation, *splits.test)]


def shards(prepared: pathlib.Path) -> list[pathlib.Path]:
    return sorted(prepared.rglob("*.array_record-*"))


def contents(prepared: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in shards(prepared)}


def assert_refused(name: str, prepared: pathlib.Path, *fragments: str, **arguments) -> None:
    with pytest.raises(InputError) as error:
        read(name, prepared, **arguments)
    assert [fragment for fragment in ("; ", *fragments) if fragment not in str(error.value)] == []


def same(expected: dict[str, sample.Splits], found: dict[str, sample.Splits]) -> int:
    """Checks that two data sets hold the same parts, bit by bit; how many there are."""
    assert list(found) == list(expected)
    for one, other in zip(records(expected), records(found), strict=True):
        assert dataclasses.replace(other, source=one.source) == one
        assert other.source.size() == one.source.size()
        assert (other.source.mask() is None) == (one.source.mask() is None)
        part, again = sample.load(one), sample.load(other)
        for field in ("rgb", "xyz", "normals", "gt"):
            np.testing.assert_array_equal(getattr(again, field), getattr(part, field), strict=True)
    return len(records(found))


def test_prepared_parts_are_those_of_the_files_bit_by_bit(files, prepared):
    assert same(mvtec3d.read(files), read(NAME, prepared)) == 13


def test_pictures_in_examples_are_png_and_jpeg_alone():
    # Pillow would hand this to Ghostscript.
    with pytest.raises(PIL.UnidentifiedImageError):
        source._decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n%%EOF\n")
    assert PIL.Image.DecompressionBombError in images.DAMAGE


def test_examples_are_in_the_order_of_the_names_and_say_what_they_are(prepared):
    test = list(tfds.builder(NAME, data_dir=prepared).as_data_source("test"))
    assert [tuple(e[key].decode() for key in ("category", "id", "defect")) for e in test] == [
        (category, f"test/{part}", part.split("/")[0])
        for category in (GEAR, "bolt")
        for part in ("dent/000", "good/000", "good/001")
    ]
    assert [(e["label"], e["gt"].max(), e["has_gt"]) for e in test[:3]] == [(1, 255, True), (0, 0, True), (0, 0, False)]
    assert test[2]["gt"].shape == (7, 8, 1)


def test_tensorflow_takes_no_part_and_another_process_writes_the_same_files(files, prepared, tmp_path):
    program = f"""
import pathlib, sys
import tensorflow_datasets as tfds
from pirn_jax.data import sample
from pirn_jax.data.tfds import read
config = tfds.download.DownloadConfig(manual_dir={str(files)!r})
tfds.builder({NAME!r}, data_dir={str(tmp_path)!r}).download_and_prepare(download_config=config)
part = read({NAME!r}, pathlib.Path({str(tmp_path)!r}))["bolt"].test[0]
assert sample.load(part).gt.sum() == 1 and part.source.digest()
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=pathlib.Path(__file__).parents[1])
    assert contents(tmp_path) == contents(prepared)


@pytest.mark.parametrize("name", ["pirn_mvtec3d", "pirn_eyecandies", "pirn_realiad_d3", "pirn_folder"])
def test_every_reader_has_a_documented_builder(name, tmp_path):
    builder = tfds.builder(name, data_dir=tmp_path)
    assert builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD
    assert builder.info.description
    assert "manual_dir" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert all(feature.doc.desc for feature in builder.info.features.values())
    if name != "pirn_folder":
        assert builder.info.homepage.startswith("https://")
        assert builder.info.citation.startswith("@inproceedings")


def test_eyecandies_has_its_own_normals_and_a_configuration_for_each_light(tmp_path):
    files, prepared, name = tmp_path / "files", tmp_path / "prepared", "pirn_eyecandies"
    (layouts.eyecandies(files) / "val" / "data" / "00_normals.png").unlink()
    prepare(name, files, prepared)
    prepare(f"{name}/light_1", files, prepared)
    for options in (Options(), Options(light=1)):
        assert same(eyecandies.read(files, options=options), read(name, prepared, (), options)) == 6
    plain = read(f"{name}/light_1", prepared)["Lollipop"]
    found = read(f"{name}/light_1:1.0.0", prepared, options=Options(native_normals=True))["Lollipop"]
    assert plain.train[0].source.digest() != found.train[0].source.digest()
    rgb, xyz, normals = found.train[0].source.arrays()
    np.testing.assert_array_equal(rgb, np.full((4, 6, 3), 10))
    assert xyz is not None
    assert normals is not None
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1], (4, 6, 3)), atol=0.01)
    assert found.validation[0].source.arrays()[2] is None
    assert_refused(f"{name}:1.0.0", prepared, "light_2", "not prepared", options=Options(light=2))
    assert_refused(f"{name}/light_9", prepared, "light_9", "light_0, light_1")


def test_parts_of_real_iad_d3_may_have_normals_only(tmp_path):
    files, name, options = tmp_path / "files", "pirn_realiad_d3", Options(native_normals=True)
    for path in layouts.realiad_d3(files).rglob("0001*.tiff"):
        path.unlink()
    prepare(name, files, tmp_path / "prepared")
    assert same(realiad_d3.read(files, (), options), read(name, tmp_path / "prepared", (), options)) == 5
    with pytest.raises(InputError, match="no scan; .*--normals=native"):
        read(name, tmp_path / "prepared")["fuse_holder"].train[0].source.arrays()


def test_jpeg_files_are_kept_as_they_are(tmp_path):
    random = np.random.default_rng(0)
    for i, place in enumerate(tmp_path / "files" / defect for defect in ("good", "good", "good_test")):
        save(place / "rgb" / f"{i}.jpg", random.integers(0, 255, (16, 16, 3), np.uint8))
        save(place / "xyz" / f"{i}.tiff", np.ones((16, 16, 3), np.float32))
    prepare("pirn_folder", tmp_path / "files", tmp_path / "prepared")
    assert same(folder.read(tmp_path / "files"), read("pirn_folder", tmp_path / "prepared")) == 3
    keep = {"rgb": tfds.decode.SkipDecoding()}
    stored = tfds.builder("pirn_folder", data_dir=tmp_path / "prepared").as_data_source("train", decoders=keep)
    assert stored[0]["rgb"] == (tmp_path / "files" / "good" / "rgb" / "0.jpg").read_bytes()


def test_only_the_named_categories_are_read_in_the_order_of_the_names(prepared):
    assert list(read(NAME, prepared, ["bolt", GEAR])) == ["bolt", GEAR]
    assert list(read(NAME, prepared, ["bolt"])) == ["bolt"]
    assert_refused(NAME, prepared, str(prepared / NAME), "no category nut", f"{GEAR}, bolt", categories=["nut", "bolt"])


def test_a_list_of_parts_opens_no_example(own):
    expected = [(record.id, record.source.size()) for record in records(read(NAME, own))]
    for path in shards(own):
        path.write_bytes(b"damaged")
    assert [(record.id, record.source.size()) for record in records(read(NAME, own))] == expected


def test_parts_can_be_pickled_before_and_after_they_are_read(prepared):
    record = read(NAME, prepared)["bolt"].test[0]
    pickled = pickle.dumps(record)
    np.testing.assert_array_equal(sample.load(pickle.loads(pickled)).rgb, sample.load(record).rgb)
    assert pickle.dumps(record) == pickled


def test_a_digest_tells_whether_a_pixel_or_a_point_differs(files, prepared, tmp_path):
    changed = shutil.copytree(files, tmp_path / "changed")
    rgb, xyz = (changed / "bolt" / "train" / "good" / name for name in ("rgb/000.png", "xyz/001.tiff"))
    for path, array in ((rgb, np.array(PIL.Image.open(rgb))), (xyz, tifffile.imread(xyz))):
        array[3, 5, 2] += 1
        save(path, array)
    prepare(NAME, changed, tmp_path / "prepared")
    trains = (read(NAME, place)["bolt"].train for place in (prepared, tmp_path / "prepared"))
    before, after = ([record.source.digest() for record in train] for train in trains)
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True]
    assert len(set(before)) == 3


def test_missing_files_are_named(own):
    missing = shards(own)[:2]
    for path in missing:
        path.unlink()
    assert_refused(NAME, own, "2 problems", *map(str, missing), "prepare the data set again")
    problems = Problems()
    assert len(records(read(NAME, own, problems=problems))) == 13
    assert len(problems.found) == 2


@pytest.mark.parametrize("damage", ["empty", "cut off", "overwritten"])
def test_a_damaged_file_is_named(own, damage):
    (path,) = (path for path in shards(own) if "train" in path.name)
    size = path.stat().st_size
    path.write_bytes({"empty": b"", "cut off": path.read_bytes()[: size // 2], "overwritten": b"U" * size}[damage])
    source = read(NAME, own)["bolt"].train[0].source
    for attempt in (source.arrays, source.mask, source.digest):
        with pytest.raises(InputError, match=f"{re.escape(str(path))}: .*; prepare the data set again"):
            attempt()


def test_a_data_set_that_is_unknown_or_not_prepared_is_refused(own, tmp_path, monkeypatch):
    assert_refused("mnist", own, "tfds:mnist", "pirn_folder")
    assert_refused(NAME, tmp_path / "none", str(tmp_path / "none"), "not prepared", NAME, "docs/tfds.md")
    assert_refused(f"{NAME}/light_1", own, "light_1")
    assert_refused(f"{NAME}:9.9.9", own, "9.9.9")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert_refused(NAME, own, "not installed", "pip install 'pirn_jax[tfds]'")


@pytest.mark.parametrize("name", ["metadata.json", "features.json", "dataset_info.json"])
def test_a_damaged_description_is_refused(own, name):
    (own / NAME / "1.0.0" / name).write_text("{")
    with pytest.raises(InputError, match="prepare the data set again"):
        read(NAME, own)["bolt"].train[0].source.arrays()


def test_problems_of_the_files_stop_the_preparation_with_all_of_them(files, tmp_path):
    own = shutil.copytree(files, tmp_path / "files")
    for path in own.rglob("dent/gt/000.png"):
        path.unlink()
    with pytest.raises(InputError, match="2 problems"):
        prepare(NAME, own, tmp_path / "prepared")
    assert_refused(NAME, tmp_path / "prepared", "not prepared")


@pytest.mark.parametrize("damaged", ["rgb/000.png", "xyz/000.tiff"])
def test_a_damaged_file_of_a_part_stops_the_preparation(files, tmp_path, damaged):
    path = shutil.copytree(files, tmp_path / "files") / "bolt" / "test" / "dent" / damaged
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: not a readable "):
        prepare(NAME, tmp_path / "files", tmp_path / "prepared")
    assert_refused(NAME, tmp_path / "prepared", "not prepared")


def test_large_splits_are_cut_into_shards(files, tmp_path, monkeypatch):
    monkeypatch.setattr(builders, "_SHARD_PIXELS", 2 * 45)
    prepare(NAME, files, tmp_path)
    lengths = {name: split.shard_lengths for name, split in tfds.builder(NAME, data_dir=tmp_path).info.splits.items()}
    # Of 9x5 and 4x6 pixels: 45 + 45, 45 + 24, 24 + 24. With one of 7x8 each: 45 + 45, 56 + 24, 24 + 56.
    assert lengths == {"train": [2, 2, 2], "validation": [1], "test": [2, 2, 2]}
    assert same(mvtec3d.read(files), read(NAME, tmp_path)) == 13


def test_beam_writes_the_same_files_and_reads_each_part_once(files, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="needs pirn_jax[beam]")
    example, seen = examples.example, []
    monkeypatch.setattr(examples, "example", lambda record: seen.append(record) or example(record))
    monkeypatch.setattr(builders, "_SHARD_PIXELS", 60)
    prepare(NAME, files, tmp_path / "one by one")
    prepare(NAME, files, tmp_path / "beam", beam_runner="DirectRunner")
    assert contents(tmp_path / "beam") == contents(tmp_path / "one by one")
    assert len(seen) == 2 * 13
    assert same(mvtec3d.read(files), read(NAME, tmp_path / "beam")) == 13
