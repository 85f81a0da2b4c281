"""Organised clouds: what others write is read, and what is damaged or has no grid is refused in words."""

import contextlib
import pathlib
import struct
import tracemalloc

import hypothesis
import hypothesis.strategies as st
import numpy as np
import PIL.Image
import pytest

from pirn_jax.data import clouds
from pirn_jax.data.problems import InputError

HEIGHT, WIDTH = 3, 4
PLY_TYPES = {"f4": "float", "f8": "double", "u1": "uchar", "i2": "int16", "u4": "uint32"}


@pytest.fixture
def points() -> np.ndarray:
    """Points (3, 4, 3) that float32 holds exactly, one of them not seen."""
    xyz = np.random.default_rng(0).integers(-4000, 4000, (HEIGHT, WIDTH, 3)) / np.float32(8)
    xyz[1, 2] = np.nan
    return xyz.astype(np.float32)


def holes_zero(points: np.ndarray) -> np.ndarray:
    return np.nan_to_num(points, nan=0.0)


def ply(points: np.ndarray, form="binary_little_endian", kinds=("f4", "f4", "f4"), notes=(), extra=(), end="\n"):
    """Bytes of a PLY, with `extra` fields of (name, type) before the coordinates."""
    fields = [*extra, *zip("xyz", kinds, strict=True)]
    header = ["ply", f"format {form} 1.0", *notes, f"element vertex {points.size // 3}"]
    header += [f"property {PLY_TYPES[kind]} {name}" for name, kind in fields]
    header += ["element face 0", "property list uchar int vertex_indices", "end_header", ""]
    return end.join(header).encode() + rows(points, fields, form, end)


def rows(points: np.ndarray, fields, form: str, end: str = "\n") -> bytes:
    flat = points.reshape(-1, 3)
    order = ">" if "big" in form else "<"
    table = np.zeros(len(flat), [(name, order + kind) for name, kind in fields])
    for name, _ in fields:
        table[name] = flat[:, "xyz".index(name)] if name in "xyz" else np.arange(len(flat)) % 7
    if form != "ascii":
        return table.tobytes()
    return "".join(" ".join(repr(value) for value in row) + end for row in table.tolist()).encode()


def pcd(points: np.ndarray, form="binary", size=(HEIGHT, WIDTH), fields=(("x", "f4"), ("y", "f4"), ("z", "f4"))):
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(name for name, _ in fields),
        "SIZE " + " ".join(kind[1] for _, kind in fields),
        "TYPE " + " ".join(kind[0].upper() for _, kind in fields),
        "COUNT " + " ".join("1" for _ in fields),
        f"WIDTH {size[1]}",
        f"HEIGHT {size[0]}",
        "VIEWPOINT 1 2 3 0 1 0 0",
        f"POINTS {points.size // 3}",
        f"DATA {form}",
        "",
    ]
    return "\n".join(header).encode() + rows(points, fields, form)


def written(path: pathlib.Path, content: bytes) -> pathlib.Path:
    path.write_bytes(content)
    return path


def assert_refused(path: pathlib.Path, *fragments: str, like: pathlib.Path | None = None) -> None:
    with pytest.raises(InputError) as error:
        clouds.read(path, nan_is_unseen=True, like=like)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "; " in message, "no remedy"
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kinds", [("f4", "f4", "f4"), ("f8", "f4", "f8")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_ply_holds_what_was_written(tmp_path, points, form, kinds, end):
    notes = (f"obj_info num_cols {WIDTH}", f"obj_info num_rows {HEIGHT}", "comment element vertex 5")
    extra = (("red", "u1"), ("quality", "i2"))
    path = written(tmp_path / "a.ply", ply(points, form, kinds, notes, extra, end))
    xyz = clouds.read(path, nan_is_unseen=True)
    assert xyz.dtype == np.float32
    assert xyz.dtype.isnative
    np.testing.assert_array_equal(xyz, holes_zero(points))


@pytest.mark.parametrize(
    "notes",
    [
        (f"comment width {WIDTH}", f"comment height {HEIGHT}"),
        (f"comment Width: {WIDTH}", f"comment Height: {HEIGHT}"),
        (f"obj_info num_cols = {WIDTH}", f"obj_info num_rows = {HEIGHT}"),
    ],
)
def test_scanners_note_rows_and_columns_in_several_ways(tmp_path, points, notes):
    path = written(tmp_path / "a.ply", ply(points, notes=notes))
    np.testing.assert_array_equal(clouds.read(path, nan_is_unseen=True), holes_zero(points))


