"""What the encoder sees of parts: the part alone, at its size, named by everything that makes it."""

import dataclasses
import pathlib
import shutil

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax import cache, inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Files, Record, Sample
from pirn_jax.data.scans import Cloud, Depth, Intrinsics, NormalMap
from pirn_jax.geometry import depth_images, plausibility
from pirn_jax.inputs import Preparation

WHOLE = Preparation(28, foreground="none")
DEPTH = Preparation(28, "depth", foreground="none")
SIZE = (24, 32)


def plane(distance: float = 0.5) -> np.ndarray:
    """A plane that faces the camera, points a millimetre apart."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] * 1e-3
    return np.stack([x, y, np.full_like(x, distance)], axis=-1).astype(np.float32)


def block_on_plane() -> np.ndarray:
    """A block of 20x20 points, 3 cm high, in the middle of a plane of 60x60; points are 1.5 mm apart."""
    y, x = (np.mgrid[:60, :60] - 30) * 0.0015
    z = np.full_like(x, 0.5)
    z[20:40, 20:40] = 0.47
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def part_of(xyz, normals=None) -> Sample:
    size = (xyz if xyz is not None else normals).shape[:2]
    return Sample(np.full((*size, 3), (200, 100, 50), np.uint8), xyz, normals, np.zeros(size, bool))


@pytest.fixture
def record(tmp_path) -> Record:
    rgb, xyz = tmp_path / "a.png", tmp_path / "a.tiff"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(rgb)
    tifffile.imwrite(xyz, plane(), photometric="rgb")
    return Record("bolt", "train", "good", "train/good/a", Files(rgb, Cloud(xyz)))


def name_of(record: Record, preparation: Preparation = WHOLE) -> str:
    problems = Problems()
    (name,) = inputs.identify([record], preparation, problems)
    problems.check()
    return name


def resourced(record: Record, **changes) -> Record:
    return dataclasses.replace(record, source=dataclasses.replace(record.source, **changes))


def test_names_follow_the_bytes_of_the_files_and_nothing_else_of_them(record, tmp_path):
    (tmp_path / "copy").mkdir()
    files = [
        pathlib.Path(shutil.copy(path, tmp_path / "copy")) for path in (record.source.rgb, record.source.scan.path)
    ]
    copy = Record("nut", "test", "dent", "test/dent/7", Files(files[0], Cloud(files[1])))
    assert name_of(copy) == name_of(record)
    for path in files:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert name_of(copy) != name_of(record)
        path.write_bytes(whole)
    assert name_of(copy) == name_of(record)


def test_names_follow_how_files_are_read(record):
    path, k = record.source.scan.path, Intrinsics(1.0, 1.0, 0.0, 0.0)
    scans = [
        Cloud(path),
        Cloud(path, unit=0.001),
        Cloud(path, nan_is_unseen=True),
        Depth(path, k),
        Depth(path, k, scale=2.0),
        Depth(path, k, offset=1.0),
        Depth(path, dataclasses.replace(k, cx=1.0)),
        None,
    ]
    names = {name_of(resourced(record, scan=scan)) for scan in scans}
    names.add(name_of(resourced(record, normals=NormalMap(record.source.rgb))))
    names.add(name_of(resourced(record, normals=NormalMap(record.source.rgb, (1, 1, 1)))))
    names.add(name_of(dataclasses.replace(record, source=Files(path, Cloud(record.source.rgb)))))
    assert len(names) == len(scans) + 3


def test_names_follow_the_preparation(record, monkeypatch):
    preparations = [
        WHOLE,
        Preparation(56, foreground="none"),
        Preparation(28, "depth", foreground="none"),
        Preparation(28),
        Preparation(28, foreground="open3d"),
        Preparation(28, plane_tolerance=0.004),
        Preparation(28, cluster_reach=0.004),
        Preparation(28, normals="open3d", foreground="none"),
        Preparation(28, normals="native", foreground="none"),
        Preparation(28, neighbours=29, foreground="none"),
    ]
    names = {name_of(record, preparation) for preparation in preparations}
    monkeypatch.setattr(inputs, "_CACHE_VERSION", "another")
    names.add(name_of(record))
    assert len(names) == len(preparations) + 1


def test_a_file_that_cannot_be_read_is_a_problem_of_its_part_alone(record):
    gone = resourced(record, rgb=record.source.rgb.with_name("gone.png"))
    problems = Problems()
    assert inputs.identify([gone, record], WHOLE, problems) == ["", name_of(record)]
    assert len(problems.found) == 1
    assert "gone.png: cannot be read (No such file" in problems.found[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"normals": "pca"},
        {"geometry": "colour"},
        {"foreground": "sam"},
        {"neighbours": 2},
        {"plane_tolerance": 0.0},
        {"cluster_reach": -1.0},
    ],
    ids=str,
)
def test_impossible_preparations_are_refused(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        Preparation(**changes)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (7, 2), (5, 8), (6, 3, 3)])
def test_square_puts_the_image_in_the_middle_of_zeros(shape):
    image = np.arange(1, np.prod(shape) + 1).reshape(shape)
    padded = inputs.square(image)
    side = max(shape[:2])
    assert padded.shape == (side, side, *shape[2:])
    top, left = (side - shape[0]) // 2, (side - shape[1]) // 2
    np.testing.assert_array_equal(padded[top : top + shape[0], left : left + shape[1]], image)
    assert np.count_nonzero(padded) == image.size


def test_the_network_sees_colours_first_and_normals_second():
    xyz = plane()[:, :24]
    xyz[:, :8] = 0.0
    seen = inputs.prepare(part_of(xyz), Preparation(12, foreground="none")).values
    assert seen.shape == (2, 12, 12, 3)
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen[0], np.broadcast_to([200, 100, 50], (12, 12, 3)))
    np.testing.assert_array_equal(seen[1, :, 5:], np.broadcast_to([128, 128, 255], (12, 7, 3)))
    assert not seen[1, :, :3].any()


def test_the_network_sees_a_part_that_is_not_square_between_black_bands():
    seen = inputs.prepare(part_of(plane()), Preparation(32, foreground="none")).values
    for band in (seen[:, :3], seen[:, -3:]):
        assert not band.any()
    assert seen[:, 5:-5].any(axis=-1).all()


def test_the_supporting_plane_is_black_in_both_modalities():
    part = part_of(block_on_plane())
    seen = inputs.prepare(part, Preparation(60))
    assert seen.note == ""
    block = np.zeros((60, 60), bool)
    block[20:40, 20:40] = True
    for modality in seen.values.any(axis=-1):
        # Resizing bicubically may ring over the edge, but not farther.
        np.testing.assert_array_equal(modality[21:39, 21:39], True)
        assert not modality[~block].reshape(-1).mean() > 0.05
        assert not modality[:17].any()
    np.testing.assert_array_equal(seen.values[1, 28:32, 28:32], np.broadcast_to([128, 128, 255], (4, 4, 3)))
    assert inputs.prepare(part, Preparation(60, foreground="none")).values.any(axis=-1).all()


def test_a_part_without_a_plane_is_kept_whole_and_that_is_noted():
    y, x = np.mgrid[-1:1:60j, -1:1:60j] * 0.1
    bowl = np.stack([x, y, 0.5 - 10 * (x**2 + y**2)], axis=-1).astype(np.float32)
    seen = inputs.prepare(part_of(bowl), Preparation(60))
    assert "no plane" in seen.note
    assert seen.values.any(axis=-1).all()


def test_normals_of_the_data_set_are_taken_when_asked_for():
    field = np.zeros((*SIZE, 3), np.float32)
    field[..., 0] = 1.0
    part = part_of(plane(), field)
    native = Preparation(32, normals="native", foreground="none")
    seen = inputs.prepare(part, native).values
    np.testing.assert_array_equal(seen[1, 16, 16], [255, 128, 128])
    np.testing.assert_array_equal(inputs.prepare(part, WHOLE).values[1, 14, 14], [128, 128, 255])
    np.testing.assert_array_equal(inputs.prepare(part_of(None, field), native).values, seen)


def test_normals_that_are_not_there_are_refused_with_the_name_of_the_part(record, tmp_path):
    for changed, preparation, remedy in (
        (record, Preparation(28, normals="native", foreground="none"), "--normals=exact"),
        (resourced(record, scan=None), WHOLE, "--normals=native"),
        (resourced(record, scan=None), DEPTH, "--geometry=normals"),
    ):
        with pytest.raises(InputError, match=remedy) as error:
            inputs.load(changed, name_of(changed, preparation), preparation, tmp_path / "cache")
        assert str(error.value).startswith(f"{record.source.rgb}: ")


def test_normals_of_another_size_than_the_scan_lose_what_is_off_the_part():
    field = np.zeros((30, 30, 3), np.float32)
    field[..., 2] = -1.0
    rgb = np.full((60, 60, 3), 90, np.uint8)
    part = Sample(rgb, block_on_plane(), field, np.zeros((60, 60), bool))
    shown = inputs.prepare(part, Preparation(60, normals="native")).values[1].any(axis=-1)
    assert shown[22:38, 22:38].all()
    assert not shown[:18].any()


def test_a_failure_of_the_recipe_is_an_input_error(monkeypatch):
    def fail(xyz, neighbours):
        raise ValueError("points in one plane")

    monkeypatch.setitem(inputs.NORMALS, "open3d", fail)
    with pytest.raises(InputError, match="points in one plane"):
        inputs.prepare(part_of(plane()), Preparation(28, normals="open3d", foreground="none"))


def test_geometry_of_another_size_is_brought_to_the_frame_of_the_image():
    rgb = np.full((30, 120, 3), 90, np.uint8)
    seen = inputs.prepare(Sample(rgb, block_on_plane(), None, np.zeros((30, 120), bool)), Preparation(120)).values
    # Rows 20 to 40 of 60 are 10 to 20 of 30, below a band of 45; columns are twice as many.
    for modality in seen.any(axis=-1):
        rows, columns = np.flatnonzero(modality.any(axis=1)), np.flatnonzero(modality.any(axis=0))
        np.testing.assert_allclose([rows[0], rows[-1]], [55, 64], atol=1.5)
        np.testing.assert_allclose([columns[0], columns[-1]], [40, 79], atol=1.5)


@pytest.mark.parametrize(("distance", "odd"), [(500.0, True), (0.5, False), (3.0, False), (0.001, True)])
def test_odd_distances_are_noted_with_the_number_and_the_remedy(distance, odd):
    note = plausibility.scan_note(plane(0.0) * 1e-3 + np.float32([0, 0, distance]))
    assert bool(note) == odd
    if distance == 500.0:
        assert "500 m" in note
        assert "--xyz_unit" in note


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_that_holds_depth_only_is_noted(axis):
    xyz = plane()
    assert plausibility.scan_note(xyz) == ""
    xyz[..., axis] = 0.166
    assert "one x or one y" in plausibility.scan_note(xyz)


def test_what_was_prepared_is_found_again_and_a_damaged_file_is_made_anew(record, tmp_path, monkeypatch):
    name = name_of(record)
    first = inputs.load(record, name, WHOLE, tmp_path)
    (path,) = (tmp_path / "inputs").rglob("*.npz")
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[:100], whole[:300], whole[:-1], b"\0" * len(whole)):
        path.write_bytes(damaged)
        assert cache.load(path) is None
        np.testing.assert_array_equal(inputs.load(record, name, WHOLE, tmp_path).values, first.values)
        np.testing.assert_array_equal(cache.load(path).values, first.values)
    monkeypatch.setattr(sample, "load", None)
    np.testing.assert_array_equal(inputs.load(record, name, WHOLE, tmp_path).values, first.values)


def test_notes_are_summed_up_by_what_they_say(record):
    records = [dataclasses.replace(record, id=f"test/good/{i}") for i in range(4)]
    assert inputs.summarise(records, ["", "odd", "strange", "odd"]) == [
        "2 parts, the first bolt/test/good/1: odd",
        "bolt/test/good/2: strange",
    ]


def test_depth_is_brighter_where_nearer_and_black_where_unknown():
    xyz = plane()
    xyz[..., 2] = np.linspace(0.4, 0.6, xyz.shape[1])
    xyz[:6, :6] = 0
    image = inputs.prepare(part_of(xyz), DEPTH).values[1]
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[:4, :4] == 0).all()
    row = image[20, :, 0].astype(int)
    assert (np.diff(row) <= 0).all()
    assert row[0] > 245
    assert 1 <= row[-1] < 10


def test_resizing_depth_does_not_mix_in_unknown_points():
    depth = np.full((20, 20, 1), 0.5, np.float32)
    depth[:, :7] = 0
    resized = depth_images.resize(depth, (9, 9))
    assert set(np.unique(resized.round(6))) == {0.0, 0.5}
    assert not resized[:, :3].any()
    assert resized[:, 4:].all()


def test_depth_of_another_size_than_the_image_does_not_mix_in_unknown_points():
    xyz = plane()
    xyz[:, 16:, 2] = 0.6
    xyz[:, :7] = 0
    rgb = np.full((36, 48, 3), 90, np.uint8)
    image = inputs.prepare(Sample(rgb, xyz, None, np.zeros((36, 48), bool)), DEPTH).values[1, 14, :, 0]
    assert not image[:6].any()
    assert (image[7:13] == 255).all()
    assert (image[15:] == 1).all()


def test_the_supporting_plane_is_black_in_depth():
    image = inputs.prepare(part_of(block_on_plane()), Preparation(60, "depth")).values[1]
    assert image[21:39, 21:39].all()
    assert not image[:17].any()


def test_depth_needs_a_scan():
    field = np.zeros((12, 12, 3), np.float32)
    field[..., 2] = -1
    with pytest.raises(InputError, match="no scan to take depth from; take --geometry=normals --normals=native"):
        inputs.prepare(part_of(None, field), DEPTH)


@pytest.mark.parametrize("distance", [0.3, 0.7, 1.9])
def test_a_scan_of_one_depth_has_an_image_of_one_grey(distance):
    image = inputs.prepare(part_of(plane(distance)), DEPTH)
    assert (image.values[1][image.mask] > 0).all()
    xyz = plane(distance)
    xyz[:, ::5] = 0
    shown = inputs.prepare(part_of(xyz), DEPTH).values[1].astype(int)
    # Resizing rounds each value in its own way, which must not become contrast.
    assert (shown > 0).mean() > 0.5
    assert np.ptp(shown[shown > 0]) <= 1
