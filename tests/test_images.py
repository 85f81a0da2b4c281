"""Every file either gives what it holds or an InputError that names it and the remedy; no other exception escapes."""

import logging
import pathlib
import struct
import sys
import tracemalloc
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data import images
from pirn_jax.data.problems import InputError

READERS = (images.read_rgb, images.read_mask, images.read_size, images.read_xyz, images.read_depth)


@pytest.fixture(autouse=True)
def quiet():
    """Keeps what tifffile logs about damaged files out of the output."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.fixture
def points():
    xyz = np.random.default_rng(1).normal(size=(5, 7, 3)).astype(np.float32)
    xyz[1, 2] = 0.0
    return xyz


def save(path: pathlib.Path, array: np.ndarray, mode: str | None = None, **options) -> pathlib.Path:
    image = PIL.Image.fromarray(array)
    (image.convert(mode, palette=PIL.Image.Palette.ADAPTIVE) if mode else image).save(path, **options)
    return path


def png(array: np.ndarray, colour: int, packed: int = 1) -> bytes:
    """A PNG with as many bits a channel as the array's type, without Pillow, which writes no 16-bit RGB.

    With several pixels packed into each number, each has a share of the bits.
    """
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width * packed, height, 8 * array.itemsize // packed, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for row in array)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def assert_refused(read, path: pathlib.Path, *fragments: str) -> None:
    with pytest.raises(InputError) as error:
        read(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message, "no remedy"
    for fragment in fragments:
        assert fragment in message


def outcome(read, path: pathlib.Path):
    """What was read, or the message of the InputError; anything else escapes."""
    try:
        return read(path), None
    except InputError as error:
        return None, str(error)


def test_rgb_holds_what_was_saved(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(images.read_rgb(path), pixels)
    assert images.read_rgb(path).dtype == np.uint8
    assert images.read_size(path) == (5, 7)


def test_a_hand_written_8_bit_png_is_read(tmp_path, pixels):
    path = tmp_path / "a.png"
    path.write_bytes(png(pixels, colour=2))
    np.testing.assert_array_equal(images.read_rgb(path), pixels)


def test_a_jpeg_is_an_rgb_image(tmp_path):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    path = save(tmp_path / "a.jpg", flat, quality=95)
    assert np.abs(images.read_rgb(path).astype(int) - flat).max() <= 3
    assert images.read_size(path) == (16, 24)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_rgb_refuses_other_modes(tmp_path, pixels, mode):
    assert_refused(images.read_rgb, save(tmp_path / "a.png", pixels, mode), mode, "8-bit RGB without transparency")


def test_rgb_refuses_16_bits(tmp_path, pixels):
    colour, grey = tmp_path / "colour.png", tmp_path / "grey.png"
    colour.write_bytes(png(pixels.astype(np.uint16) * 257, colour=2))
    grey.write_bytes(png(pixels[..., 0].astype(np.uint16) * 257, colour=0))
    assert_refused(images.read_rgb, colour, "16-bit RGB", "8-bit RGB")
    assert_refused(images.read_rgb, grey, "16-bit", "8-bit RGB")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("content", [b"", b"x", b"This is a note, not an image.\n" * 40, b"\0" * 500])
def test_what_is_no_image_is_refused(tmp_path, read, content):
    path = tmp_path / "Prüfling 7.png"
    path.write_bytes(content)
    assert_refused(read, path, "not a readable", "export it again")


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_and_a_folder_are_refused(tmp_path, read):
    assert_refused(read, tmp_path / "none.png", "No such file")
    assert_refused(read, tmp_path, "directory")


@pytest.mark.parametrize(
    ("read", "suffix"), [(images.read_rgb, "png"), (images.read_rgb, "jpg"), (images.read_mask, "png")]
)
def test_every_truncation_of_an_image_is_refused_or_complete(tmp_path, pixels, read, suffix):
    path = save(tmp_path / f"a.{suffix}", pixels)
    whole, data = read(path), path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        result, message = outcome(read, path)
        if message is None:
            np.testing.assert_array_equal(result, whole)
        else:
            assert message.startswith(f"{path}: ")
    path.write_bytes(data[: len(data) // 2])
    assert_refused(read, path, "export it again")


def test_the_size_of_a_truncated_png_comes_from_its_header(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IDAT") + 4])
    assert images.read_size(path) == (5, 7)
    for length in range(33):
        path.write_bytes(data[:length])
        assert_refused(images.read_size, path)


def test_a_damaged_png_is_refused(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 0xFF
    path.write_bytes(data)
    assert_refused(images.read_rgb, path, "export it again")


def test_an_absurd_size_in_a_header_is_refused(tmp_path):
    header = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 10**6, 0, 0, 54, 40, 10**5, 10**5, 1, 24, 0, 0, 0, 0, 0, 0)
    path = tmp_path / "a.bmp"
    path.write_bytes(header + b"\0" * 100)
    for read in (images.read_rgb, images.read_mask, images.read_size):
        assert_refused(read, path, "not a readable image")


@pytest.mark.parametrize("value", [1, 128, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_any_value_above_zero_marks_a_mask(tmp_path, value, mode):
    marked = np.zeros((4, 6), bool)
    marked[1:3, 2] = True
    grey = np.where(marked, value, 0).astype(np.uint8)
    array = np.stack([grey] * 3, axis=-1)
    path = save(tmp_path / "a.png", array, mode)
    np.testing.assert_array_equal(images.read_mask(path), marked)


def test_masks_of_one_and_of_16_bits_and_with_an_index_are_read(tmp_path):
    marked = np.zeros((4, 6), bool)
    marked[2, 1:5] = True
    bits, deep, faint = tmp_path / "bits.png", tmp_path / "deep.png", tmp_path / "faint.png"
    save(bits, marked)
    deep.write_bytes(png(marked.astype(np.uint16), colour=0))
    save(faint, marked[..., None] * np.array([0, 0, 1], np.uint8))
    for path in (bits, deep, faint):
        np.testing.assert_array_equal(images.read_mask(path), marked)


def test_a_mask_that_lost_its_edges_as_a_jpeg_is_refused(tmp_path):
    PIL.Image.new("L", (8, 8)).save(tmp_path / "mask.png", format="JPEG")
    with pytest.raises(InputError, match=r"mask\.png: a JPEG, which blurs edges"):
        images.read_mask(tmp_path / "mask.png")


def test_transparency_marks_nothing(tmp_path):
    opaque_black = np.zeros((3, 3, 4), np.uint8)
    opaque_black[..., 3] = 255
    assert not images.read_mask(save(tmp_path / "a.png", opaque_black)).any()


@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"bigtiff": True}, {"metadata": None}, {"rowsperstrip": 2}],
)
def test_xyz_holds_what_was_saved(tmp_path, points, options):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, points, photometric="rgb", **options)
    xyz = images.read_xyz(path)
    np.testing.assert_array_equal(xyz, points)
    assert xyz.dtype == np.float32
    assert xyz.dtype.isnative


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, points, kind):
    tifffile.imwrite(tmp_path / "a.tiff", points.astype(kind), photometric="rgb")
    xyz = images.read_xyz(tmp_path / "a.tiff")
    assert xyz.dtype == np.float32
    np.testing.assert_allclose(xyz, points, atol=2e-3)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "zlib", "rowsperstrip": 2}])
def test_every_truncation_of_a_scan_is_refused(tmp_path, points, options):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, points, photometric="rgb", **options)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert_refused(images.read_xyz, path, "export it again")


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 4), (2, 5, 7, 3)])
def test_scans_of_another_shape_are_refused(tmp_path, shape):
    tifffile.imwrite(tmp_path / "a.tiff", np.ones(shape, np.float32), photometric="minisblack")
    assert_refused(images.read_xyz, tmp_path / "a.tiff", str(shape[0]), "(height, width, 3)")


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_scans_of_integers_are_refused(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tiff", np.ones((5, 7, 3), kind), photometric="rgb")
    assert_refused(images.read_xyz, tmp_path / "a.tiff", np.dtype(kind).name, "float32")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channel", [0, 2, slice(3)])
def test_points_that_are_not_finite_are_counted_and_refused(tmp_path, points, value, channel):
    points[0, 3:5, channel] = value
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    assert_refused(images.read_xyz, tmp_path / "a.tiff", "2 points", "(0, 0, 0)")


def test_a_scan_of_nothing_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tiff", np.zeros((5, 7, 3), np.float32), photometric="rgb")
    assert_refused(images.read_xyz, tmp_path / "a.tiff", "no point was seen", "scan it again")


def test_a_png_under_the_name_of_a_scan_is_refused(tmp_path, pixels):
    path = save(tmp_path / "a.png", pixels).rename(tmp_path / "a.tiff")
    assert_refused(images.read_xyz, path, "not a readable TIFF")


def tiff(claimed: tuple[int, int], present: bytes) -> bytes:
    """A plain float32 TIFF of one channel, by hand: its header may claim more rows and columns than there are."""
    height, width = claimed
    entries = (256, width), (257, height), (258, 32), (259, 1), (262, 1), (273, 200), (277, 1), (278, height), (339, 3)
    size = (279, 4 * width * height)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted((*entries, size)))
    header = struct.pack("<2sHIH", b"II", 42, 8, len(entries) + 1) + directory
    return header.ljust(200, b"\0") + present


def test_a_tiff_that_claims_more_than_it_has_takes_no_memory(tmp_path):
    values = np.arange(12, dtype="<f4").reshape(3, 4)
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff((3, 4), values.tobytes()))
    np.testing.assert_array_equal(images.read_depth(path), values)
    tracemalloc.start()
    for claimed, fragment in (
        ((3, 5), "60 bytes"),
        ((8192, 8192), "268,435,456 bytes are claimed"),
        ((16384, 32767), "claims 536,854,528 numbers"),
    ):
        path.write_bytes(tiff(claimed, values.tobytes()).ljust(248, b"\0"))
        assert_refused(images.read_depth, path, fragment, "export it again")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_depth_from_a_png_keeps_the_numbers_of_the_file(tmp_path, kind):
    values = np.array([[0, 1, 2], [np.iinfo(kind).max, 130, 90]], kind)
    path = tmp_path / "a.png"
    path.write_bytes(png(values, colour=0))
    depth = images.read_depth(path)
    np.testing.assert_array_equal(depth, values)
    assert depth.dtype == np.float32


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["tiff", "TIF", "npy"])
def test_depth_from_a_tiff_or_npy_keeps_the_numbers_of_the_file(tmp_path, kind, suffix):
    values = np.array([[0, 1, 2], [1500, 130, 90]], kind)
    path = tmp_path / f"a.{suffix}"
    np.save(path, values) if suffix == "npy" else tifffile.imwrite(path, values)
    depth = images.read_depth(path)
    np.testing.assert_array_equal(depth, values)
    assert depth.dtype == np.float32


def test_holes_in_depth_stay_what_they_are(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[np.nan, np.inf, 1e300]]))
    np.testing.assert_array_equal(images.read_depth(tmp_path / "a.npy"), [[np.nan, np.inf, np.inf]])


@pytest.mark.parametrize("mode", ["RGB", "LA", "P", "1"])
def test_depth_in_colours_is_refused(tmp_path, pixels, mode):
    assert_refused(images.read_depth, save(tmp_path / "a.png", pixels, mode), f"bit {mode} image", "16-bit greyscale")


@pytest.mark.parametrize("packed", [2, 4])
def test_depth_of_fewer_than_8_bits_is_refused(tmp_path, packed):
    path = tmp_path / "a.png"
    path.write_bytes(png(np.array([[0x12], [0x34]], np.uint8), colour=0, packed=packed))
    assert images.read_size(path) == (2, packed)
    assert_refused(images.read_depth, path, f"{8 // packed}-bit L image", "16-bit greyscale")


def test_depth_as_a_jpeg_under_the_name_of_a_png_is_refused(tmp_path, pixels):
    path = save(tmp_path / "a.jpg", pixels[..., 0]).rename(tmp_path / "a.png")
    assert_refused(images.read_depth, path, "JPEG", "16-bit greyscale")


@pytest.mark.parametrize("array", [np.ones((2, 3, 3)), np.ones(4), np.ones((0, 3)), np.array([["a"]]), np.eye(2) > 0])
def test_depth_of_another_shape_or_type_is_refused(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    assert_refused(images.read_depth, tmp_path / "a.npy")


def test_an_npy_with_objects_an_archive_and_every_truncation_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[{}]]), allow_pickle=True)
    assert_refused(images.read_depth, path, "not a readable NPY")
    np.savez(tmp_path / "a.npz", np.ones((2, 2)))
    assert_refused(images.read_depth, (tmp_path / "a.npz").rename(path), "not a readable NPY")
    np.save(path, np.ones((3, 4)))
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert_refused(images.read_depth, path, "export it again")
    for claimed in (b"(30000, 40000)", b"(4294967296, 4294967296)", b"(-3, 4)"):
        path.write_bytes(data.replace(b"(3, 4), }" + b" " * (len(claimed) - 6), claimed + b", }"))
        assert path.stat().st_size == len(data)
        assert_refused(images.read_depth, path, "not a readable NPY")


def exr(path: pathlib.Path, channels: dict[str, np.ndarray]) -> pathlib.Path:
    openexr = pytest.importorskip("OpenEXR")
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with openexr.File(header, channels) as file:
        file.write(str(path))
    return path


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.uint32])
@pytest.mark.parametrize("others", [(), ("R", "G", "B")])
def test_depth_is_the_channel_z_of_an_exr(tmp_path, kind, others):
    values = np.array([[0, 0.5, 2], [1500, 130, 90]]).astype(kind)
    path = exr(tmp_path / "a.exr", {"Z": values} | dict.fromkeys(others, values + 1))
    np.testing.assert_array_equal(images.read_depth(path), values)


def test_the_only_channel_of_an_exr_is_depth_and_several_without_z_are_refused(tmp_path):
    values = np.array([[0.25, 0.5, 2]], np.float32)
    for name in ("Y", "R", "distance"):
        np.testing.assert_array_equal(images.read_depth(exr(tmp_path / "a.exr", {name: values})), values)
    assert_refused(images.read_depth, exr(tmp_path / "b.exr", dict.fromkeys("RGB", values)), "B, G, R", "name depth Z")


def test_every_truncation_of_an_exr_is_refused(tmp_path):
    path = exr(tmp_path / "a.exr", {"Z": np.arange(35, dtype=np.float32).reshape(5, 7)})
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert_refused(images.read_depth, path, "not a readable EXR", "export it again")


def test_an_exr_that_claims_gigabytes_is_refused(tmp_path):
    path = exr(tmp_path / "a.exr", {"Z": np.ones((5, 7), np.float32)})
    data = path.read_bytes()
    window = struct.pack("<4i", 0, 0, 6, 4)
    assert data.count(window) == 2
    path.write_bytes(data.replace(window, struct.pack("<4i", 0, 0, 49_999, 29_999)))
    assert_refused(images.read_depth, path, "claims 1,500,000,000 numbers")


def test_an_exr_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    (tmp_path / "a.exr").write_bytes(b"anything")
    assert_refused(images.read_depth, tmp_path / "a.exr", 'pip install "pirn_jax[exr]"')


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(
    damage=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4),
    which=st.sampled_from(["raw.tiff", "zlib.tiff", "a.png", "a.jpg", "a.bmp", "depth.png", "depth.npy"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_raise_nothing_else(originals, damage, which):
    folder, contents = originals
    data = bytearray(contents[which])
    for place, value in damage:
        data[place % len(data)] = value
    path = folder / f"damaged_{which}"
    path.write_bytes(data)
    for read in READERS:
        _, message = outcome(read, path)
        assert message is None or message.startswith(f"{path}: ")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Small whole files, as bytes."""
    folder = tmp_path_factory.mktemp("originals")
    rng = np.random.default_rng(2)
    tifffile.imwrite(folder / "raw.tiff", rng.normal(size=(5, 7, 3)).astype(np.float32), photometric="rgb")
    tifffile.imwrite(folder / "zlib.tiff", np.ones((5, 7, 3), np.float32), photometric="rgb", compression="zlib")
    save(folder / "depth.png", np.arange(35, dtype=np.uint16).reshape(5, 7))
    np.save(folder / "depth.npy", np.ones((5, 7), np.float32))
    for name in ("a.png", "a.jpg", "a.bmp"):
        save(folder / name, rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_viewers_turn_is_refused(tmp_path, suffix):
    path = tmp_path / f"turned{suffix}"
    exif = PIL.Image.Exif()
    for orientation in (1, 6):
        exif[274] = orientation
        PIL.Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path, exif=exif)
        if orientation == 1:
            assert images.read_rgb(path).shape == (4, 6, 3)
    assert_refused(images.read_rgb, path, "EXIF orientation 6")


def test_a_tiff_of_several_images_is_refused(tmp_path):
    path = tmp_path / "two.tiff"
    with tifffile.TiffWriter(path) as file:
        for size in (4, 5):
            file.write(np.ones((size, 6, 3), np.float32), photometric="rgb")
    assert_refused(images.read_xyz, path, "2 images in it, not one")


def test_points_beyond_all_bounds_are_refused(tmp_path):
    path = tmp_path / "far.tiff"
    xyz = np.ones((4, 6, 3), np.float32)
    xyz[1, 2, 0] = -1e30
    tifffile.imwrite(path, xyz, photometric="rgb")
    assert_refused(images.read_xyz, path, "1e+30")