@pytest.mark.parametrize("form", ["ascii", "binary"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_pcd_holds_what_was_written_in_any_order_of_fields(tmp_path, points, form, kind):
    fields = (("rgb", "u4"), ("z", kind), ("label", "i2"), ("x", "f4"), ("y", kind))
    path = written(tmp_path / "a.pcd", pcd(points, form, fields=fields))
    xyz = clouds.read(path, nan_is_unseen=True)
    assert xyz.dtype == np.float32
    np.testing.assert_array_equal(xyz, holes_zero(points))


def test_fields_of_several_numbers_are_stepped_over(tmp_path):
    header = (
        "VERSION .7\nFIELDS normal x y z _\nSIZE 4 4 4 4 1\nTYPE F F F F U\nCOUNT 3 1 1 1 4\nWIDTH 2\nHEIGHT 2\nDATA "
    )
    expected = np.arange(1, 13).reshape(4, 3)
    normal, pad = (9.0, 8.0, 7.0), (255, 254, 253, 252)
    binary = b"".join(struct.pack("<6f4B", *normal, *point, *pad) for point in expected)
    text = "".join(" ".join(map(str, (*normal, *point, *pad))) + "\n" for point in expected).encode()
    columns = [normal * 4, *expected.T, pad * 4]
    planes = b"".join(struct.pack(f"<{len(c)}{'B' if i == 4 else 'f'}", *c) for i, c in enumerate(columns))
    packed = b"".join(bytes([len(planes[i : i + 32]) - 1]) + planes[i : i + 32] for i in range(0, len(planes), 32))
    for form, body in (
        ("binary", binary),
        ("ascii", text),
        ("binary_compressed", struct.pack("<II", len(packed), len(planes)) + packed),
    ):
        path = written(tmp_path / f"{form}.pcd", f"{header}{form}\n".encode() + body)
        np.testing.assert_array_equal(clouds.read(path), expected.reshape(2, 2, 3))


def test_copies_in_a_compressed_pcd_repeat_what_went_before(tmp_path):
    # LZF by hand. A control byte below 32 announces new bytes; 7 << 5 a copy of 9 bytes and as many as the next byte
    # says, from as far back as the one after it says, plus one.
    packed = b"".join(
        [
            b"\x01\0\0" + bytes([7 << 5, 46 - 9, 0]),  # x: 2 new bytes, 46 copies of the last one
            b"\x03" + struct.pack("<f", 1.0) + bytes([7 << 5, 44 - 9, 3]),  # y: 4 new bytes, repeated 11 times
            bytes([7 << 5, 48 - 9, 3]),  # z: the same again
        ]
    )
    zeros_then_ones = np.repeat([0, 1, 1], 12)
    header = b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 4\nHEIGHT 3\nDATA binary_compressed\n"
    content = header + struct.pack("<II", len(packed), 144) + packed
    xyz = clouds.read(written(tmp_path / "a.pcd", content))
    np.testing.assert_array_equal(xyz, zeros_then_ones.reshape(3, 3, 4).transpose(1, 2, 0))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("suffix", ["ply", "pcd"])
def test_what_open3d_writes_is_read_with_the_size_of_the_image(tmp_path, suffix, text, compressed):
    open3d = pytest.importorskip("open3d")
    points = (np.random.default_rng(1).integers(0, 50, (40, 60, 3)) / 4).astype(np.float32)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.reshape(-1, 3).astype(float)))
    cloud.colors = open3d.utility.Vector3dVector(np.full((2400, 3), 0.5))
    path = tmp_path / f"a.{suffix}"
    assert open3d.io.write_point_cloud(str(path), cloud, write_ascii=text, compressed=compressed)
    like = tmp_path / "a.png"
    PIL.Image.new("RGB", (60, 40)).save(like)
    np.testing.assert_allclose(clouds.read(path, like=like), points, rtol=1e-6)
    assert_refused(path, "2400 points", "organised")
    if suffix == "pcd":
        path.write_bytes(path.read_bytes().replace(b"WIDTH 2400\nHEIGHT 1\n", b"WIDTH 60\nHEIGHT 40\n"))
        np.testing.assert_allclose(clouds.read(path), points, rtol=1e-6)


