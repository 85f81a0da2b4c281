"""Points and normals against numbers worked out by hand."""

import pathlib

import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Files
from pirn_jax.data.scans import Cloud, Depth, Intrinsics, NormalMap


def depth_image(path: pathlib.Path, values) -> pathlib.Path:
    np.save(path, np.array(values))
    return path


def test_a_pixel_of_depth_becomes_a_point_on_its_ray(tmp_path):
    path = depth_image(tmp_path / "a.npy", np.full((3, 4), 500, np.uint16))
    xyz = Depth(path, Intrinsics(fx=100.0, fy=50.0, cx=1.0, cy=2.0), scale=0.001).read()
    assert xyz.dtype == np.float32
    # 0.5 m away: a column is 0.5 / 100 = 5 mm wide, a row 0.5 / 50 = 10 mm high.
    np.testing.assert_allclose(xyz[2, 1], (0, 0, 0.5), rtol=1e-6)
    np.testing.assert_allclose(xyz[0, 0], (-0.005, -0.02, 0.5), rtol=1e-6)
    np.testing.assert_allclose(xyz[1, 3], (0.01, -0.01, 0.5), rtol=1e-6)


def test_the_principal_point_is_the_centre_unless_it_is_given(tmp_path):
    path = depth_image(tmp_path / "a.npy", np.ones((3, 4), np.float32))
    xyz = Depth(path, Intrinsics(fx=2.0, fy=4.0)).read()
    np.testing.assert_allclose(xyz[0, :, 0], [-0.75, -0.25, 0.25, 0.75])
    np.testing.assert_allclose(xyz[:, 0, 1], [-0.25, 0, 0.25])


def test_an_offset_is_added_to_depth_but_not_to_what_was_not_seen(tmp_path):
    path = depth_image(tmp_path / "a.npy", np.array([[0.0, 2.0, np.nan, np.inf]], np.float32))
    camera = Intrinsics(1.0, 1.0, 0.0, 0.0)
    seen = Depth(path, camera, scale=0.5, offset=3.0).read()
    np.testing.assert_array_equal(seen, [[(0, 0, 0), (4, 0, 4), (0, 0, 0), (0, 0, 0)]])
    zero_counts = Depth(path, camera, scale=0.5, offset=3.0, zero_is_unseen=False).read()
    np.testing.assert_array_equal(zero_counts[0, :3, 2], [3, 4, 0])


def test_depth_without_a_point_or_behind_the_camera_is_refused(tmp_path):
    nothing = depth_image(tmp_path / "nothing.npy", [[0.0, np.nan]])
    behind = depth_image(tmp_path / "behind.npy", [[1.0, -1.0, -1.0]])
    with pytest.raises(InputError, match="no pixel holds a depth; ") as error:
        Depth(nothing, Intrinsics(1.0, 1.0)).read()
    assert str(nothing) in str(error.value)
    with pytest.raises(InputError, match="2 depths are negative; write 0") as error:
        Depth(behind, Intrinsics(1.0, 1.0)).read()
    assert str(behind) in str(error.value)


def test_a_cloud_is_scaled_to_metres_and_holes_stay_zero(tmp_path):
    points = np.array([[(0, 0, 0), (-5, 10, 750)]], np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    np.testing.assert_array_equal(Cloud(tmp_path / "a.tiff").read(), points)
    xyz = Cloud(tmp_path / "a.tiff", unit=0.001).read()
    np.testing.assert_allclose(xyz, [[(0, 0, 0), (-0.005, 0.01, 0.75)]], rtol=1e-6)


def test_nan_in_a_cloud_is_a_hole_only_where_that_is_said(tmp_path):
    points = np.array([[(1, np.nan, 1), (1, 2, 3)]], np.float32)
    tifffile.imwrite(tmp_path / "a.tiff", points, photometric="rgb")
    with pytest.raises(InputError, match="1 points are NaN"):
        Cloud(tmp_path / "a.tiff").read()
    xyz = Cloud(tmp_path / "a.tiff", nan_is_unseen=True).read()
    np.testing.assert_array_equal(xyz, [[(0, 0, 0), (1, 2, 3)]])


def test_a_ply_takes_its_rows_and_columns_from_the_image(tmp_path):
    lines = "\n".join(f"{i} 0 1000" for i in range(6))
    header = "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\nend_header"
    (tmp_path / "a.ply").write_text(f"{header}\n{lines}\n")
    PIL.Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    xyz = Cloud(tmp_path / "a.ply", unit=0.001, like=tmp_path / "a.png").read()
    np.testing.assert_allclose(xyz[..., 0], [[0, 0.001, 0.002], [0.003, 0.004, 0.005]], rtol=1e-6)
    np.testing.assert_allclose(xyz[..., 2], 1)


def test_the_digest_of_a_part_follows_how_it_is_read_but_not_where_it_lies(tmp_path):
    def digest(folder: str, unit: float) -> bytes:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (2, 2)).save(place / "a.png")
        (place / "a.ply").write_bytes(b"the digest does not read it")
        return Files(place / "a.png", Cloud(place / "a.ply", unit, like=place / "a.png")).digest()

    assert digest("here", 1.0) == digest("there", 1.0)
    assert digest("here", 1.0) != digest("here", 0.001)


def test_colours_of_a_normal_map_become_unit_normals_in_the_camera_frame(tmp_path):
    colours = np.array([[(255, 128, 128), (128, 255, 128), (128, 128, 255), (0, 0, 0)]], np.uint8)
    PIL.Image.fromarray(colours).save(tmp_path / "a.png")
    normals = NormalMap(tmp_path / "a.png").read()
    assert normals.dtype == np.float32
    np.testing.assert_allclose(normals[0, :3], [(1, 0, 0), (0, -1, 0), (0, 0, -1)], atol=0.005)
    np.testing.assert_allclose(np.linalg.norm(normals[0, :3], axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(normals[0, 3], (0, 0, 0))
    same_axes = NormalMap(tmp_path / "a.png", axes=(1, 1, 1)).read()
    np.testing.assert_allclose(same_axes[0, 1:3], [(0, 1, 0), (0, 0, 1)], atol=0.005)


@pytest.mark.parametrize(
    ("camera", "named"),
    [
        (Intrinsics(6e5, 6.0), "fx = 600000"),
        (Intrinsics(6.0, 0.3), "fy = 0.3"),
        (Intrinsics(6.0, 6.0, cx=319.5), "cx = 319.5"),
        (Intrinsics(6.0, 6.0, cy=-5.0), "cy = -5"),
    ],
)
def test_a_camera_that_cannot_be_that_of_the_image_is_refused(tmp_path, camera, named):
    path = tmp_path / "a.npy"
    np.save(path, np.ones((4, 6), np.float32))
    with pytest.raises(InputError, match=f"{named} for an image of 6x4"):
        Depth(path, camera).read()
