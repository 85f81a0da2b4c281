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

from pirn_jax.pirn import Config, Decoder, communication, patches, pirn, prototypes
from tests import reference

N, C = 20, 8
SMALL = Config(num_prototypes=4, sinkhorn_iterations=10, neighbours=2, heads=2)
SWITCHES = {
    "assignment": "softmax",
    "plan_scale": "literal",
    "apr": False,
    "mnc": False,
    "injection": "paper",
    "num_layers": 1,
    "epsilon": 0.2,
    "neighbours": 1,
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


def apply(config, params, z):
    return compiled(config, jax.config.jax_enable_x64)[1]({"params": params}, z, config.epsilon)


def initialised(config, seed=0):
    params = compiled(config, jax.config.jax_enable_x64)[0](jax.random.key(seed), features(), config.epsilon)["params"]
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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("switch", [None, *SWITCHES])
def test_decoder_is_the_reference(switch):
    config = dataclasses.replace(SMALL, **({switch: SWITCHES[switch]} if switch else {}))
    params, z = initialised(config), features()
    rebuilt = apply(config, params, z)
    layers = [reference_weights(params[f"layer_{i}"]) for i in range(config.num_layers)]
    settings = {**dataclasses.asdict(config), "iterations": config.sinkhorn_iterations}
    expected = reference.decoder(layers, np.asarray(z), np.asarray(params["prototypes"]), settings)
    np.testing.assert_allclose(rebuilt, np.stack(expected), atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_output(switch):
    config = dataclasses.replace(SMALL, **{switch: SWITCHES[switch]})
    params = initialised(SMALL)
    outputs = [apply(c, params, features()) for c in (SMALL, config)]
    assert np.abs(outputs[0] - outputs[1]).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.usefixtures("x64")
def test_gru_is_the_reference():
    rng = np.random.default_rng(0)
    weights = {name: jnp.array(rng.normal(size=(2 * C, C))) for name in ("update", "reset", "candidate")}
    weights |= {f"{name}_bias": jnp.array(rng.normal(size=C)) for name in ("update", "reset", "candidate")}
    p, context = jnp.array(rng.normal(size=(2, 4, C)))
    np.testing.assert_allclose(prototypes.gru(weights, p, context), reference.gru(weights, p, context), atol=1e-7)


def test_open_update_gate_keeps_the_prototypes():
    weights = {name: jnp.zeros((2 * C, C)) for name in ("update", "reset", "candidate")}
    weights |= {f"{name}_bias": jnp.full(C, 50.0) for name in ("update", "reset", "candidate")}
    p, context = features(0, (2, 4, C))
    np.testing.assert_allclose(prototypes.gru(weights, p, context), p, atol=1e-6)


def test_edges_are_the_reference():
    p = np.asarray(features(3, (2, 5, C)))
    senders, receivers = communication.cross_modal_edges(jnp.array(p), 2)
    expected = reference.knn_edges(p[0], p[1], 2)
    assert sorted(zip(senders.tolist(), receivers.tolist(), strict=True)) == sorted(map(tuple, expected))


def test_more_neighbours_than_prototypes_are_refused():
    with pytest.raises(ValueError, match="6 neighbours asked for, but each modality has 5 prototypes"):
        communication.cross_modal_edges(features(3, (2, 5, C)), 6)


def test_heads_must_divide_the_channels():
    config = dataclasses.replace(SMALL, heads=3)
    with pytest.raises(ValueError, match="8 channels cannot be divided among 3 heads"):
        jax.eval_shape(Decoder(config).init, jax.random.key(0), features(), 0.1)


@pytest.mark.parametrize(("name", "value"), [("injection", "none"), ("epsilon", 0.0), ("num_prototypes", 0)])
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
    params, z = initialised(SMALL, seed), features(seed)
    straight = apply(SMALL, params, z)
    crossed = apply(SMALL, swapped(params), z[::-1])
    np.testing.assert_allclose(crossed[::-1], straight, atol=2e-4)


@hypothesis.given(st.permutations(range(4)))
@hypothesis.settings(deadline=None, max_examples=10)
def test_order_of_prototypes_does_not_matter(order):
    params = initialised(SMALL)
    permuted = {**params, "prototypes": params["prototypes"][:, jnp.array(order)]}
    straight, other = (apply(SMALL, p, features()) for p in (params, permuted))
    np.testing.assert_allclose(other, straight, atol=2e-4)


@functools.cache
def start(config):
    """A method, features of two parts and the parameters it begins with."""
    method, batch = pirn(config), features(1, (2, 2, N, C))
    return method, batch, quick(method.initial)(jax.random.key(0), batch)


@functools.cache
def first_gradient():
    method, batch, params = start(SMALL)
    return quick(jax.grad(lambda p: method.loss(p, batch)[0]))(params)


def test_gate_is_not_inert():
    for i in range(SMALL.num_layers):
        inject = first_gradient()["decoder"][f"layer_{i}"]["inject"]
        assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(inject["gamma"]))
        assert np.abs(inject["value"]).max() > 0


def test_no_gradient_reaches_the_scale_and_all_else_learns():
    assert (first_gradient()["scale"] == 0).all()
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(first_gradient()["decoder"]))


def test_score_does_not_depend_on_the_scale_of_the_features():
    # The paper's distances are cosines: multiplying one modality's features changes nothing.
    method, batch, _ = start(SMALL)
    factor = jnp.array([7.0, 0.01])[:, None, None]
    score = quick(lambda x: method.score(method.initial(jax.random.key(0), x), x[0]))
    plain, scaled = score(batch), score(batch * factor)
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


@pytest.mark.parametrize("mnc", [True, False])
def test_gates_and_use_of_prototypes_are_told_with_the_loss(mnc):
    config = dataclasses.replace(SMALL, mnc=mnc)
    method, batch, params = start(config)
    params = copy.deepcopy(params)
    if mnc:
        for i, gamma in enumerate(([0.1, 2.0], [0.3, -1.0])):
            params["decoder"][f"layer_{i}"]["inject"]["gamma"] = jnp.array(gamma)
    loss, told = quick(method.loss)(params, batch)
    np.testing.assert_allclose(loss, (told["loss_rgb"] + told["loss_normals"]) / 2, rtol=1e-6)
    assert all(1 / config.num_prototypes <= told[f"prototype_use_{m}"] <= 1 for m in ("rgb", "normals"))
    assert told["prototype_use_rgb"] != told["prototype_use_normals"]
    assert ("gate_rgb" in told) == mnc
    if mnc:
        np.testing.assert_allclose(told["gate_rgb"], (np.tanh(0.1) + np.tanh(0.3)) / 2, rtol=1e-6)
        np.testing.assert_allclose(told["gate_normals"], (np.tanh(2.0) + np.tanh(-1.0)) / 2, rtol=1e-6)
