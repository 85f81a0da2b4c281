"""The built-in encoder's training: made-up surfaces, what is asked of them, and the recipe from start to file."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from absl import flags
from absl.testing import flagsaver

from pirn_jax.encoders import pretrained, vit
from tools import train_builtin_encoder
from tools.pretraining import edits, objective, scenes, sensors, teacher

SIZE, PATCH = 56, 14
describe_colours = jax.jit(teacher.describe_colours, static_argnums=1)
describe_normals = jax.jit(teacher.describe_normals, static_argnums=1)
encode = jax.jit(objective.encode, static_argnums=(3, 4))


@functools.cache
def program():
    def draw(family, instance, edit, amount):
        shape, change = scenes.family(family, SIZE), edits.draw(edit)
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
    seen = jax.jit(sensors.normal_map)(shape, jax.random.key(1), height, jnp.ones((SIZE, SIZE)))
    black = ~np.asarray(seen).any(axis=-1)
    assert black[:, SIZE // 2 - 1 : SIZE // 2 + 1].all()
    assert 0.1 < black[:, : SIZE // 2 - 8].mean() < 0.3


def test_before_black_a_cut_out_part_shows_in_both_views():
    shape = jax.jit(scenes.family, static_argnums=1)(jax.random.key(3), SIZE)
    shape = {**shape, "filled": False, "centre": jnp.zeros(2), "radius": 0.3 * SIZE, "hole": -99.0}
    shape = {**shape, "shift": 0.0, "holes": False, "cut_out": True}
    change = {**edits.draw(jax.random.key(0)), "amount": 0.0}
    views = jax.tree.map(np.asarray, jax.jit(scenes.render, static_argnums=3)(shape, jax.random.key(1), change, SIZE))
    for image in views:
        assert not image[:4].any()
        assert image[SIZE // 2, SIZE // 2 - 3 : SIZE // 2 + 3].any()


def test_an_instance_is_drawn_as_colour_image_and_as_normal_map():
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: objective.draw(key, SIZE), keys))
    images = np.asarray(draw(jax.random.split(jax.random.key(5), 12)))
    assert images.shape == (12, 2, SIZE, SIZE, 3)
    # Of a normal map nearly all pixels are unit normals.
    length = np.linalg.norm(images / 127.5 - 1, axis=-1)
    maps = np.mean((np.abs(length - 1) < 1e-3) | ~images.any(axis=-1), axis=(2, 3)) > 0.99
    assert maps[:, 1].all()
    assert maps[:, 0].sum() < 3


def test_an_instance_is_drawn_with_an_edit_and_a_pair_without(monkeypatch):
    red = {"radii": jnp.full(2, 1e3), "ragged": 0.0, "cover": 1.0, "colour": jnp.array([1.0, 0.0, 0.0])}
    monkeypatch.setattr(edits, "draw", lambda key, draw=edits.draw: {**draw(key), **red})
    drawn, pair = (np.asarray(draw(jax.random.key(8), SIZE)) for draw in (objective.draw, objective.draw_pair))
    assert pair.shape == (2, 2, SIZE, SIZE, 3)
    green = [image[..., 1].mean() / image.mean() for image in (drawn[0], pair[0, 0], pair[1, 0])]
    assert green[0] < 0.8 * green[1]
    assert abs(green[1] - green[2]) < 0.2 * green[1]


def noise(families: int) -> np.ndarray:
    """Pairs of noise with gaps, as images of both modalities."""
    rng = np.random.default_rng(3)
    pairs = 255 * rng.random((families, 2, 2, SIZE, SIZE, 3), np.float32)
    return pairs * (rng.random(pairs[..., :1].shape) > 0.2 * rng.random((families, 2, 2, 1, 1, 1))).astype(np.float32)


def fit(images: np.ndarray, width: int = 64) -> teacher.Teacher:
    return jax.jit(teacher.fit, static_argnums=(2, 3))(jnp.asarray(images), jax.random.key(0), PATCH, width)


def test_the_loss_is_the_share_of_variance_that_features_miss():
    config = vit.ViTConfig(width=64, depth=1, heads=2, position_grid=SIZE // PATCH, position_mode="plain")
    pairs = noise(3)
    images, fitted = jnp.asarray(pairs[:, 0]), fit(pairs)
    params = jax.jit(vit.ViT(config, (1,)).init)(jax.random.key(1), images[0, 0])
    key = jax.random.key(2)
    targets = np.stack([target(fitted, pair) for pair in pairs[:, 0]])
    for modality in range(2):
        missed = np.asarray(encode(params, key, images[:, modality], config, (1,))) - targets[:, modality]
        size = fitted[modality].mean.size
        found = jax.jit(objective.loss, static_argnums=(4, 5))(params, key, images, fitted, config, (1,))
        np.testing.assert_allclose(found[modality], np.sum(missed**2) / missed[..., 0].size / size, rtol=1e-4)


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


def target(fitted: teacher.Teacher, images: np.ndarray) -> np.ndarray:
    return np.asarray(teacher.target(fitted, jnp.asarray(images), PATCH))


def bumpy(seed: int = 1) -> np.ndarray:
    """A smooth relief in pixels."""
    field = np.random.default_rng(seed).standard_normal((SIZE, SIZE))
    return 40 * scipy.ndimage.gaussian_filter(field, 4, mode="wrap")


def normal_map(height: np.ndarray) -> np.ndarray:
    """Normals of a relief in 0..255, the second component upwards."""
    down, right = np.gradient(height)
    normals = np.stack([-right, down, np.ones_like(height)], axis=-1)
    return ((normals / np.linalg.norm(normals, axis=-1, keepdims=True) + 1) * 127.5).astype(np.float32)


def test_the_teacher_does_not_see_how_a_patch_is_turned():
    colours = 255 * np.random.default_rng(1).random((SIZE, SIZE, 3), np.float32)
    turned = [
        (describe_colours, colours, np.rot90(colours)),
        (describe_normals, normal_map(bumpy()), normal_map(np.rot90(bumpy()))),
    ]
    for describe, *images in turned:
        before, after = (np.asarray(describe(jnp.asarray(image), PATCH)).reshape(4, 4, -1) for image in images)
        np.testing.assert_allclose(after, np.rot90(before), atol=1e-3)
        assert np.abs(before[0, 0] - before[1, 2]).max() > 1e-2


def test_a_tilt_is_no_curvature():
    tilt, sizes, deviations = 0, slice(1, 4), slice(4, 11)
    bumps = describe_normals(jnp.asarray(normal_map(bumpy())), PATCH)
    assert (bumps[:, sizes].mean(0) > 0.02).all()
    assert (bumps[:, deviations].mean(0) > 0.01).all()
    plane = describe_normals(jnp.asarray(normal_map(np.arange(SIZE) * np.ones((SIZE, 1)))), PATCH)
    np.testing.assert_allclose(plane[:, tilt], 0.5**0.5, atol=1e-3)
    np.testing.assert_allclose(plane[:, sizes], 0, atol=1e-3)
    np.testing.assert_allclose(plane[:, deviations], 0, atol=1e-3)


def test_edges_count_by_their_strength_and_waves_by_their_deviation():
    inner, ramp = (slice(1, 3), slice(1, 3)), 3 * np.arange(SIZE, dtype=np.float32)[:, None]
    found = np.asarray(describe_colours(jnp.asarray(np.tile(ramp[..., None], (1, SIZE, 3))), PATCH)).reshape(4, 4, -1)
    np.testing.assert_allclose(found[inner][..., 3], 1.6 * 3 / 255 * 3**0.5, rtol=0.02)
    np.testing.assert_allclose(found[inner][..., -9:-3], 0, atol=2e-3)

    frequency = 2 * np.pi / PATCH
    wave = 127 + 100 * np.sin(frequency * np.arange(SIZE, dtype=np.float32))[:, None, None]
    found = np.asarray(describe_colours(jnp.asarray(np.tile(wave, (1, SIZE, 3))), PATCH)).reshape(4, 4, -1)
    square = (frequency * 1.6) ** 2
    expected = 100 / 255 * square * np.exp(-square / 2) / 2**0.5
    np.testing.assert_allclose(found[inner][..., -9:-6], expected, rtol=0.1)


def test_what_the_scanner_lost_is_no_edge_and_is_counted():
    whole = normal_map(bumpy())
    gaps = whole * (np.random.default_rng(2).random((SIZE, SIZE, 1)) > 0.1)
    before, after = (np.asarray(describe_normals(jnp.asarray(image, jnp.float32), PATCH)) for image in (whole, gaps))
    lost, surface = before.shape[1] - 2, before.shape[1] - 1
    spread = before[:, :lost].std(0)
    assert (np.abs(after - before)[:, :lost].mean(0) < 0.4 * spread).all()
    assert not before[:, lost].any()
    np.testing.assert_allclose(after[:, lost].mean(), 0.1, atol=0.02)
    np.testing.assert_allclose(after[:, surface], 1)
    nothing = describe_normals(jnp.zeros((SIZE, SIZE, 3)), PATCH)
    np.testing.assert_allclose(nothing[:, [0, lost, surface]], np.tile([1e-4, 0, 0], (16, 1)), atol=1e-6)


def test_targets_are_descriptors_beside_a_constant():
    pairs = noise(8)
    fitted = fit(pairs)
    for modality, one in enumerate(fitted):
        size = one.mean.size
        directions = one.weights / np.linalg.norm(one.weights, axis=1, keepdims=True)
        np.testing.assert_allclose(directions @ one.constant, 0, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(one.constant), (2, 1)[modality] * size**0.5, rtol=1e-4)
        targets = np.concatenate([target(fitted, image)[modality] for image in np.concatenate(pairs)])
        np.testing.assert_allclose(np.mean(np.sum((targets - one.constant) ** 2, -1)), size, rtol=1e-2)


def test_what_varies_between_good_instances_counts_for_less():
    rng = np.random.default_rng(4)
    pairs = np.full((40, 2, 2, SIZE, SIZE, 3), 90.0, np.float32)
    pairs[..., 0] += rng.uniform(0, 80, (40, 2, 1, 1, 1))  # red differs from instance to instance,
    pairs[..., 1] += rng.uniform(0, 80, (40, 1, 1, 1, 1))  # green from family to family
    fitted = fit(pairs)
    plain = np.full((2, SIZE, SIZE, 3), 120.0, np.float32)
    redder, greener = (plain + 30 * np.eye(3, dtype=np.float32)[channel] for channel in range(2))
    same, red, green = (target(fitted, image)[0, 5] for image in (plain, redder, greener))
    assert np.linalg.norm(red - same) < 0.7 * np.linalg.norm(green - same)


@pytest.fixture(scope="module")
def begin():
    """`train_builtin_encoder.start`, which takes long to compile, once for each key."""
    start, begun = train_builtin_encoder.start, {}

    def begin(key):
        name = jax.random.key_data(key).tobytes()
        if name not in begun:
            begun[name] = start(key)
        return copy.deepcopy(begun[name])  # a training gives its arrays away

    return begin


@pytest.fixture
def recipe(tmp_path, monkeypatch, begin):
    """Flags of a training of seconds."""
    monkeypatch.setattr(train_builtin_encoder, "start", begin)
    # So do these, and every training here runs the same.
    monkeypatch.setattr(
        train_builtin_encoder, "compile_programs", functools.cache(train_builtin_encoder.compile_programs)
    )
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train_builtin_encoder, "_HELD_OUT", 2)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    small = {"steps": 6, "instances": 2, "families": 4, "width": 64, "depth": 2, "size": 28, "keep_every": 2}
    with flagsaver.flagsaver(work_dir=str(tmp_path / "a"), output=str(tmp_path / "a.safetensors"), **small):
        yield tmp_path


def test_the_recipe_gives_an_encoder_and_continues_where_it_was_interrupted(recipe, monkeypatch, capsys):
    train_builtin_encoder.main(["train"])
    whole = pretrained.load(str(recipe / "a.safetensors"))
    assert whole.config.width == 64
    assert whole.groups == ((2,),)
    assert "step 6" in capsys.readouterr().out

    kept = train_builtin_encoder.store

    def interrupt(state, measured):
        kept(state, measured)
        raise KeyboardInterrupt

    with flagsaver.flagsaver(work_dir=str(recipe / "b"), output=str(recipe / "b.safetensors")):
        with monkeypatch.context() as patch:
            patch.setattr(train_builtin_encoder, "store", interrupt)
            for _ in range(2):
                with pytest.raises(SystemExit, match="interrupted; the same command continues"):
                    train_builtin_encoder.main(["train"])
        train_builtin_encoder.main(["train"])
        continued = pretrained.load(str(recipe / "b.safetensors"))
        assert continued.digest == whole.digest
        with flagsaver.flagsaver(seed=1), pytest.raises(SystemExit, match="belongs to another recipe"):
            train_builtin_encoder.main(["train"])
