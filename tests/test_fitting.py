"""Models of good parts alone: what is left out, that its scores are those of unseen parts, and files of models."""

import contextlib
import dataclasses
import hashlib
import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax import scoring
from pirn_jax.data.problems import InputError
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.inspection import bundle, fitting, inspector, thresholds
from pirn_jax.inspection.inspector import Inspector
from pirn_jax.methods import METHODS
from pirn_jax.methods.base import Features
from pirn_jax.study import packing
from pirn_jax.study.placement import place
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training.episodes import Run

SIDE, GRID = 56, 7
PARTS = 9


@pytest.fixture(scope="module")
def spec():
    preset, encoder = METHODS["gaussian"].presets["default"], pretrained.load("chroma")
    preparation = Preparation(SIDE, foreground="none")
    return Spec("folder", (PARTS,), 1, "gaussian", preset.config, None, encoder, preparation, grid=GRID)


def quiet(title, total):
    del title, total
    return contextlib.nullcontext(lambda *done: None)


def placed(values):
    masks = np.ones((len(values), GRID**2), bool)
    return place([list(range(len(values)))], values, masks, packing.order(masks), np.dtype("float32"))


def draw(rng, count):
    """Features of parts, correlated within a part as those of real ones are."""
    own = rng.normal(size=(count, 2, 1, 1, 64))
    return (rng.normal(size=(count, 2, 1, GRID**2, 64)) + 0.3 * own).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 9, 30, 31, 99])
def test_every_part_is_left_out_of_models_of_equally_many_parts(count):
    pairs = fitting.folds(count)
    assert len({(len(chosen), len(left)) for chosen, left in pairs}) == min(len(pairs), 1)
    for chosen, left in pairs:
        assert not set(chosen) & set(left)
        assert len(chosen) + len(left) == count
    expected = set(range(count)) if count > 2 else set()
    assert {part for _, left in pairs for part in left} == expected
    assert len(pairs) == (0 if count <= 2 else count if count <= 30 else 8 if count == 31 else 10)


def test_models_learn_from_all_views_but_those_of_the_part_that_is_left_out(spec):
    config = dataclasses.replace(METHODS["patchcore"].presets["default"].config, reach=False)
    plain = dataclasses.replace(spec, method="patchcore", config=config)
    viewed = dataclasses.replace(plain, augmentation="rotations")
    values, sizes = draw(np.random.default_rng(3), 4), [(SIDE, SIDE)] * 4
    expected = fitting.fit(plain, placed(values), sizes, 1, quiet)
    assert expected.scores.min() > 0.1
    # Views that look like the part itself: one that is not left out is as near as can be.
    views = np.repeat(values[:, None], len(viewed.views), axis=1)
    found = fitting.fit(viewed, placed(views.reshape(-1, *values.shape[1:])), sizes, 1, quiet)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    np.testing.assert_allclose(found.scales, expected.scales, rtol=1e-5)
    # Each part's last view looks like the next part.
    views[:, -1] = np.roll(values, -1, axis=0)
    undivided = dataclasses.replace(viewed, fusion="sum")
    found = fitting.fit(undivided, placed(views.reshape(-1, *values.shape[1:])), sizes, 1, quiet)
    np.testing.assert_allclose(found.highest, 0, atol=1e-4)


def test_left_out_scores_keep_the_wished_false_alarms_and_training_scores_do_not(spec):
    rng, wish, method = np.random.default_rng(0), 0.1, spec.build()
    score = jax.jit(jax.vmap(lambda params, part: scoring.patch_distances(method.score, params, part), (None, 0)))
    alarms, cheated, trials = 0, 0, 0
    for _ in range(40):
        values, new = draw(rng, PARTS), draw(rng, 10)
        fitted = fitting.fit(spec, placed(values), [(SIDE, SIDE)] * PARTS, 1, quiet)

        def scores(parts, fitted=fitted):
            params = jax.tree.map(lambda leaf: leaf[0], fitted.params)
            found = np.asarray(score(params, Features(jnp.asarray(parts), jnp.ones((len(parts), GRID**2), bool))))
            return np.array([spec.maps.fused(one, fitted.scales[0], (SIDE, SIDE)).max() for one in found])

        np.testing.assert_array_equal(fitted.scores, fitted.highest)
        alarms += (scores(new) > thresholds.threshold(fitted.scores, wish).value).sum()
        cheated += (scores(new) > thresholds.threshold(scores(values), wish).value).sum()
        trials += len(new)
    # Parts of one draw share its threshold, so their number counts for less than it says.
    bound = 3 * np.sqrt(wish * (1 - wish) / trials * 10 / 2)
    assert abs(alarms / trials - wish) < bound
    assert cheated / trials > wish + bound


@pytest.fixture
def written(spec, tmp_path):
    """A model as a file, the ensemble that it holds, and its settings."""
    values = draw(np.random.default_rng(1), 3)
    fitted = fitting.fit(spec, placed(values), [(40, 60)] * 3, 2, quiet)
    settings = describe(spec, ["bolts"], []) | {"false_alarms": 0.2, "members": 2, "scan_unit": 1.0}
    good = bundle.Good(["a", "b", "c"], fitted.scores, fitted.highest, (40, 60))
    path = tmp_path / "bolts.pirn"
    bundle.write(path, settings, fitted, good, b"jpeg")
    return path, fitted, settings


