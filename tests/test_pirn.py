"""The decoder against the float64 reference, and what must hold for any weights."""

import copy
import dataclasses
import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import base, conditional, pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.methods.pirn import Config, Decoder, apr, mnc, patches, prototypes
from pirn_jax.training.programs import compile_programs
from tests import reference

N, C = 20, 8
BOTH = ("rgb", "normals")
WHOLE, PART = np.ones(N, bool), np.arange(N) % 3 > 0
SMALL = Config(score="cosine", num_prototypes=4, sinkhorn_iterations=10, neighbours=2, heads=2)
# Switches act in each layer alike, and one layer compiles in half the time.
ONE = dataclasses.replace(SMALL, num_layers=1)
SWITCHES = {
    "assignment": "softmax",
    "plan_scale": "literal",
    "apr": False,
    "mnc": False,
    "injection": "paper",
    "num_layers": 2,
    "epsilon": 0.2,
    "neighbours": 1,
    "gat_residual": False,
    "gat_self_edges": False,
    "gate_init": 0.1,
}


FORMS = {
    "stop_gradient": {"injection": "stop_gradient"},
    "bottleneck": {"injection": "bottleneck"},
    "dropout": {"injection": "dropout"},
    "sigmoid": {"assignment": "sigmoid"},
    "linear": {"assignment": "linear"},
    "mean": {"contexts": "mean"},
    "nearest": {"contexts": "nearest", "context_patches": 3},
    "layer_prototypes": {"layer_prototypes": True, "num_layers": 2},
}


def features(seed=0, shape=(2, N, C)):
    return jax.random.normal(jax.random.key(seed), shape, float)


