"""Views of good parts: images turned with their normals, methods that forget all views of a part, studies of them."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.cache import Prepared
from pirn_jax.data.sample import Record, Splits
from pirn_jax.data.views import AUGMENTATIONS, ORIGINAL, View
from pirn_jax.encoders import pretrained
from pirn_jax.geometry import depth_images, normal_images, viewing
from pirn_jax.inputs import Preparation, viewed
from pirn_jax.methods import METHODS, nearest, patchcore, views
from pirn_jax.methods.base import Features
from pirn_jax.study import run, selection, stages, storage
from pirn_jax.study.spec import Spec
from pirn_jax.training.episodes import ALL

SIDE = 56


def picture(rng=None):
    rng = np.random.default_rng(0) if rng is None else rng
    return rng.integers(1, 256, size=(SIDE, SIDE, 3), dtype=np.uint8)


def ball():
    """Normals of a hemisphere in the camera frame, zero beside it, which looks the same however it is turned."""
    rows, columns = (np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2) / (0.4 * SIDE)
    square = 1 - rows**2 - columns**2
    return np.where((square > 0)[..., None], np.stack([columns, rows, -np.sqrt(np.maximum(square, 0))], -1), 0)


def test_augmentations_begin_with_the_original_and_repeat_nothing():
    assert {name: len(of) for name, of in AUGMENTATIONS.items()} == {"none": 1, "rotations": 8, "inp_former": 22}
    for of in AUGMENTATIONS.values():
        assert of[0] == ORIGINAL
        assert len(set(of)) == len(of)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_quarter_turns_lose_no_pixel(quarters):
    image = picture()
    found = viewing.view_rgb(image, View(quarters * np.pi / 2))
    np.testing.assert_array_equal(found, np.rot90(image, quarters))
    mirrored = viewing.view_rgb(image, View(quarters * np.pi / 2, mirrored=True))
    np.testing.assert_array_equal(mirrored, np.rot90(image[:, ::-1], quarters))


def test_a_shift_goes_right_and_up_and_shows_its_border():
    image = picture()
    found = viewing.view_rgb(image, View(shift=(0.25, 0.125)))
    np.testing.assert_array_equal(found[:-7, 14:], image[7:, :-14])
    assert not found[-7:].any()
    assert not found[:, :14].any()
    mirror = viewing.view_rgb(image, View(shift=(0.25, 0.0), border="mirror"))
    np.testing.assert_array_equal(mirror[:, :14], image[:, 14:0:-1])


def test_grey_is_that_of_bt_601_and_of_the_image_in_rgb_alone():
    given = Prepared(np.stack([picture(), normal_images.to_image(ball())]), np.ones((SIDE, SIDE), bool), "note")
    grey = viewed(given, View(grey=True), "normals")
    expected = np.rint(given.values[0] @ [0.299, 0.587, 0.114])
    np.testing.assert_array_equal(grey.values[0], np.repeat(expected[..., None], 3, -1))
    # Eight bits a component are not quite of unit length.
    np.testing.assert_allclose(grey.values[1], given.values[1].astype(int), atol=1)
    assert grey.note == ""


@pytest.mark.parametrize("view", [View(0.3), View(-2.0), View(mirrored=True), View(1.0, mirrored=True)])
def test_normals_of_a_ball_are_the_same_from_any_side(view):
    image = normal_images.to_image(ball())
    found = viewing.view_normals(image, view)
    both = found.any(-1) & image.any(-1)
    assert np.mean(found.any(-1) == image.any(-1)) > 0.97
    apart = np.abs(found.astype(int) - image)[both]
    # Beside the rim the normals change by much from pixel to pixel.
    assert np.mean(apart.max(-1) <= 3) > 0.9
    np.testing.assert_allclose(np.linalg.norm(found[both] / 127.5 - 1, axis=-1), 1, atol=0.01)


def test_unknown_pixels_mix_with_no_other():
    known = np.arange(SIDE) < SIDE // 2
    depth = np.where(known[:, None], 1.0, 0.0)[..., None] * np.ones((SIDE, SIDE, 1))
    depth[:5] = 0.9
    image = depth_images.to_image(depth)
    assert set(np.unique(viewing.view_depth(image, View(0.4)))) <= {0, *range(1, 256)}
    edge = viewing.view_depth(image, View(0.4))[..., 0]
    inner = viewing.view_mask(np.repeat(~known[:, None], SIDE, 1), View(0.4))
    assert not edge[inner & viewing.view_mask(np.ones((SIDE, SIDE), bool), View(0.4))].any()
    # The far half is grey value 1, and stays so up to its edge: mixed with black it would be 0 there.
    shown = viewing.view_mask(np.repeat(known[:, None], SIDE, 1), View(0.4))
    assert edge[shown].min() >= 1


def test_what_lies_beyond_a_black_border_is_no_part():
    whole = np.ones((SIDE, SIDE), bool)
    turned = viewing.view_mask(whole, View(np.pi / 4))
    assert not turned[0, 0]
    assert turned[SIDE // 2].all()
    assert viewing.view_mask(whole, View(np.pi / 4, border="mirror")).all()


def test_all_views_of_a_part_are_forgotten_and_no_other():
    method = patchcore.build(patchcore.Config(), ("rgb", "normals"))
    two = views.viewed(method, 2)
    assert two.forget is views.viewed(method, 2).forget
    values = jax.random.normal(jax.random.key(0), (6, 2, 1, 4, 3))
    support = Features(values, jnp.ones((6, 4), bool))
    params = two.finalize(*two.start(jax.random.key(0), support), support)
    left = two.forget(params, jnp.array(1))
    np.testing.assert_array_equal(left["counted"], ~np.isin(np.arange(24) // 4, [2, 3])[None].repeat(3, 0))
    once = nearest.forget(nearest.forget(params, jnp.array(2)), jnp.array(3))
    np.testing.assert_array_equal(left["counted"], once["counted"])


@dataclasses.dataclass(frozen=True)
class _Tile:
    """A tile with a picture of its own in its left upper quarter, turned by quarters."""

    quarters: int = 0
    marked: bool = False
    shade: int = 200

    @property
    def name(self):
        return f"tile {self}"

    def size(self):
        return SIDE, SIDE

    def digest(self):
        return hashlib.sha256(str(self).encode()).digest()

    def mask(self):
        return (self.name, np.pad(np.ones((8, 8), bool), 24)) if self.marked else None

    def arrays(self):
        rows, columns = np.mgrid[:SIDE, :SIDE] / 1000
        rgb = np.full((SIDE, SIDE, 3), self.shade, np.uint8)
        rgb[8:28, 8:28] = [250, 40, 20]
        rgb[10:14, 32:52] = [20, 60, 220]
        xyz = np.stack([columns, rows, np.full_like(rows, 0.5)], -1).astype(np.float32)
        return np.ascontiguousarray(np.rot90(rgb, self.quarters)), xyz, None


def tiles():
    good = [Record("tile", "train", "good", f"train/{i}", _Tile(shade=200 + i)) for i in range(3)]
    test = [Record("tile", "test", "good", "test/good", _Tile(shade=203))]
    test += [Record("tile", "test", "turned", f"test/turned/{i}", _Tile(i, marked=True)) for i in (1, 2)]
    return {"tile": Splits(good, [], test)}


def spec(augmentation, method="patchcore", **changes):
    preset = METHODS[method].presets["default"]
    given = {"shots": (2,), "preparation": Preparation(SIDE, foreground="none"), "grid": 7, **changes}
    names = {"augmentation": augmentation, "encoder": pretrained.load("builtin"), "recipe": preset.recipe}
    return Spec(dataset="folder", seeds=2, method=method, config=preset.config, **names, **given)


def study(augmentation, folder, monkeypatch):
    monkeypatch.setenv("PIRN_CACHE", str(folder / "cache"))
    of = spec(augmentation)
    return of, *run.run(of, tiles(), folder / augmentation, stages.hidden)


def test_episodes_hold_all_views_of_their_parts():
    plain, turned = (selection.draw(spec(of), tiles()) for of in ("none", "rotations"))
    for of, parts in plain.episodes.items():
        seen = [turned.splits["tile"].train[i] for i in turned.episodes[of]]
        assert [part.id for part in seen[::8]] == [plain.splits["tile"].train[i].id for i in parts]
        assert [part.view for part in seen] == 2 * list(AUGMENTATIONS["rotations"])
    assert len(turned.learned["tile"]) == 8 * len(plain.learned["tile"])
    assert turned.splits["tile"].test == plain.splits["tile"].test


def test_a_study_with_rotations_knows_turned_parts(tmp_path, monkeypatch):
    _, content, groups = study("none", tmp_path, monkeypatch)
    of, turned, found = study("rotations", tmp_path, monkeypatch)
    # Without views the turned tiles lie far from the good parts, with them as near as a good one that is not turned.
    score = [np.max(np.stack(each[0].distances), axis=(2, 3)) for each in (groups, found)]
    assert (score[0][:, 1:] > 30 * score[0][:, :1]).all()
    assert (score[1][:, 1:] < 2 * score[1][:, :1]).all()
    assert turned["episodes"] == content["episodes"]
    assert turned["settings"]["augmentation"] == "rotations"
    params = storage.load_params(tmp_path / "rotations", "2-000", {"bank": 0, "counted": 0, "origins": 0, "reach": 0})
    assert params["bank"].shape[2] == 2 * 8 * of.grid**2


def test_maps_are_calibrated_on_parts_of_which_no_view_is_known(tmp_path, monkeypatch):
    _, _, plain = study("none", tmp_path, monkeypatch)
    _, _, turned = study("rotations", tmp_path, monkeypatch)
    # Good parts differ in their shade alone, so views of the other part bring their scale down by little; with views
    # of its own a part would be at no distance.
    assert (np.stack(turned[0].scales) > 0.2 * np.stack(plain[0].scales)).all()


def test_training_sees_all_views(tmp_path, monkeypatch):
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))
    given = spec("rotations", "cfm")
    assert given.recipe is not None
    given = dataclasses.replace(given, recipe=dataclasses.replace(given.recipe, epochs=1, batch_size=4))
    run.run(given, tiles(), tmp_path / "cfm", stages.hidden)
    settings = json.loads((tmp_path / "cfm" / "settings.json").read_text())
    arrays, _ = storage.load_group(tmp_path / "cfm", "2-000", settings) or ({}, {})
    # 16 views in batches of four.
    assert arrays["train_loss"].shape == (2, 4)


def test_wrong_augmentations_are_refused():
    with pytest.raises(ValueError, match="unknown augmentation 'mirror'; choose one of none, rotations, inp_former"):
        spec("mirror")
    with pytest.raises(ValueError, match="--augmentation=rotations is made for few good parts, not for --shots=all"):
        spec("rotations", shots=(ALL,))