def test_a_model_is_what_was_written(spec, written):
    path, fitted, settings = written
    found = bundle.read(path)
    assert found.good.parts == ["a", "b", "c"]
    np.testing.assert_array_equal(found.good.scores, fitted.scores)
    jax.tree.map(np.testing.assert_array_equal, found.ready.params, fitted.params)
    assert found.picture == b"jpeg"
    images = np.random.default_rng(2).integers(256, size=(1, 2, SIDE, SIDE, 3), dtype=np.uint8)
    given = jax.tree.map(jnp.asarray, fitted.params), jnp.asarray(fitted.scales)
    expected = Inspector(Run("bolts", 3, 0), settings, spec, *given, inspector.compile_inspection(spec))
    np.testing.assert_array_equal(found.ready(images).maps, expected(images).maps)


def test_an_ensemble_gives_the_mean_of_its_members_maps(spec, written):
    ready = bundle.read(written[0]).ready
    images = np.random.default_rng(2).integers(256, size=(1, 2, SIDE, SIDE, 3), dtype=np.uint8)
    # Members of a method without chance are equal.
    params = {**ready.params, "mean": ready.params["mean"] + 0.1 * jnp.arange(2)[:, None, None]}
    masks = np.ones((1, GRID**2), bool)

    def of_members(members):
        some = jax.tree.map(lambda leaf: leaf[members], params)
        given = spec.encoder.params, some, ready.scales[members], images, masks, (SIDE, SIDE)
        return ready.program(*given).maps

    first, second = of_members(slice(0, 1)), of_members(slice(1, 2))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(of_members(slice(0, 2)), (first + second) / 2, rtol=1e-4, atol=1e-5)


def altered(path, change):
    """The file with its members changed by `change`, in a new zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    method = change(members) or zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def rehashed(members, **manifest):
    told = json.loads(members["manifest.json"]) | manifest
    told["sha256"] = {
        name: hashlib.sha256(content).hexdigest() for name, content in members.items() if name != "manifest.json"
    }
    members["manifest.json"] = json.dumps(told).encode()


def npy(values, shape=None):
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    content = buffer.getvalue()
    return content if shape is None else content.replace(str(values.shape).encode(), shape, 1)


def _flip(members):
    members["params/00000.npy"] = members["params/00000.npy"][:-1] + b"\x7f"


def _stray(members):
    members["../../evil"] = b"x"


def _compress(members):
    return zipfile.ZIP_DEFLATED


def _older(members):
    rehashed(members, format=[0, 9], pirn_jax="0.0.1")


def _objects(members):
    members["scales.npy"] = npy(np.array([{}, []], dtype=object))
    rehashed(members)


def _claims(members):
    members["scales.npy"] = npy(np.ones((2, 2), np.float32), b"(99999999, 99999)")
    rehashed(members)


def _rows(members):
    values = np.load(io.BytesIO(members["params/00000.npy"]))
    members["params/00000.npy"] = npy(np.concatenate([values, values], axis=-1))
    rehashed(members)


def _scales(shape):
    def change(members):
        members["scales.npy"] = npy(np.ones(shape, np.float32))
        rehashed(members)

    return change


def _fewer(members):
    del members["params/00000.npy"]
    rehashed(members)


def _text(members):
    members["good.json"] = b'{"parts": 3}'
    rehashed(members)


def _setting(**values):
    """A change of settings; None takes one away."""

    def change(members):
        told = json.loads(members["settings.json"]) | values
        members["settings.json"] = json.dumps({name: of for name, of in told.items() if of is not None}).encode()
        rehashed(members)

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_setting(false_alarms=None), "has no 'false_alarms' of use; fit the model again"),
        (_setting(categories=3), "has no 'categories' of use"),
        (_setting(scan_unit="mm"), "has no 'scan_unit' of use"),
        (_setting(method="pirn2"), "holds what is not understood .*pirn2"),
        (_setting(fusion="best"), "holds what is not understood .*best"),
        (_setting(ridge="x"), "holds what is not understood"),
        (_setting(encoder_blocks=3), "holds what is not understood"),
        (_setting(augmentation=None), "lacks 'augmentation'"),
        (_flip, "'params/00000.npy' in it was altered"),
        (_stray, "'../../evil' in it was altered"),
        (_compress, "is compressed, which no model is"),
        (_older, r"format 0.9 of pirn_jax 0.0.1, this program reads 1.x"),
        (_objects, "scales.npy in it is no array of numbers"),
        (_claims, "scales.npy in it is no array of numbers"),
        (_scales(()), "no scale for each map in it"),
        (_scales((2, 1)), "no scale for each map in it"),
        (_setting(categories=[]), "no scale for each map in it, or no category"),
        (_rows, "its parameters are not those that gaussian has"),
        (_fewer, "its parameters are not those that gaussian has"),
        (_text, "good.json in it is not understood"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused(written, change, sentence):
    altered(written[0], change)
    with pytest.raises(InputError, match=sentence):
        bundle.read(written[0])


def test_a_newer_minor_version_is_read(written):
    altered(written[0], lambda members: rehashed(members, format=[1, 7]))
    assert bundle.read(written[0]).good.parts == ["a", "b", "c"]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(written, share):
    content = written[0].read_bytes()
    written[0].write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="no model, or a damaged one"):
        bundle.read(written[0])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing.pirn: cannot be read"):
        bundle.read(tmp_path / "nothing.pirn")