def quick(function):
    """Compiled without optimisation: few operations are run, so most of the time would go into optimising them."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def compiled(config, x64=False):
    """`init` and `apply` of a decoder, compiled once for all tests."""
    decoder = Decoder(config)
    functions = decoder.init, lambda *inputs: jax.vmap(patches.dense)(decoder.apply(*inputs))
    return tuple(map(quick, functions))


def apply(config, params, z, mask=WHOLE):
    return compiled(config, jax.config.jax_enable_x64)[1]({"params": params}, z, mask, config.epsilon)


def initialised(config, seed=0):
    init = compiled(config, jax.config.jax_enable_x64)[0]
    params = init(jax.random.key(seed), features(), WHOLE, config.epsilon)["params"]
    # Initial biases are zero and would hide a missing one.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.1 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)]
    )


def reference_weights(layer):
    """Our parameters of one layer in the shape that the reference takes."""
    pick = lambda tree, m: {name: np.asarray(value[m]) for name, value in tree.items()}  # noqa: E731
    return {
        "gru": [pick(layer["refine"], m) for m in range(2)] if "refine" in layer else None,
        "attention": [pick(layer["inject"], m) for m in range(2)] if "inject" in layer else None,
        "gamma": layer["inject"]["gamma"] if "inject" in layer else None,
        "gat": layer.get("align"),
    }


def reference_layers(params, config):
    """The same of all layers, with those prototypes that are a layer's own."""
    layers = [reference_weights(params[f"layer_{i}"]) for i in range(config.num_layers)]
    for i, layer in enumerate(layers):
        if i and config.layer_prototypes:
            layer["prototypes"] = np.asarray(params[f"prototypes_{i}"])
    return layers


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [WHOLE, PART])
@pytest.mark.parametrize("switch", [None, *SWITCHES, *FORMS])
def test_decoder_is_the_reference_on_the_patches_of_the_part(switch, mask):
    changes = FORMS[switch] if switch in FORMS else {switch: SWITCHES[switch]} if switch else {}
    config = dataclasses.replace(ONE, **changes)
    params, z = initialised(config), features()
    rebuilt = apply(config, params, z, mask)[:, mask]
    settings = {**dataclasses.asdict(config), "iterations": config.sinkhorn_iterations}
    expected = reference.decoder(
        reference_layers(params, config), np.asarray(z)[:, mask], np.asarray(params["prototypes"]), settings
    )
    np.testing.assert_allclose(rebuilt, np.stack(expected), atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_output(switch):
    config = dataclasses.replace(ONE, **{switch: SWITCHES[switch]})
    # All act on the decoder but for the initial gate, which acts on its parameters. One layer takes those of the first.
    given = initialised(SMALL), initialised(config if switch == "gate_init" else SMALL)
    outputs = [apply(c, params, features()) for c, params in zip((ONE, config), given, strict=True)]
    assert np.abs(outputs[0] - outputs[1]).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("score", ["cosine", "nearest", "both"])
def test_scores_compare_patches_with_their_reconstruction(score):
    method = pirn.build(dataclasses.replace(ONE, score=score), BOTH)
    support = Features(features(1, (3, 2, 1, N, C)).astype(jnp.float32), jnp.stack([PART, WHOLE, PART]))
    part = Features(features(2, (2, 1, N, C)).astype(jnp.float32), jnp.asarray(PART))
    learned, fixed = quick(method.start)(jax.random.key(0), support)
    found = quick(method.score)(quick(method.finalize)(learned, fixed, support), part)[:, PART]

    def unit(x):
        return np.asarray(x) / np.linalg.norm(x, axis=-1, keepdims=True)

    def residuals(values, mask):
        scaled = values[:, 0] / fixed["scale"][:, None, None]
        rebuilt = compiled(ONE)[1]({"params": learned}, scaled, mask, ONE.epsilon)
        return (unit(scaled) - unit(rebuilt))[:, mask]

    own = residuals(part.values, PART)
    if score != "cosine":
        of_good = [residuals(*of) for of in zip(support.values, np.asarray(support.mask), strict=True)]

        def squared(a, b):
            """Of both modalities, and their mean."""
            each = np.square(a[:, :, None] - b[:, None]).sum(-1)
            return np.concatenate([each, each.mean(0, keepdims=True)])

        others = [np.concatenate([b for b in of_good if b is not a], 1) for a in of_good]
        reach = np.concatenate([squared(a, b).min(-1) for a, b in zip(of_good, others, strict=True)], 1)
        reach += 3 * reach.mean(1, keepdims=True)
        expected = (squared(own, np.concatenate(of_good, 1)) / reach[:, None]).min(-1)
        if score == "both":
            good = np.moveaxis(np.concatenate(of_good, 1), 1, 0)
            fit = conditional.SHRINKAGE, conditional.RIDGE
            expected = np.concatenate([expected, reference.conditional_distances(good, own, *fit)])
    else:
        expected = (own**2).sum(-1) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_gru_is_the_reference():
    rng = np.random.default_rng(0)
    weights = {name: jnp.array(rng.normal(size=(2 * C, C))) for name in ("update", "reset", "candidate")}
    weights |= {f"{name}_bias": jnp.array(rng.normal(size=C)) for name in ("update", "reset", "candidate")}
    p, context = jnp.array(rng.normal(size=(2, 4, C)))
    np.testing.assert_allclose(apr.gru(weights, p, context), reference.gru(weights, p, context), atol=1e-7)


def test_open_update_gate_keeps_the_prototypes():
    weights = {name: jnp.zeros((2 * C, C)) for name in ("update", "reset", "candidate")}
    weights |= {f"{name}_bias": jnp.full(C, 50.0) for name in ("update", "reset", "candidate")}
    p, context = features(0, (2, 4, C))
    np.testing.assert_allclose(apr.gru(weights, p, context), p, atol=1e-6)


@pytest.mark.parametrize("self_edges", [True, False])
def test_edges_are_the_reference(self_edges):
    p = np.asarray(features(3, (2, 5, C)))
    senders, receivers = mnc.cross_modal_edges(jnp.array(p), 2, self_edges)
    expected = reference.knn_edges(p[0], p[1], 2, self_edges)
    assert sorted(zip(senders.tolist(), receivers.tolist(), strict=True)) == sorted(map(tuple, expected))


def test_more_neighbours_than_prototypes_are_refused():
    with pytest.raises(ValueError, match="6 neighbours asked for, but each modality has 5 prototypes"):
        mnc.cross_modal_edges(features(3, (2, 5, C)), 6)


def test_heads_must_divide_the_channels():
    config = dataclasses.replace(SMALL, heads=3)
    with pytest.raises(ValueError, match="8 channels cannot be divided among 3 heads"):
        base.check(pirn.build(config, BOTH), base.shapes(2, 2, 1, N, C))


@pytest.mark.parametrize("modalities", [("rgb",), ("rgb", "normals", "depth")])
def test_other_than_two_modalities_are_refused(modalities):
    text = f"^pirn exchanges prototypes between two modalities, got {', '.join(modalities)}$"
    with pytest.raises(ValueError, match=text):
        pirn.build(SMALL, modalities)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("injection", "none"),
        ("epsilon", 0.0),
        ("num_prototypes", 0),
        ("gate_init", np.nan),
        ("neighbours", 11),
        ("mining_exponent", -1.0),
        ("prototype_start", "zeros"),
        ("tokens", "raw"),
    ],
)
def test_config_refuses_what_cannot_work(name, value):
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})