def test_nan_is_refused_unless_it_stands_for_a_hole(tmp_path, points):
    path = written(tmp_path / "a.pcd", pcd(points))
    with pytest.raises(InputError, match="1 points are NaN"):
        clouds.read(path)


def test_a_cloud_of_nothing_is_refused(tmp_path, points):
    for i, value in enumerate((np.nan, 0.0)):
        assert_refused(written(tmp_path / f"{i}.pcd", pcd(np.full_like(points, value))), "no point was seen")


@pytest.mark.parametrize("suffix", ["ply", "pcd"])
def test_a_cloud_without_a_grid_is_refused_with_what_to_export(tmp_path, points, suffix):
    content = ply(points) if suffix == "ply" else pcd(points, size=(1, 12))
    path = written(tmp_path / f"a.{suffix}", content)
    assert_refused(path, "12 points", "row by row")
    like = tmp_path / "a.png"
    PIL.Image.new("RGB", (4, 4)).save(like)
    assert_refused(path, "12 points, not a grid of 4x4", "row by row", like=like)


def test_rows_and_columns_that_do_not_match_the_points_do_not_count(tmp_path, points):
    path = written(tmp_path / "a.ply", ply(points, notes=("obj_info num_cols 5", "obj_info num_rows 5")))
    assert_refused(path, "12 points, not a grid of 5x5")
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    assert clouds.read(path, True, tmp_path / "a.png").shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        (b"format binary_little_endian 1.0", b"format binary_little_endian 2.0", "2.0 is unknown"),
        (b"property float y", b"property float v", "no y"),
        (b"property float y", b"property float x", "no x, y"),
        (b"property float y", b"property float128 y", "float128"),
        (b"property float x", b"property list uchar int x", "lists"),
        (b"element vertex", b"element camera 1\nelement vertex", "do not come first"),
        (b"element vertex 12", b"element vertex 0", "claims 0 points"),
        (b"element vertex 12", b"element vertex -4", "says element vertex -4"),
        (b"element vertex 12", b"element vertex many", "many"),
        (b"element vertex 12", b"element vertex 13", "156 bytes of points are claimed, 144 are there"),
        (b"element vertex 12", b"element vertex 40000000", "480,000,000 bytes of points are claimed"),
        (b"element vertex 12", b"element vertex 200000000000", "claims 200,000,000,000 points"),
    ],
)
def test_a_ply_with_an_unusable_header_is_refused(tmp_path, points, old, new, fragment):
    content = ply(points)
    assert old in content
    assert_refused(written(tmp_path / "a.ply", content.replace(old, new)), "not a readable PLY", fragment)


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        (b"DATA binary", b"DATA zipped", "DATA zipped is unknown"),
        (b"FIELDS x y z", b"FIELDS x y w", "no z"),
        (b"FIELDS x y z", b"FIELDS x y", "names 2 fields, and TYPE has 3 values"),
        (b"TYPE F F F", b"TYPE F Q F", "Q"),
        (b"SIZE 4 4 4", b"SIZE 4 3 4", "f3"),
        (b"COUNT 1 1 1", b"COUNT 1 3 1", "3 numbers for y"),
        (b"WIDTH 4", b"WIDTH -4", "says WIDTH -4"),
        (b"WIDTH 4", b"WIDTH 5", "180 bytes of points are claimed, 144 are there"),
        (b"WIDTH 4", b"WIDTH 10000000", "360,000,000 bytes of points are claimed"),
        (b"WIDTH 4", b"WIDTH 99999999999", "claims 299,999,999,997 points"),
    ],
)
def test_a_pcd_with_an_unusable_header_is_refused(tmp_path, points, old, new, fragment):
    content = pcd(points)
    assert old in content
    assert_refused(written(tmp_path / "a.pcd", content.replace(old, new)), "not a readable PCD", fragment)


