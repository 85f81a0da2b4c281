"""Many runs in one program: equal to each alone, compiled once, repeatable; and which parts they see."""

import dataclasses
import itertools
import logging
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pirn_jax import scoring, threads
from pirn_jax.data.problems import InputError
from pirn_jax.methods import base, pirn
from pirn_jax.methods.base import Features, Method, Recipe
from pirn_jax.training import episodes, parallel, sizes, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

BOTH = ("rgb", "normals")
CONFIG = pirn.Config(score="cosine", num_prototypes=4, sinkhorn_iterations=5, neighbours=2, heads=2, num_layers=1)
METHOD = pirn.build(CONFIG, BOTH)
RECIPE = Recipe(epochs=100, learning_rate=3e-3, batch_size=2)
CATEGORIES, PARTS, N, C = 2, 6, 16, 8
RUNS = [Run(category, 4, seed) for category in ("a", "b") for seed in range(2)]


@pytest.fixture(scope="module")
def features():
    """Normal patches are few patterns with noise, so that there is something to learn."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(CATEGORIES, 1, 2, 3, C))[..., rng.integers(3, size=N), :]
    values = patterns + 0.3 * rng.normal(size=(CATEGORIES, PARTS, 2, N, C))
    # The first part is seen in few patches.
    mask = np.ones((CATEGORIES, PARTS, N), bool)
    mask[:, 0, 10:] = False
    return Features(jnp.array(values[..., None, :, :], jnp.float32), jnp.array(mask))


def train_runs(runs, features, method=METHOD, recipe=RECIPE):
    """The trained runs, their losses, and their categories."""
    category = np.array(["ab".index(run.category) for run in runs])
    chosen = np.array([episodes.draw(run, PARTS) for run in runs])
    trained, history = train.train(compile_programs(method), runs, features, category, chosen, recipe)
    return trained, history["loss"], category


@pytest.fixture(scope="module")
def trained(features):
    return train_runs(RUNS, features)


def test_loss_falls_for_every_run(trained):
    _, losses, _ = trained
    assert losses.shape == (4, 200)
    assert (losses[:, -10:].mean(1) < 0.5 * losses[:, :10].mean(1)).all()


def test_runs_together_equal_runs_alone(trained, features):
    together, losses, _ = trained
    params = parallel.collect(together.params)
    for i, run in enumerate(RUNS[:2]):
        alone, loss, _ = train_runs([run], features)
        np.testing.assert_allclose(loss[0], losses[i], rtol=1e-5)
        found = parallel.collect(alone.params)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[0], y[i], atol=1e-5), found, params)


def test_training_is_repeatable_bit_by_bit(trained, features):
    again = train_runs(RUNS, features)
    jax.tree.map(np.testing.assert_array_equal, again[0], trained[0])


def test_training_moves_no_fixed_parameter(trained, features):
    programs, category = compile_programs(METHOD), trained[2]
    chosen = np.array([episodes.draw(run, PARTS) for run in RUNS])
    start = train.initialise(programs, RUNS, features, category, chosen, RECIPE, RECIPE.batch_size)
    before, after = ([of.learned for of in start], [of.fixed for of in start]), trained[0]
    fixed, learned = parallel.collect(after.fixed), parallel.collect(after.learned)
    jax.tree.map(np.testing.assert_array_equal, fixed, parallel.collect(before[1]))
    jax.tree.map(np.testing.assert_array_equal, (learned, fixed), parallel.collect(after.params))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), learned, parallel.collect(before[0]))
    assert min(jax.tree.leaves(moved)) > 1e-3
    np.testing.assert_array_equal(fixed["epsilon"], np.full(len(RUNS), CONFIG.epsilon, np.float32))


def test_shares_of_the_runs_equal_all_runs_in_one_call(trained, features, monkeypatch):
    def everything():
        trained, losses, category = train_runs(RUNS, features)
        distances = scoring.score(scoring.compile_program(METHOD), trained.params, features, category)
        return parallel.collect(trained.params), losses, distances

    assert len(threads.shares(len(RUNS), 2)) == 2
    cut = everything()
    monkeypatch.setattr(threads, "shares", lambda count, least=1: [slice(0, count)])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), cut, everything())


def test_programs_call_no_library_that_waits_in_the_threads_of_xla(features):
    """LAPACK's and FFT's calls wait there for others of their kind; as many programs at once as threads never end."""
    programs, category, chosen = compile_programs(METHOD), np.zeros(2, int), np.zeros((2, 4), int)
    start = jax.random.split(jax.random.key(0), 2), features, category, chosen, np.float32(1), programs.constants
    state = programs.init.shapes(*start)
    params, keys = (state.learned, state.fixed), jax.random.split(jax.random.key(0), (2, 2))
    texts = [
        programs.init.compile(*start).as_text(),
        programs.steps.compile(
            state, features, category, np.zeros((2, 2, 2), int), np.ones(2, np.float32), keys
        ).as_text(),
        scoring.compile_program(METHOD).compile(params, features, category, np.zeros(2, int)).as_text(),
        scoring.compile_support_program(METHOD).compile(params, features, category, chosen).as_text(),
    ]
    called = [name for text in texts for name in re.findall(r'custom_call_target="([^"]*)"| (fft)\(', text)]
    assert {"".join(name) for name in called} == {"TopK"}


def test_seeds_and_categories_differ(trained):
    losses = trained[1]
    assert len(np.unique(losses[:, 0])) == len(RUNS)


@pytest.mark.usefixtures("compilations_told")
def test_steps_compile_once_for_all_epsilons_and_learning_rates(features):
    compiled, losses = [], []

    class Listener(logging.Handler):
        def emit(self, record):
            if "Compiling" in record.getMessage() and "jit(steps)" in record.getMessage():
                compiled.append(record.getMessage())

    logger, listener = logging.getLogger("jax._src.interpreters.pxla"), Listener()
    logger.addHandler(listener)
    try:
        recipe = Recipe(epochs=75, batch_size=3)
        assert len(episodes.batches(RUNS[0], recipe.epochs, recipe.batch_size)) > 3 * train.MAX_STEPS_PER_CALL
        for epsilon, rate in ((0.05, 1e-3), (0.2, 1e-3), (0.05, 3e-3)):
            method = pirn.build(dataclasses.replace(CONFIG, epsilon=epsilon), BOTH)
            recipe = dataclasses.replace(recipe, learning_rate=rate)
            losses.append(train_runs(RUNS, features, method, recipe)[1])
    finally:
        logger.removeHandler(listener)
    assert len(compiled) == 1
    assert all((a != b).any() for a, b in itertools.combinations(losses, 2))


def test_scoring_batches_do_not_matter(trained, features):
    params, _, category = trained[0].params, *trained[1:]
    program = scoring.compile_program(METHOD)
    distances, score_one = scoring.score(program, params, features, category), jax.jit(METHOD.score)
    assert distances.shape == (4, PARTS, 2, N)
    for i, run in enumerate(category):
        of_run = jax.tree.map(lambda x, i=i: x[i], parallel.collect(params))
        for part in (0, 5):
            one = score_one(of_run, base.take(features, run, part))
            np.testing.assert_allclose(distances[i, part], jnp.where(features.mask[run, part], one, 0.0), atol=1e-5)


def test_support_is_scored_like_test_samples_if_the_method_keeps_none_of_it(trained, features):
    found, _, category = trained
    chosen = np.array([episodes.draw(run, PARTS) for run in RUNS])
    own = scoring.score_support(scoring.compile_support_program(METHOD), found.params, features, category, chosen)
    every = scoring.score(scoring.compile_program(METHOD), found.params, features, category)
    np.testing.assert_allclose(own, np.take_along_axis(every, chosen[..., None, None], axis=1), atol=1e-5)


def test_defects_score_above_normal_patches(trained, features):
    params, category = trained[0].params, trained[2]
    # A patch that no pattern resembles, in both modalities, at position 3 of the last part.
    strange = jax.random.normal(jax.random.key(9), (C,)) * 2
    damaged = features._replace(values=features.values.at[:, 5, :, :, 3].set(strange))
    distances = scoring.score(scoring.compile_program(METHOD), params, damaged, category).sum(2)
    others = np.delete(distances[:, 5], 3, axis=1)
    assert (distances[:, 5, 3] > others.mean(1) + 2 * others.std(1)).all()


def test_a_loss_that_is_not_finite_is_named():
    def loss(learned, fixed, batch, key):
        del key
        # Adam lowers x by one a step: not a number from step 3 in the second run, and from step 5 in the first.
        x = learned["x"]
        return jnp.where(x < 2 * fixed["seed"] - 3.5, jnp.nan, x) + 0 * batch.values.sum(), {}

    method = Method(
        maps=BOTH,
        init=lambda key, support: ({"x": jnp.array(0.0)}, {"seed": support.values[0, 0, 0, 0, 0]}),
        loss=loss,
        score=lambda params, features: features.values[:, 0, :, 0],
    )
    values = jnp.stack([jnp.full((PARTS, 2, 1, N, C), i, float) for i in range(2)])
    features = Features(values, jnp.ones((2, PARTS, N), bool))
    recipe = Recipe(epochs=10, learning_rate=1.0, batch_size=4)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 3 of b, 4 shots, seed 1"):
        train_runs([Run("a", 4, 0), Run("b", 4, 1)], features, method, recipe)


def test_adam_is_optax_adam(features):
    # One run by hand, step by step, from the same start.
    run, method = RUNS[0], METHOD
    recipe = Recipe(epochs=2, learning_rate=1e-3, batch_size=2)
    trained, _, _ = train_runs([run], features, recipe=recipe)
    chosen = episodes.draw(run, PARTS)
    key = jax.random.key(int(episodes.generator(run, "params").integers(2**31)))
    expected, fixed = jax.jit(method.start)(key, base.take(features, 0, chosen))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(expected)
    gradient = jax.jit(jax.grad(lambda p, batch: method.loss(p, fixed, batch, jax.random.key(0))[0]))
    for batch in episodes.batches(run, 2, 2):
        updates, state = optimizer.update(gradient(expected, base.take(features, 0, chosen[batch])), state)
        expected = optax.apply_updates(expected, updates)
    found = parallel.collect(trained.learned)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x[0], y, atol=1e-5), found, expected)


@hypothesis.given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5))
def test_every_part_is_seen_as_often_as_there_are_epochs(shots, epochs, batch_size):
    order = episodes.batches(Run("a", shots, 0), epochs, batch_size)
    assert order.shape == (-(-epochs * shots // batch_size), batch_size)
    counts = np.bincount(order.ravel()[: epochs * shots], minlength=shots)
    assert (counts == epochs).all()
    assert sorted(order.ravel()[:shots]) == list(range(min(shots, order.size)))


def test_episodes_are_drawn_without_replacement_and_nested():
    many, few = (episodes.draw(Run("bagel", shots, 3), 50) for shots in (50, 5))
    assert sorted(many) == list(range(50))
    np.testing.assert_array_equal(many[:5], few)


def test_episodes_differ_by_seed_and_category_and_not_by_run_order():
    draws = {tuple(episodes.draw(Run(c, 10, s), 50)) for c in ("bagel", "rope") for s in range(5)}
    assert len(draws) == 10
    # A recorded draw: numbers of a study must not move with a release.
    assert episodes.draw(Run("bagel", 5, 0), 50).tolist() == RECORDED


RECORDED = [21, 18, 47, 44, 12]


def test_more_shots_than_parts_are_refused():
    with pytest.raises(InputError, match="bagel: 11 shots asked for, but only 10 good parts"):
        episodes.draw(Run("bagel", 11, 0), 10)


@pytest.mark.parametrize("steps", [1, 2, 20, 50, 97, 400, 2000])
def test_steps_per_call_divide_all_steps(steps):
    length = train.steps_per_call(steps)
    assert steps % length == 0
    assert length <= train.MAX_STEPS_PER_CALL


def test_recipe_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="epochs must be zero or more, not -1"):
        Recipe(epochs=-1)


def test_without_epochs_a_run_stays_as_it_starts(features):
    programs, category, chosen = (
        compile_programs(METHOD),
        np.array([0]),
        np.array([episodes.draw(RUNS[0], PARTS)]),
    )
    found, history = train.train(programs, RUNS[:1], features, category, chosen, Recipe(epochs=0))
    start = train.initialise(programs, RUNS[:1], features, category, chosen, RECIPE)
    for a, b in zip(*map(jax.tree.leaves, (found.learned[0], start[0].learned)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not history
    assert episodes.batches(RUNS[0], 0, 4).shape == (0, 4)


@pytest.mark.parametrize("runs", [1, 9, 10, 11, 60, 61, 300])
def test_groups_are_of_one_size_and_hold_all_runs(runs):
    size = sizes.runs_at_once(runs)
    assert 1 <= size <= 10
    assert -(-runs // size) * size - runs < size