def swapped(params):
    """Parameters of the decoder with the modalities exchanged; the graph attention serves both."""
    layers = {
        name: {part: tree if part == "align" else jax.tree.map(lambda x: x[::-1], tree) for part, tree in layer.items()}
        for name, layer in params.items()
        if name != "prototypes"
    }
    return {"prototypes": params["prototypes"][::-1], **layers}


@hypothesis.given(st.integers(0, 1000))
@hypothesis.settings(deadline=None, max_examples=10)
def test_swapping_modalities_swaps_the_outputs(seed):
    params, z = initialised(ONE, seed), features(seed)
    straight = apply(ONE, params, z)
    crossed = apply(ONE, swapped(params), z[::-1])
    np.testing.assert_allclose(crossed[::-1], straight, atol=2e-4)


@hypothesis.given(st.permutations(range(4)))
@hypothesis.settings(deadline=None, max_examples=10)
def test_order_of_prototypes_does_not_matter(order):
    params = initialised(ONE)
    permuted = {**params, "prototypes": params["prototypes"][:, jnp.array(order)]}
    straight, other = (apply(ONE, p, features()) for p in (params, permuted))
    np.testing.assert_allclose(other, straight, atol=2e-4)


def parts(mask=WHOLE, groups=1):
    """Features of two parts."""
    return Features(features(1, (2, 2, groups, N, C)), jnp.stack([jnp.asarray(mask), jnp.ones(N, bool)]))


@functools.cache
def start(config):
    """A method, features of two parts and the parameters it begins with, learned and fixed."""
    method, batch = pirn.build(config, BOTH), parts()
    return method, batch, *quick(method.start)(jax.random.key(0), batch)


@functools.cache
def first_gradient():
    method, batch, learned, fixed = start(SMALL)
    return quick(jax.grad(lambda p: method.loss(p, fixed, batch, jax.random.key(0))[0]))(learned)


def test_gate_is_not_inert():
    for i in range(SMALL.num_layers):
        inject = first_gradient()[f"layer_{i}"]["inject"]
        assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(inject["gamma"]))
        assert np.abs(inject["value"]).max() > 0


def test_every_learned_parameter_has_a_gradient():
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(first_gradient()))


def test_optimiser_moments_exist_for_learned_parameters_alone():
    method, batch, learned, fixed = start(SMALL)
    programs = compile_programs(method)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    shared, rate = jax.tree.map(lambda x: x[None], batch), np.float32(Recipe().learning_rate)
    start_of = keys, shared, np.zeros(1, int), np.zeros((1, 2), int), rate, programs.constants
    state = programs.init.shapes(*start_of)
    for moments in (state.optimizer.mu, state.optimizer.nu):
        assert jax.tree.map(lambda x: x.shape[1:], moments) == jax.tree.map(jnp.shape, learned)
    assert jax.tree.map(lambda x: x.shape[1:], state.fixed) == jax.tree.map(jnp.shape, fixed)
    assert fixed.keys() == {"scale", "epsilon"}


def test_score_does_not_depend_on_the_scale_of_the_features():
    # The paper's distances are cosines: multiplying one modality's features changes nothing.
    method, batch, _, _ = start(SMALL)
    factor = jnp.array([7.0, 0.01])[:, None, None, None]
    score = quick(lambda x: method.score(method.start(jax.random.key(0), x), base.take(x, 0)))
    plain, scaled = score(batch), score(batch._replace(values=batch.values * factor))
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


@functools.cache
def outcome(**switch):
    """A function of a batch: fixed parameters, loss, metrics and gradient, and distances of the first part."""
    method = pirn.build(dataclasses.replace(SMALL, num_layers=1, **switch), BOTH)

    def run(batch):
        learned, fixed = method.start(jax.random.key(0), batch)
        loss = jax.value_and_grad(method.loss, has_aux=True)(learned, fixed, batch, jax.random.key(0))
        return fixed, *loss, method.score((learned, fixed), base.take(batch, 0))

    return quick(run)