@pytest.mark.parametrize(
    ("packed", "unpacked", "fragment"),
    [
        (b"\x01\0\0" + bytes([7 << 5, 141 - 9, 0]), 144, "144 bytes were claimed, 143 came out"),
        (b"\x01\0\0" + bytes([7 << 5, 144 - 9, 0]), 144, "144 bytes were claimed, 146 came out"),
        (b"\x01\0\0" + bytes([7 << 5, 142 - 9, 9]), 144, "before the first byte"),
        (b"\x01\0\0" + bytes([7 << 5, 143 - 9, 0]), 145, "145 bytes of points are packed, 144 are claimed"),
        (b"\x01\0\0" + bytes([7 << 5]), 144, "end within a copy"),
        (b"\x01\0\0" + bytes([7 << 5, 255, 0]) * 400_000, 144, "came out"),
    ],
)
def test_a_compressed_pcd_whose_bytes_do_not_add_up_is_refused(tmp_path, packed, unpacked, fragment):
    header = b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 4\nHEIGHT 3\nDATA binary_compressed\n"
    path = written(tmp_path / "a.pcd", header + struct.pack("<II", len(packed), unpacked) + packed)
    tracemalloc.start()
    assert_refused(path, "not a readable PCD", fragment)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


def test_rows_and_columns_of_the_file_count_before_those_of_the_image(tmp_path, points):
    path = written(tmp_path / "a.pcd", pcd(points))
    PIL.Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "a.png")
    assert clouds.read(path, True, tmp_path / "a.png").shape == (HEIGHT, WIDTH, 3)


def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path):
    header = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 9000\nHEIGHT 9000\nDATA "
    bodies = {
        "binary": b"",
        "ascii": b"1 2 3\n" * 4,
        "binary_compressed": struct.pack("<II", 40, 12 * 81_000_000) + bytes([0, 0] * 20),
    }
    tracemalloc.start()
    for form, body in bodies.items():
        assert_refused(written(tmp_path / f"{form}.pcd", f"{header}{form}\n".encode() + body), "claim")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7


@pytest.mark.parametrize("suffix", ["ply", "pcd"])
def test_empty_missing_and_foreign_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"Prüfling 7.{suffix}"
    assert_refused(path, "No such file")
    for content in (b"", b"ply\n", b"This is a note, not a cloud.\n" * 40, b"\0" * 500):
        assert_refused(written(path, content), "not a readable", "export it again")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[pathlib.Path, dict[str, bytes]]:
    """Small whole files of each kind, as bytes by name."""
    points = np.arange(36, dtype=np.float32).reshape(HEIGHT, WIDTH, 3) + 1
    notes = (f"obj_info num_cols {WIDTH}", f"obj_info num_rows {HEIGHT}")
    packed = b"".join(b"\x1f" + points.reshape(-1, 3).T.tobytes()[i : i + 32] for i in range(0, 128, 32))
    packed += b"\x0f" + points.reshape(-1, 3).T.tobytes()[128:]
    compressed = pcd(points, "binary_compressed")[: -points.nbytes] + struct.pack("<II", len(packed), 144) + packed
    contents = {
        "text.ply": ply(points, "ascii", notes=notes),
        "binary.ply": ply(points, notes=notes),
        "text.pcd": pcd(points, "ascii"),
        "binary.pcd": pcd(points),
        "compressed.pcd": compressed,
    }
    folder = tmp_path_factory.mktemp("whole")
    for name, content in contents.items():
        np.testing.assert_array_equal(clouds.read(written(folder / name, content)), points)
    return folder, contents


@pytest.mark.parametrize("name", ["text.ply", "binary.ply", "text.pcd", "binary.pcd", "compressed.pcd"])
def test_every_truncation_is_refused(whole, name):
    folder, contents = whole
    content = contents[name]
    # The last number of a text may lose digits unseen.
    for length in range(content.rindex(b" ") if "text" in name else len(content)):
        assert_refused(written(folder / f"cut_{name}", content[:length]), "export it again")


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(
    which=st.sampled_from(["text.ply", "binary.ply", "text.pcd", "binary.pcd", "compressed.pcd"]),
    damage=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), max_size=4),
    tail=st.none() | st.binary(max_size=300),
)
def test_damaged_bytes_and_random_points_raise_nothing_else(whole, which, damage, tail):
    folder, contents = whole
    content = bytearray(contents[which])
    if tail is not None:
        marker = b"end_header\n" if which.endswith("ply") else b"DATA "
        start = content.index(b"\n", content.index(marker)) + 1
        content[start:] = tail
    for place, value in damage:
        content[place % len(content)] = value
    path = written(folder / f"damaged_{which}", bytes(content))
    with contextlib.suppress(InputError):
        xyz = clouds.read(path, nan_is_unseen=True)
        assert xyz.dtype == np.float32
        assert np.isfinite(xyz).all()
