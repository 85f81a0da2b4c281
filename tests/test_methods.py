"""The interface of methods and their catalogue."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pirn_jax import methods, scoring
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.methods import base
from pirn_jax.methods.base import Features, Method, Preset, Recipe
from pirn_jax.study.spec import Spec, shots_note, views_note
from pirn_jax.training import parallel, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

BOTH = ("rgb", "normals")
PARTS, N, C = 3, 9, 4
ENTRIES = [(name, preset) for name, entry in methods.METHODS.items() for preset in entry.presets]


def centre(key, support):
    del key
    return {}, {"centre": jnp.mean(support.values, axis=(0, 2, 3)), "power": jnp.asarray(1.0)}


def from_centre(params, features):
    _, fixed = params
    away = jnp.linalg.norm(features.values[:, 0] - fixed["centre"][:, None], axis=-1)
    return away ** fixed["power"]


def toy(power=2.0):
    """Distances to the mean patch, without anything to learn by gradient descent."""
    return Method(BOTH, centre, from_centre, constants={"power": power})


def support():
    values = jax.random.normal(jax.random.key(0), (2, PARTS, 2, 1, N, C))
    return Features(values, jnp.ones((2, PARTS, N), bool))


def study(method, recipe=None):
    runs, category, chosen = [Run("a", 2, 0), Run("b", 2, 0)], np.arange(2), np.array([[0, 2], [1, 0]])
    trained, history = train.train(compile_programs(method), runs, support(), category, chosen, recipe)
    return trained, history, scoring.score(scoring.compile_program(method), trained.params, support(), category)


def test_a_method_without_loss_is_trained_and_scored():
    trained, history, distances = study(toy())
    assert history == {}
    learned, fixed = parallel.collect(trained.params)
    assert learned == {}
    values = np.asarray(support().values)
    expected = np.stack([values[0, [0, 2]].mean((0, 2, 3)), values[1, [1, 0]].mean((0, 2, 3))])
    np.testing.assert_allclose(fixed["centre"], expected, rtol=1e-5)
    squares = ((values[:, :, :, 0] - expected[:, None, :, None]) ** 2).sum(-1)
    np.testing.assert_allclose(distances, squares, rtol=1e-4)


def farthest(learned, fixed, support):
    """A bank of the corners of the box around the good parts, and what the method learned."""
    del fixed
    axes = (0, 2, 3)
    return {"bank": jnp.stack([support.values.min(axes), support.values.max(axes)]), "learned": learned}


def from_bank(params, features):
    apart = jnp.linalg.norm(features.values[:, 0] - params["bank"][:, :, None], axis=-1)
    return apart.min(0)


def test_a_method_without_loss_is_scored_by_what_it_finalises():
    method = toy()._replace(score=from_bank, finalize=farthest)
    trained, history, distances = study(method)
    assert history == {}
    episodes = np.asarray(support().values)[np.arange(2)[:, None], [[0, 2], [1, 0]]]
    bank = np.stack([episodes.min((1, 3, 4)), episodes.max((1, 3, 4))], axis=1)
    np.testing.assert_allclose(parallel.collect(trained.params)["bank"], bank, rtol=1e-6)
    values = np.asarray(support().values)[:, :, :, 0]
    apart = [np.linalg.norm(values - bank[:, None, i, :, None], axis=-1) for i in range(2)]
    np.testing.assert_allclose(distances, np.minimum(*apart), rtol=1e-4)


def test_a_loss_moves_what_is_learned_alone_and_finalize_takes_it_as_trained():
    def init(key, support):
        del key
        return {"x": jnp.zeros(())}, {"goal": support.values.mean(), "unused": jnp.ones(3)}

    def loss(learned, fixed, batch, key):
        del key
        # Both would fall, if both were trained.
        value = (learned["x"] - fixed["goal"] - 1.0) ** 2 + fixed["unused"].sum() + 0.0 * batch.values.sum()
        return value, {"x": learned["x"]}

    method = Method(BOTH, init, from_bank, loss, farthest)
    recipe = Recipe(epochs=200, learning_rate=0.05, batch_size=2)
    trained, history, _ = study(method, recipe)
    learned, fixed, params = map(parallel.collect, trained)
    goal = [np.asarray(support().values)[i, chosen].mean() for i, chosen in enumerate(([0, 2], [1, 0]))]
    np.testing.assert_allclose(fixed["goal"], goal, rtol=1e-5)
    np.testing.assert_array_equal(fixed["unused"], np.ones((2, 3)))
    np.testing.assert_allclose(learned["x"], fixed["goal"] + 1.0, atol=1e-2)
    np.testing.assert_array_equal(params["learned"]["x"], learned["x"])
    assert history.keys() == {"loss", "x"}
    assert history["loss"].shape == (2, 200)


def test_a_method_without_loss_takes_no_steps():
    programs = compile_programs(toy())
    assert programs.steps is None
    with pytest.raises(ValueError, match="takes no steps"):
        train.advance(programs, [], support(), np.zeros(0, int), np.zeros((0, 1, 1), int))


def test_constants_share_compiled_programs_and_change_the_result():
    programs = [compile_programs(toy(power)) for power in (1.0, 2.0)]
    assert programs[0].init is programs[1].init
    assert scoring.compile_program(toy(1.0)) is scoring.compile_program(toy(2.0))
    one, two = (study(toy(power))[2] for power in (1.0, 2.0))
    np.testing.assert_allclose(two, one**2, rtol=1e-4)


def test_configs_of_pirn_that_differ_in_epsilon_share_all_programs_within_a_domain():
    first, second, small = (
        methods.find("pirn").build(dataclasses.replace(methods.choose("pirn", "default").config, epsilon=epsilon), BOTH)
        for epsilon in (0.05, 0.2, 0.01)
    )
    assert first[:-2] != small[:-2]
    assert first._replace(constants={}) == second._replace(constants={})
    assert first.constants != second.constants
    programs = [compile_programs(method) for method in (first, second)]
    assert all(getattr(programs[0], name) is getattr(programs[1], name) for name in ("init", "steps", "finalize"))


def test_a_method_that_returns_another_number_of_maps_is_refused():
    shapes = base.shapes(PARTS, 2, 1, N, C)
    base.check(toy(), shapes)
    with pytest.raises(ValueError, match=re.escape(f"returns distances (2, {N}), not (3, {N}): a map each of")):
        base.check(toy()._replace(maps=("rgb", "normals", "both")), shapes)


def test_heads_that_do_not_divide_the_channels_are_refused():
    entry = methods.find("pirn")
    method = entry.build(entry.config(heads=4), BOTH)
    base.check(method, base.shapes(PARTS, 2, 1, N, 8))
    with pytest.raises(ValueError, match="6 channels cannot be divided among 4 heads"):
        base.check(method, base.shapes(PARTS, 2, 1, N, 6))


def test_unknown_names_are_refused_with_the_choices():
    choices = "pirn, uip_ad, cfr, cfm, inp_former, patchcore"
    with pytest.raises(ValueError, match=f"unknown method 'inp'; choose one of {choices}"):
        methods.find("inp")
    with pytest.raises(
        ValueError, match="unknown preset 'fast' of patchcore; choose one of default, paper, anomaly_dino"
    ):
        methods.choose("patchcore", "fast")
    with pytest.raises(ValueError, match="unknown method 'inp'"):
        methods.choose("inp", "default")


@pytest.mark.parametrize(("name", "preset"), ENTRIES)
def test_every_preset_is_a_method_of_its_entry(name, preset):
    entry, found = methods.find(name), methods.choose(name, preset)
    assert isinstance(found, Preset)
    assert isinstance(found.config, entry.config)
    method = entry.build(found.config, BOTH)
    assert (method.loss is None) == (found.recipe is None)
    assert len(set(method.maps)) == len(method.maps) > 0
    base.check(method, base.shapes(PARTS, 2, 1, N, 24))


@pytest.mark.parametrize("name", methods.METHODS)
def test_the_default_preset_is_the_default_config(name):
    assert methods.choose(name, "default").config == methods.find(name).config()


@pytest.mark.parametrize("config", [Recipe, *(entry.config for entry in methods.METHODS.values())])
def test_every_setting_is_documented_and_settings_are_values(config):
    # Flags take their help from these lines, and compiled programs are found by these values.
    text = inspect.getdoc(config).partition("Attributes:")[2]
    told = re.findall(r"^  (\w+): \S", text, re.MULTILINE)
    assert told == [field.name for field in dataclasses.fields(config)]
    assert config() == config()
    assert hash(config()) == hash(config())


@pytest.mark.parametrize(
    ("name", "recipe", "text"),
    [
        ("pirn", None, "pirn needs a recipe"),
        ("patchcore", Recipe(), "patchcore learns nothing by gradient descent, so takes no recipe"),
    ],
)
def test_a_study_has_a_recipe_if_and_only_if_its_method_descends(name, recipe, text):
    config, encoder = methods.choose(name, "default").config, pretrained.load("builtin")
    with pytest.raises(ValueError, match=text):
        Spec("mvtec3d", (2,), 1, name, config, recipe, encoder, Preparation(56))
    other = Recipe() if recipe is None else None
    built = Spec("mvtec3d", (2,), 1, name, config, other, encoder, Preparation(56)).build()
    assert built.maps[:3] == (*BOTH, "joint")


@pytest.mark.parametrize(
    ("name", "shots", "expected"),
    [
        ("cfr", (1, 2, 4), ""),
        ("cfr", (2, 5, 10), "cfr is published with 1 and 4 good parts; with 5 or 10 its settings may not be the best"),
        ("uip_ad", (10,), "uip_ad is published with all good parts; with 10 its settings may not be the best"),
        ("patchcore", (10,), ""),
    ],
)
def test_numbers_of_good_parts_that_a_method_was_not_made_for_are_told(name, shots, expected):
    preset, encoder = methods.choose(name, "default"), pretrained.load("builtin")
    spec = Spec("mvtec3d", shots, 1, name, preset.config, preset.recipe, encoder, Preparation(56))
    assert shots_note(spec) == expected


@pytest.mark.parametrize(
    ("shots", "augmentation", "told"), [(1, "none", True), (1, "rotations", False), (2, "none", False)]
)
def test_views_are_named_where_a_single_part_is_seen_once(shots, augmentation, told):
    preset, encoder = methods.choose("gaussian", "default"), pretrained.load("chroma")
    given = "procedural", (shots,), 1, "gaussian", preset.config, None, encoder, Preparation()
    assert ("--augmentation=rotations" in views_note(Spec(*given, augmentation=augmentation))) == told


@pytest.mark.parametrize(("schedule", "ends"), [("constant", (1.0, 1.0, 1.0)), ("cosine", (0.0, 1.0, 0.1))])
def test_a_schedule_gives_each_step_its_share_of_the_learning_rate(schedule, ends):
    rates = Recipe(schedule=schedule).rates(200)
    assert rates.shape == (200,)
    np.testing.assert_allclose([rates[0], rates[10], rates[-1]], ends, atol=1e-3)
    assert (np.diff(rates[10:]) <= 0).all()


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="unknown schedule 'linear'; choose one of constant, cosine"):
        Recipe(schedule="linear")


def test_steps_follow_the_method_s_optimizer_and_the_recipe_s_schedule():
    # Of plain gradient descent on x the sum of all rates is the way that x takes.
    def init(key, support):
        del key, support
        return {"x": jnp.zeros(())}, {"centre": jnp.zeros((2, C)), "power": jnp.asarray(1.0)}

    def loss(learned, fixed, batch, key):
        del fixed, key
        return learned["x"] + 0.0 * batch.values.sum(), {}

    method = toy()._replace(init=init, loss=loss, optimizer=optax.identity())
    recipe = Recipe(epochs=25, learning_rate=0.1, batch_size=2, schedule="cosine")
    trained, _, _ = study(method, recipe)
    np.testing.assert_allclose(parallel.collect(trained.learned)["x"], -0.1 * recipe.rates(25).sum(), rtol=1e-4)


@pytest.mark.parametrize("name", methods.METHODS)
def test_published_results_are_fractions_with_their_source(name):
    rows = methods.find(name).published
    for row in rows:
        told = [row.image_auroc, *(value for value in (row.pixel_auroc, row.aupro_30) if value is not None)]
        assert all(0 < value <= 1 for value in told)
        assert row.source
        assert row.categories > 0
        assert row.shots == "all" or int(row.shots) > 0
    assert len({(row.dataset, row.shots, row.source) for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch_size", -1), ("learning_rate", 0.0), ("learning_rate", np.inf), ("learning_rate", np.nan)],
)
def test_a_recipe_refuses_what_cannot_work(field, value):
    with pytest.raises(ValueError, match=f"{field} must be positive and finite, not {value}"):
        Recipe(**{field: value})
