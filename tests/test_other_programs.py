"""Files as other programs write them: read, or told in a sentence with the real cause."""

import io
import zipfile

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data import clouds, eyecandies, folder, images, maps, sample, settings
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.scans import Depth, Intrinsics
from pirn_jax.geometry import plausibility

HEIGHT, WIDTH = 12, 16


def grid():
    """Points of a tilted plane in the camera frame, (h, w, 3) float32 in metres."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] / 100
    return np.stack([columns, rows, 0.5 + 0.1 * rows], axis=-1).astype(np.float32)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_turns_nothing_is_no_fault(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    PIL.Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert images.read_rgb(tmp_path / "a.jpg").shape == (8, 8, 3)


@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_an_orientation_that_turns_is_refused(tmp_path, orientation):
    exif = PIL.Image.Exif()
    exif[274] = orientation
    PIL.Image.fromarray(np.full((8, 8, 3), 100, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(InputError, match=f"viewers turn it, by its EXIF orientation {orientation}"):
        images.read_rgb(tmp_path / "a.jpg")


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'compression'"), ValueError("imagecodecs")])
def test_a_missing_decoder_is_told_with_the_package(tmp_path, monkeypatch, error):
    tifffile.imwrite(tmp_path / "a.tiff", grid(), photometric="rgb")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tifffile.TiffFile, "asarray", fail)
    monkeypatch.setattr(tifffile, "imread", fail)
    for read in (images.read_xyz, images.read_depth, maps.read):
        with pytest.raises(InputError, match=r"needs the package imagecodecs\); pip install .*codecs.*uncompressed"):
            read(tmp_path / "a.tiff")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS in place of"),
        (b"<!DOCTYPE html><html></html>", "a web page, probably"),
        (b"\n <html>", "a web page, probably"),
    ],
)
def test_what_lies_under_the_name_of_a_file_is_told(tmp_path, content, told):
    readers = {"a.png": images.read_rgb, "b.png": images.read_mask, "c.tiff": images.read_xyz, "d.npy": maps.read}
    readers |= {"e.ply": clouds.read, "f.pcd": clouds.read, "g.png": images.read_depth, "h.npy": images.read_depth}
    for name, read in readers.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=told):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "spelling", ["nan", "-nan(ind)", "1.#QNAN", "-1.#IND", "1.#INF00", "-1.#INF", "nan(snan)", "-inf"]
)
@pytest.mark.parametrize("kind", ["ply", "pcd"])
def test_numbers_that_are_none_are_holes_however_they_are_spelled(tmp_path, spelling, kind):
    lines = [" ".join(map(str, point)) for point in grid().reshape(-1, 3)]
    lines[5] = f"{spelling} {spelling} {spelling}"
    if kind == "ply":
        head = ["ply", "format ascii 1.0", f"element vertex {len(lines)}"]
        head += [*(f"property float {name}" for name in "xyz"), "end_header"]
    else:
        head = ["VERSION .7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "COUNT 1 1 1"]
        head += [f"WIDTH {WIDTH}", f"HEIGHT {HEIGHT}", f"POINTS {len(lines)}", "DATA ascii"]
    path = tmp_path / f"a.{kind}"
    path.write_text("\n".join([*head, *lines, ""]))
    PIL.Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    found = clouds.read(path, nan_is_unseen=True, like=tmp_path / "a.png")
    np.testing.assert_array_equal(found[0, 5], 0)
    np.testing.assert_allclose(found[1:], grid()[1:], rtol=1e-6)


HEADERS = {
    "lower case": ["FIELDS x y z", "SIZE 4 4 4", "TYPE f f f", "COUNT 1 1 1", "WIDTH 16", "HEIGHT 12"],
    "COLUMNS": ["COLUMNS x y z", "SIZE 4 4 4", "TYPE F F F", "POINTS 192"],
    "no types": ["FIELDS x y z", "POINTS 192"],
}


@pytest.mark.parametrize("name", HEADERS)
def test_older_headers_of_pcd_are_read(tmp_path, name):
    head = "\n".join([*HEADERS[name], "DATA binary", ""]).encode()
    (tmp_path / "a.pcd").write_bytes(head + grid().tobytes())
    PIL.Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(clouds.read(tmp_path / "a.pcd", like=tmp_path / "a.png"), grid())


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (["FIELDS x y z"], "lacks WIDTH and HEIGHT, and POINTS too"),
        (["FIELDS x y z", "SIZE 4 4", "POINTS 192"], "names 3 fields, and SIZE has 2 values"),
        (["FIELDS x y z", "TYPE Q F F", "POINTS 192"], "fields of TYPE Q, not F, I or U"),
        (["FIELDS x y z", "POINTS many"], "says POINTS many"),
    ],
)
def test_what_a_header_of_pcd_lacks_is_told(tmp_path, head, told):
    (tmp_path / "a.pcd").write_bytes("\n".join([*head, "DATA binary", ""]).encode() + grid().tobytes())
    with pytest.raises(InputError, match=told):
        clouds.read(tmp_path / "a.pcd")


def test_images_of_other_formats_are_named(tmp_path):
    for kind in ("rgb", "xyz"):
        (tmp_path / "good" / kind).mkdir(parents=True)
    for name in ("000.bmp", "001.bmp"):
        PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "good" / "rgb" / name)
    problems = Problems()
    folder.read(tmp_path, problems=problems)
    assert "000.bmp and 1 more: neither PNG nor JPEG" in problems.found[0]


FRAMES = {
    "channels reversed": (lambda xyz: xyz[..., ::-1], "x does not rise from column to column"),
    "y up": (lambda xyz: xyz * np.float32([1, -1, 1]), "y falls from row to row"),
    "towards the camera": (lambda xyz: xyz * np.float32([1, -1, -1]), "z points at the camera"),
    "column by column": (lambda xyz: xyz.swapaxes(0, 1).reshape(xyz.shape), "does not rise"),
    "mirrored": (lambda xyz: xyz[:, ::-1], "x falls from column to column"),
}


@pytest.mark.parametrize("name", FRAMES)
def test_points_in_another_frame_or_order_are_noted(name):
    change, told = FRAMES[name]
    xyz = grid() - np.float32([0.08, 0.06, 0])
    assert plausibility.scan_note(xyz) == ""
    assert told in plausibility.scan_note(np.ascontiguousarray(change(xyz)))


def test_a_far_value_in_place_of_holes_is_noted_and_one_far_point_is_not():
    xyz = grid()
    xyz[3:5, 4:9, 2] = 65.535
    assert "5% of its points lie at one depth, 65.535 m, far behind the rest" in plausibility.scan_note(xyz)
    single = grid()
    single[0, 0, 2] = 65.535
    assert "far behind" not in plausibility.scan_note(single)


@pytest.mark.parametrize("depth", [0.0, -1.0, -9999.0])
def test_a_depth_that_no_camera_sees_in_place_of_holes_is_noted(depth):
    xyz = grid()
    xyz[3:5, 4:9, 2] = depth
    note = plausibility.scan_note(xyz)
    assert f"5% of its points lie at one depth, {depth:g} m, far before the rest; write (0, 0, 0)" in note


def test_of_a_single_point_there_is_nothing_to_say():
    xyz = np.zeros((6, 8, 3), np.float32)
    xyz[2, 3] = 0.1, 0.1, 0.5
    assert "all its points have one x or one y" in plausibility.scan_note(xyz)
    assert plausibility._frame_note(xyz, xyz.any(-1)) == ""


def test_a_plane_that_heights_are_measured_from_is_not_far():
    heights = grid()
    heights[..., 2] = 0.0
    heights[3:5, 4:9, 2] = 0.02
    assert "far" not in plausibility.scan_note(heights)


def test_depths_beyond_all_measure_are_refused(tmp_path):
    depth = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    depth[0] = 1e10
    np.save(tmp_path / "a.npy", depth)
    with pytest.raises(InputError, match=r"depths up to 1e\+10; write 0 where nothing was seen"):
        Depth(tmp_path / "a.npy", Intrinsics(20.0, 20.0)).read()


@pytest.mark.parametrize(("share", "noted"), [(0.02, False), (0.6, False), (0.98, True)])
def test_a_mask_that_marks_most_of_an_image_is_noted(share, noted):
    assert ("it may be inverted" in sample.mask_note(share)) == noted


def test_a_program_in_place_of_weights_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    from tools import public_files

    del torch
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/code/__torch__.py", b"")
    (tmp_path / "a.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="is a TorchScript program, not tensors"):
        public_files.read(tmp_path / "a.pt")


def laughs(depth: int) -> str:
    """YAML whose aliases stand for ten to the power of `depth` numbers."""
    lines = ["a0: &a0 [1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join([*lines, f"normalization: [*a{depth - 1}]"])


@pytest.mark.parametrize(
    "text", [laughs(12), "normalization: !!int ''", "normalization: !!timestamp x", "[" * 5000, "a: !!python/none x"]
)
def test_texts_that_mean_more_than_they_hold_are_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match="not readable YAML"):
        eyecandies._read_yaml(tmp_path / "a.yaml")
    (tmp_path / settings.NAME).write_text("a = " + "[" * 5000)
    with pytest.raises(InputError, match="not TOML"):
        settings.read(tmp_path / settings.NAME)


@pytest.mark.parametrize(
    ("kind", "name"), [("BMP", "BMP"), ("TIFF", "TIFF"), ("EPS", "PostScript file"), ("GIF", "GIF")]
)
def test_only_png_and_jpeg_are_decoded_whatever_the_name(tmp_path, kind, name):
    """EPS would start Ghostscript."""
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a", kind)
    for read, end in ((images.read_rgb, "a.png"), (images.read_mask, "b.png"), (images.read_size, "c.jpg")):
        (tmp_path / end).write_bytes((tmp_path / "a").read_bytes())
        with pytest.raises(InputError, match=rf"not a readable image \(it is a {name}\); save it as PNG or JPEG"):
            read(tmp_path / end)


def test_a_tiff_that_names_another_file_reads_none(tmp_path):
    tifffile.imwrite(tmp_path / "other.ome.tiff", grid()[..., 0], metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "a.ome.tiff", grid()[..., 0], metadata={"axes": "YX"})
    data = (tmp_path / "a.ome.tiff").read_bytes()
    (tmp_path / "a.tiff").write_bytes(data.replace(b"a.ome.tiff", b"other.tiff"))
    np.testing.assert_array_equal(images.read_depth(tmp_path / "a.tiff"), grid()[..., 0])


def test_a_map_that_claims_gigabytes_is_refused(tmp_path, monkeypatch):
    """Packed zeros take a thousandth of what they claim; the bound is lowered here, to claim less."""
    monkeypatch.setattr(images, "MOST_VALUES", 100_000)
    np.savez_compressed(tmp_path / "a.npz", map=np.zeros((1000, 1000)))
    with pytest.raises(InputError, match="claims 1,000,016 numbers"):
        maps.read(tmp_path / "a.npz")


def test_a_damaged_exif_is_a_damaged_image(tmp_path, monkeypatch):
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")

    def fail(self):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(PIL.Image.Image, "getexif", fail)
    with pytest.raises(InputError, match="not a readable image"):
        images.read_rgb(tmp_path / "a.png")