@pytest.mark.parametrize("switch", [{}, {"injection": "paper"}])
def test_patches_off_the_part_change_nothing_on_it(switch):
    run, batch = outcome(**switch), parts(PART)
    on = batch.mask[:, None, None, :, None]
    others = jnp.where(on, batch.values, 5.0 * features(2, batch.values.shape))
    *plain, distances = run(batch)
    *found, of_others = run(batch._replace(values=others))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), found, plain)
    np.testing.assert_allclose(of_others[:, PART], distances[:, PART], atol=1e-6)
    # They would, if they showed the part.
    moved = run(Features(others, jnp.ones_like(batch.mask)))[1][0]
    assert abs(moved - plain[1][0]) > 1e-4


def test_layer_groups_are_averaged():
    run, batch = outcome(), parts(PART, groups=3)
    mean = batch._replace(values=batch.values.mean(2, keepdims=True))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), run(batch), run(mean))


@pytest.mark.parametrize("mnc", [True, False])
def test_gates_and_use_of_prototypes_are_told_with_the_loss(mnc):
    config = dataclasses.replace(SMALL, mnc=mnc)
    method, batch, learned, fixed = start(config)
    learned = copy.deepcopy(learned)
    if mnc:
        for i, gamma in enumerate(([0.1, 2.0], [0.3, -1.0])):
            learned[f"layer_{i}"]["inject"]["gamma"] = jnp.array(gamma)
    loss, told = quick(method.loss)(learned, fixed, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, (told["loss_rgb"] + told["loss_normals"]) / 2, rtol=1e-6)
    assert all(1 / config.num_prototypes <= told[f"prototype_use_{m}"] <= 1 for m in BOTH)
    assert told["prototype_use_rgb"] != told["prototype_use_normals"]
    assert all(0 < told[f"column_error_{m}"] < 1 for m in BOTH)
    assert ("gate_rgb" in told) == mnc
    if mnc:
        np.testing.assert_allclose(told["gate_rgb"], (np.tanh(0.1) + np.tanh(0.3)) / 2, rtol=1e-6)
        np.testing.assert_allclose(told["gate_normals"], (np.tanh(2.0) + np.tanh(-1.0)) / 2, rtol=1e-6)


def test_nothing_learns_to_copy_where_the_gradient_is_stopped():
    functions = {}
    for form in ("paper", "stop_gradient"):
        method = pirn.build(dataclasses.replace(ONE, injection=form), BOTH)
        functions[form] = quick(
            jax.value_and_grad(lambda p, f, b, loss=method.loss: loss(p, f, b, jax.random.key(0))[0])
        )
    _, batch, learned, fixed = start(ONE)
    (value, gradient), (same, other) = (function(learned, fixed, batch) for function in functions.values())
    np.testing.assert_allclose(same, value, rtol=1e-6)
    assert np.abs(other["prototypes"] - gradient["prototypes"]).max() > 1e-4 * np.abs(gradient["prototypes"]).max()


def test_dropout_leaves_out_the_terms_of_some_patches_in_training_alone():
    z, z_bpa, p = features(1, (N, C)), features(2, (N, C)), features(3, (3, C))
    layer = mnc.Injection("dropout")
    params = layer.init(jax.random.key(0), z, z_bpa, p)
    whole, purified = layer.apply(params, z, z_bpa, p), mnc.purify(z, z_bpa)
    of_steps = [layer.apply(params, z, z_bpa, p, rngs={"dropout": jax.random.key(step)}) for step in range(2)]
    # Of a patch nothing is left, or twice the term, so that the mean over steps is that of scoring.
    times = [np.asarray((found - whole + purified) / purified) for found in of_steps]
    for one in times:
        np.testing.assert_allclose(one, np.round(one[:, :1]) * np.ones(C), atol=2e-3)
        assert set(np.round(one[:, 0])) == {0.0, 2.0}
    assert (np.round(times[0]) != np.round(times[1])).any()


