"""The built-in encoder's training: made-up surfaces, what is asked of them, and the recipe from start to file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from pirn_jax.encoders import pretrained, vit
from tools import train_builtin_encoder
from tools.pretraining import objective, scenes, teacher

SIZE, PATCH = 56, 14
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


def test_steep_slopes_and_lost_pixels_are_black():
    shape = jax.jit(scenes.family, static_argnums=1)(jax.random.key(0), SIZE)
    shape = {**shape, "steepest": 0.5, "dropout": 0.2, "holes": False, "sees_support": True, "normals_noise": 0.0}
    height = jnp.where(jnp.arange(SIZE) < SIZE // 2, 0.0, 9.0) * jnp.ones((SIZE, 1))
    seen = jax.jit(scenes._normal_map)(shape, jax.random.key(1), height, jnp.ones((SIZE, SIZE)))
    black = ~np.asarray(seen).any(axis=-1)
    assert black[:, SIZE // 2 - 1 : SIZE // 2 + 1].all()
    assert 0.1 < black[:, : SIZE // 2 - 8].mean() < 0.3


def test_images_of_both_modalities_are_drawn():
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: objective.draw(key, SIZE), keys))
    images = np.asarray(draw(jax.random.split(jax.random.key(5), 12)))
    assert images.shape == (12, SIZE, SIZE, 3)
    # Of a normal map nearly all pixels are unit normals.
    length = np.linalg.norm(images / 127.5 - 1, axis=-1)
    maps = np.mean((np.abs(length - 1) < 1e-3) | ~images.any(axis=-1), axis=(1, 2)) > 0.99
    assert 2 < maps.sum() < 10


def test_the_loss_is_the_share_of_variance_that_features_miss():
    config = vit.ViTConfig(width=64, depth=1, heads=2, position_grid=SIZE // PATCH, position_mode="plain")
    images = jnp.asarray(255 * np.random.default_rng(3).random((3, SIZE, SIZE, 3), np.float32))
    fitted = jax.jit(teacher.fit, static_argnums=(2, 3))(images, jax.random.key(0), PATCH, 64)
    params = jax.jit(vit.ViT(config, (1,)).init)(jax.random.key(1), images[0])
    key = jax.random.key(2)
    features = jax.jit(objective.encode, static_argnums=(3, 4))(params, key, images, config, (1,))
    targets = np.stack([teacher.target(fitted, image, PATCH) for image in images])
    expected = np.sum((np.asarray(features) - targets) ** 2) / targets[..., 0].size / fitted.mean.size
    found = jax.jit(objective.loss, static_argnums=(4, 5))(params, key, images, fitted, config, (1,))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_every_window_of_the_positions_is_seen():
    config = vit.ViTConfig(width=32, depth=1, heads=1, position_grid=6, position_mode="plain")
    images = jnp.zeros((1, SIZE, SIZE, 3))
    params = jax.jit(vit.ViT(config, (1,)).init)(jax.random.key(1), jnp.zeros((84, 84, 3)))
    total = jax.jit(
        jax.grad(
            lambda positions, key: jnp.sum(
                objective.encode({"params": {**params["params"], "positions": positions}}, key, images, config, (1,))
                ** 2
            )
        )
    )
    seen = sum(np.abs(total(params["params"]["positions"], jax.random.key(n))).sum(-1) > 0 for n in range(40))
    assert (seen > 0).all()
    assert seen[0, 0] < 40


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
    np.testing.assert_allclose(described.std(0), 1, atol=0.02)
    np.testing.assert_allclose(
        np.linalg.norm(targets[:1] - targets, axis=-1), np.linalg.norm(described[:1] - described, axis=-1), rtol=1e-3
    )


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Flags of a training of seconds."""
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    small = {"steps": 6, "images": 2, "width": 64, "depth": 2, "size": 28, "keep_every": 2}
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
