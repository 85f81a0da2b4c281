"""Choice of the gallery's samples, worst first, and their pictures."""

import dataclasses

import numpy as np
import pytest

from pirn_jax.data.sample import Record
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.methods.patchcore import Config
from pirn_jax.report import gallery, page, pictures
from pirn_jax.study.spec import Spec
from pirn_jax.training.episodes import Run
from tests import reports

SIZE = (40, 60)
NATIVE = Preparation(size=56, normals="native", foreground="none")
ONES = np.ones(2, np.float32)
PER_MODALITY = Config(banks="each")
SPEC = Spec(
    "mvtec3d", (5,), 4, "patchcore", PER_MODALITY, None, pretrained.load("random"), NATIVE, sigma=0.0, fusion="sum"
)


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A grey part on a slope with normals towards the camera, and a mask of its lower right corner or none."""

    name: str
    marked: bool
    scale: int = 1

    def size(self):
        """Height and width."""
        return SIZE[0] * self.scale, SIZE[1] * self.scale

    def digest(self):
        """Nothing is cached."""
        return b""

    def mask(self):
        """The marked corner."""
        gt = np.zeros(self.size(), bool)
        gt[-1, -1] = True
        return (self.name, gt) if self.marked else None

    def arrays(self):
        """Image, a scan that is the farther the lower, normals."""
        normals = np.broadcast_to(np.array([0, 0, -1], np.float32), (*self.size(), 3))
        y, x = np.mgrid[: self.size()[0], : self.size()[1]] * np.float32(1e-3)
        return np.full((*self.size(), 3), 90, np.uint8), np.stack([x, y, 0.5 + y], axis=-1), normals.copy()


def build(scores, defects, marked=True, scale=1, scales=ONES, spec=SPEC):
    """The gallery of parts with constant maps, whose scores are given."""
    records = [
        Record("knob", "test", defect, f"test/{defect}/{i}", InMemory(str(i), marked and defect != "good", scale))
        for i, defect in enumerate(defects)
    ]
    distances = np.array(scores, np.float32)[:, None, None] / 2 * np.ones((1, 2, 16), np.float32)
    return gallery.build(Run("knob", 5, 3), records, distances * scales[:, None], scales, spec)


@pytest.fixture
def built():
    return build([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4], ["dent"] * 5 + ["good"] * 3)


def test_worst_misses_come_first_then_false_alarms_then_the_best(built):
    shown = [(picture.kind, round(picture.score, 3)) for picture in built.pictures]
    assert shown == [
        ("worst detected", 0.1),
        ("worst detected", 0.3),
        ("false alarm", 0.8),
        ("false alarm", 0.4),
        ("best detected", 0.9),
        ("best detected", 0.7),
    ]
    assert (built.shots, built.category, built.seed) == ("5", "knob", 3)
    np.testing.assert_allclose(np.sort(built.good_scores), [0.2, 0.4, 0.8], atol=1e-6)
    np.testing.assert_allclose(built.scale, (0.1, 0.9), atol=1e-6)


def test_few_parts_are_shown_once():
    ids = [picture.sample_id for picture in build([0.5, 0.1, 0.9], ["dent", "dent", "good"]).pictures]
    assert len(ids) == len(set(ids)) == 3


def test_maps_add_up_and_pictures_keep_proportions(built):
    for picture in built.pictures:
        assert picture.rgb.shape == picture.geometry.shape == (*SIZE, 3)
        np.testing.assert_allclose(sum(picture.maps.values()), picture.fused, atol=1e-6)
        np.testing.assert_allclose(picture.fused.max(), picture.score, atol=1e-6)


def test_the_maximum_of_maps_is_shown_where_the_study_takes_it():
    (picture,) = build([0.5], ["dent"], spec=dataclasses.replace(SPEC, fusion="maximum")).pictures
    np.testing.assert_allclose(picture.fused, np.maximum(*picture.maps.values()), atol=1e-6)


def test_large_parts_are_shrunk_and_their_thin_defects_stay_visible():
    (picture,) = build([0.5], ["dent"], scale=20).pictures
    height, width = picture.fused.shape
    assert max(height, width) < 400
    assert width / height == pytest.approx(1.5, abs=0.02)
    assert picture.gt[-1, -1]  # one pixel of 800 x 1200
    assert picture.gt.sum() == 1


def test_an_unmarked_defect_has_no_ground_truth_and_a_good_part_an_empty_one():
    defective, good = build([0.5, 0.1], ["dent", "good"], marked=False).pictures
    defective, good = sorted((defective, good), key=lambda picture: picture.defect)
    assert defective.gt is None
    assert not good.gt.any()


def test_maps_are_shown_as_they_are_summed():
    scales = np.array([0.5, 4.0], np.float32)
    (picture,) = build([0.5], ["dent"], scales=scales).pictures
    assert list(picture.maps) == ["RGB map", "Normals map"]
    for values in picture.maps.values():
        np.testing.assert_allclose(values, 0.25, rtol=1e-5)
    np.testing.assert_allclose(picture.fused, 0.5, rtol=1e-5)


def test_normals_are_shown_as_colours_under_their_name():
    (picture,) = build([0.5], ["dent"]).pictures
    assert picture.geometry_name == "Normals"
    assert (picture.geometry == [128, 128, 255]).all()


def test_a_depth_study_is_shown_with_depth_under_its_name(tmp_path):
    depth = dataclasses.replace(SPEC, preparation=dataclasses.replace(NATIVE, geometry="depth"))
    shown = build([0.5], ["dent"], spec=depth)
    (picture,) = shown.pictures
    assert picture.geometry_name == "Depth"
    assert list(picture.maps) == ["RGB map", "Depth map"]
    grey = picture.geometry[..., 0].astype(int)
    assert (picture.geometry == grey[..., None]).all()
    assert grey[0].min() > 245
    assert grey[-1].max() < 10
    assert (np.diff(grey, axis=0) <= 0).all()
    pictures.save(tmp_path / "gallery.npz", [shown])
    page.write_page(tmp_path / "report.html", reports.results(), pictures.load(tmp_path / "gallery.npz"))
    text = (tmp_path / "report.html").read_text("utf-8")
    assert 'alt="Depth of test/dent/0"' in text
    assert "Normals" not in text