@pytest.mark.parametrize("exponent", [0.0, 3.0])
def test_mining_weighs_gradients(exponent):
    def gradient(mining):
        method = pirn.build(dataclasses.replace(ONE, mining_exponent=mining), BOTH)
        _, batch, learned, fixed = start(ONE)
        return quick(jax.grad(lambda p: method.loss(p, fixed, batch, jax.random.key(0))[0]))(learned)["prototypes"]

    assert np.abs(gradient(exponent) - gradient(1.5)).max() > 1e-5


def test_drawn_prototypes_are_patches_of_the_part():
    rows, mask = features(4, (30, C)), np.arange(30) % 2 > 0
    found = np.asarray(prototypes.draw(jax.random.key(1), rows, jnp.asarray(mask), 10))
    which = [np.flatnonzero((rows == row).all(-1)).item() for row in found]
    assert len(set(which)) == 10
    assert mask[which].all()
    few = np.asarray(prototypes.draw(jax.random.key(1), rows, jnp.arange(30) < 4, 10))
    assert {np.flatnonzero((rows == row).all(-1)).item() for row in few} == {0, 1, 2, 3}


def test_means_are_those_of_the_nearest_patches_of_the_part():
    centres = 10.0 * features(5, (3, C))
    rows = jnp.concatenate([centres[:, None] + 0.1 * features(6, (3, 10, C)), 99.0 + features(7, (3, 2, C))], 1)
    mask = np.arange(12) < np.full((3, 1), 10)
    found = np.asarray(prototypes.kmeans(jax.random.key(2), rows.reshape(-1, C), jnp.asarray(mask.ravel()), 6))
    kept = np.asarray(rows)[mask]
    member = ((kept[:, None] - found) ** 2).sum(-1).argmin(1)
    for i in np.unique(member):
        np.testing.assert_allclose(found[i], kept[member == i].mean(0), atol=1e-4)


@pytest.mark.parametrize("form", ["patches", "kmeans"])
def test_a_decoder_starts_where_its_config_says(form):
    config = dataclasses.replace(SMALL, prototype_start=form, layer_prototypes=True)
    _, batch, learned, fixed = start(config)
    rows = np.moveaxis(np.asarray(batch.values[:, :, 0]), 1, 0).reshape(2, -1, C) / fixed["scale"][:, None, None]
    for m in range(2):
        apart = np.abs(learned["prototypes"][m][:, None] - rows[m]).max(-1).min(1)
        assert (apart < 1e-5).all() == (form == "patches")
        assert np.abs(learned["prototypes"][m]).max() < np.abs(rows[m]).max() + 1e-5
    np.testing.assert_array_equal(learned["prototypes"], learned["prototypes_1"])


@pytest.mark.parametrize("form", prototypes.STARTS)
def test_a_part_of_fewer_patches_than_prototypes_has_finite_results(form):
    method = pirn.build(dataclasses.replace(ONE, prototype_start=form, score="nearest"), BOTH)
    batch = parts()._replace(mask=jnp.arange(N) < jnp.array([[2], [1]]))

    def run(batch):
        learned, fixed = method.start(jax.random.key(0), batch)
        gradient = jax.grad(lambda p: method.loss(p, fixed, batch, jax.random.key(0))[0])(learned)
        params = method.finalize(learned, fixed, batch)
        return learned, gradient, method.score(params, base.take(batch, 0))[:, :2]

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(quick(run)(batch)))


@pytest.mark.parametrize(
    ("tokens", "change"),
    [
        ("length", lambda x: x * (1.0 + jnp.arange(N)[:, None])),
        ("standardise", lambda x: x * (1.0 + jnp.arange(C)) + jnp.arange(C)),
    ],
)
def test_tokens_do_not_depend_on_what_is_normalised(tokens, change):
    def score(form, batch):
        method = pirn.build(dataclasses.replace(ONE, tokens=form), BOTH)
        return quick(lambda x: method.score(method.start(jax.random.key(0), x), base.take(x, 0)))(batch)

    batch = parts()
    changed = batch._replace(values=change(batch.values))
    np.testing.assert_allclose(score(tokens, changed), score(tokens, batch), atol=1e-3)
    assert np.abs(score("scale", changed) - score("scale", batch)).max() > 1e-2


def test_gates_start_as_the_config_says():
    _, _, learned, _ = start(dataclasses.replace(SMALL, gate_init=0.25))
    for i in range(SMALL.num_layers):
        np.testing.assert_array_equal(learned[f"layer_{i}"]["inject"]["gamma"], [0.25, 0.25])
