"""The built-in encoder's training: made-up surfaces, what is asked of them, and the recipe from start to file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from pirn_jax.encoders import pretrained
from tools import train_builtin_encoder
from tools.pretraining import objective, scenes, teacher

SIZE, PATCH = 56, 14
compare = jax.jit(objective.compare, static_argnums=3)
describe = jax.jit(teacher.describe, static_argnums=1)


@functools.cache
def program():
    def draw(family, instance, edit, amount):
        shape, change = scenes.family(family, SIZE), scenes.edit(edit)
        return scenes.render(shape, instance, {**change, "amount": amount}, SIZE)

    return jax.jit(draw)


def render(family: int, instance: int, edit: int = 0, amount: float = 0.0) -> scenes.Views:
    keys = (jax.random.key(number) for number in (family, 100 + instance, 200 + edit))
    return jax.tree.map(np.asarray, program()(*keys, amount))


@pytest.mark.parametrize("family", range(6))
def test_views_are_images(family):
    views = render(family, 0, amount=1.0)
    for image in views:
        assert image.shape == (SIZE, SIZE, 3)
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image.max() <= 255
    normals = views.normals / 127.5 - 1.0
    seen = views.normals.any(axis=-1)
    np.testing.assert_allclose(np.linalg.norm(normals[seen], axis=-1), 1.0, atol=1e-4)
    assert (normals[seen][:, 2] > 0).all()


def test_instances_of_a_family_are_nearer_to_each_other_than_to_other_families():
    images = np.array([[render(family, instance).rgb.mean((0, 1)) for instance in range(3)] for family in range(8)])
    within = np.linalg.norm(images - images.mean(1, keepdims=True), axis=-1).mean()
    between = np.linalg.norm(images.mean(1) - images.mean((0, 1)), axis=-1).mean()
    assert 0 < within < between / 2


def test_an_instance_is_the_same_each_time_and_another_key_gives_another():
    one, two, other = render(1, 0), render(1, 0), render(1, 1)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert np.abs(one.rgb - other.rgb).max() > 1


def test_without_an_amount_no_edit_shows_and_with_one_most_do_within_a_part_of_the_image():
    shares = []
    for edit in range(12):
        clean, other, edited = render(2, 0), render(2, 0, edit), render(2, 0, edit, 1.0)
        jax.tree.map(np.testing.assert_array_equal, clean, other)
        shares.append(max(np.mean(np.abs(a - b).max(-1) > 10) for a, b in zip(clean, edited, strict=True)))
    assert np.mean(np.array(shares) > 0) > 0.7
    assert np.median(shares) < 0.3


@functools.cache
def drawn() -> objective.Episode:
    draw = jax.jit(lambda key: jax.vmap(lambda one: objective.episode(one, SIZE))(jax.random.split(key, 6)))
    return jax.tree.map(np.asarray, draw(jax.random.key(3)))


def test_an_episode_marks_where_its_last_two_images_differ():
    found = drawn()
    assert found.images.shape == (6, objective.MEMORY + 2, SIZE, SIZE, 3)
    change = np.abs(found.images[:, -1] - found.images[:, -2]).max(-1)
    np.testing.assert_array_equal(found.edited, change > 10)
    assert found.edited.any()
    assert np.abs(found.images[:, 0] - found.images[:, 1]).max() > 10


def test_shares_of_patches_are_counted_row_by_row():
    pixels = np.zeros((2, 28, 42), bool)
    pixels[1, 14:21, 28:] = True
    expected = np.zeros((2, 6))
    expected[1, 5] = 0.5
    np.testing.assert_allclose(objective.patch_shares(pixels, 14), expected)


def test_distances_are_those_to_the_nearest_patch_of_the_memory():
    tokens = np.random.default_rng(0).normal(size=(4, 9, 5)).astype(np.float32)
    tokens[3, 2] = 7 * tokens[1, 4]
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    expected = 1 - np.max(unit[2:] @ unit[:2].reshape(-1, 5).T, axis=-1)
    found = objective.distances(jnp.asarray(tokens))
    # A soft minimum over 18 patches is at most T log 18 below.
    assert (found <= expected + 1e-6).all()
    assert (found >= expected - 0.01 * np.log(18) - 1e-6).all()
    assert np.argmin(found[1]) == 2


def features_with(distance: float) -> jax.Array:
    """Features of one episode whose first patch lies this far from the memory after the edit, all others in it."""
    angle = np.arccos(1 - distance)
    tokens = np.tile(np.float32([1, 0]), (1, 4, 16, 1))
    tokens[0, 3, 0] = np.cos(angle), np.sin(angle)
    return jnp.asarray(tokens)


def test_the_losses_fall_as_edited_patches_go_away_and_rise_as_untouched_ones_do():
    edited = np.zeros((1, SIZE, SIZE), bool)
    edited[0, :PATCH, :PATCH] = True
    head = jnp.array([2.0, 0.3])
    near, far = (compare(features_with(d), edited, head, PATCH) for d in (0.01, 0.9))
    for name in ("missed", "moved", "instances"):
        assert far[name] < near[name]
    assert far["ranked"] == 1
    wrong = compare(features_with(0.9), np.roll(edited, PATCH, axis=1), head, PATCH)
    assert wrong["alarms"] > far["alarms"]
    assert wrong["missed"] > far["missed"]


def test_edits_that_do_not_show_count_for_nothing():
    found = compare(features_with(0.5), np.zeros((1, SIZE, SIZE), bool), jnp.array([2.0, 0.3]), PATCH)
    assert [float(found[name]) for name in ("missed", "moved", "instances", "ranked")] == [0, 0, 0, 0]


def test_the_teacher_does_not_see_how_a_patch_is_turned():
    image = np.random.default_rng(1).random((SIZE, SIZE, 3), np.float32)
    upright, turned = (np.asarray(describe(jnp.asarray(x), PATCH)).reshape(4, 4, -1) for x in (image, np.rot90(image)))
    np.testing.assert_allclose(turned, np.rot90(upright), atol=1e-4)
    assert np.abs(upright[0, 0] - upright[1, 2]).max() > 1e-3


def test_targets_order_patches_as_descriptors_do():
    powers = np.arange(1, 5, dtype=np.float32)[:, None, None, None]
    images = jnp.asarray(255 * np.random.default_rng(2).random((4, SIZE, SIZE, 3), np.float32) ** powers)
    fitted = jax.jit(teacher.fit, static_argnums=(2, 3))(images, jax.random.key(0), PATCH, 96)
    target = jax.jit(teacher.target, static_argnums=2)
    targets = np.concatenate([target(fitted, image, PATCH) for image in images])
    described = np.concatenate([describe(image / 255, PATCH) for image in images])
    described = (described - fitted.mean) / fitted.deviation
    varying = described.std(0) > 0.5
    assert varying.sum() == described.shape[-1] - 3
    np.testing.assert_allclose(described[:, varying].std(0), 1, atol=0.02)
    np.testing.assert_allclose(
        np.linalg.norm(targets[:1] - targets, axis=-1), np.linalg.norm(described[:1] - described, axis=-1), rtol=1e-3
    )


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Flags of a training of seconds."""
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    small = {"first_steps": 3, "second_steps": 3, "episodes": 1, "width": 64, "depth": 2, "size": 28, "keep_every": 2}
    with flagsaver.flagsaver(work_dir=str(tmp_path / "a"), output=str(tmp_path / "a.safetensors"), **small):
        yield tmp_path


def test_the_recipe_gives_an_encoder_and_continues_where_it_was_interrupted(recipe, monkeypatch, capsys):
    train_builtin_encoder.main(["train"])
    whole = pretrained.load(str(recipe / "a.safetensors"))
    assert whole.config.width == 64
    assert whole.blocks == (1, 2)
    assert "step 6" in capsys.readouterr().out

    kept = train_builtin_encoder.store

    def interrupt(state, measured):
        kept(state, measured)
        raise KeyboardInterrupt

    with flagsaver.flagsaver(work_dir=str(recipe / "b"), output=str(recipe / "b.safetensors")):
        monkeypatch.setattr(train_builtin_encoder, "store", interrupt)
        for _ in range(2):
            with pytest.raises(SystemExit, match="interrupted; the same command continues"):
                train_builtin_encoder.main(["train"])
        monkeypatch.undo()
        train_builtin_encoder.main(["train"])
        continued = pretrained.load(str(recipe / "b.safetensors"))
        assert continued.digest == whole.digest
        with flagsaver.flagsaver(seed=1), pytest.raises(SystemExit, match="belongs to another recipe"):
            train_builtin_encoder.main(["train"])
