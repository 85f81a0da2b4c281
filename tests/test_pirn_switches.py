"""Each switch of PIRN acts where it should and nowhere else; extreme inputs and trained gradients are finite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pirn_jax.methods import base, pirn
from pirn_jax.methods.base import Features
from pirn_jax.methods.pirn import Config, mnc
from pirn_jax.methods.pirn.method import trace
from tests import reference

N, C, K = 12, 8, 4
BOTH = ("rgb", "normals")
ONE = Config(score="cosine", num_layers=1, num_prototypes=K, sinkhorn_iterations=5, neighbours=2, heads=2)


def quick(function):
    """Compiled without optimisation: few operations are run, so most of the time would go into optimising them."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def parts(samples=2, patches=N, seed=1):
    values = jax.random.normal(jax.random.key(seed), (samples, 2, 1, patches, C))
    return Features(values, jnp.ones((samples, patches), bool))


@functools.cache
def params(**changes):
    """Parameters of a method; every config that has the same modules has the same."""
    return quick(pirn.build(dataclasses.replace(ONE, **changes), BOTH).start)(jax.random.key(0), parts())


@functools.cache
def tracing(config):
    return quick(functools.partial(trace, config))


def traced(features=None, **changes):
    """A sample's way through the decoder, by the parameters of the config without changes."""
    shown = base.take(parts(), 0) if features is None else features
    return tracing(dataclasses.replace(ONE, **changes))(*params(), shown)


def assert_same(found, expected):
    """Equal but for the rounding of programs that XLA fuses differently."""
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_trace_begins_and_ends_as_the_score_says():
    found = traced()
    lengths = [np.linalg.norm(x, axis=-1) for x in (found.before, found.after)]
    expected = 1 - np.sum(found.before * found.after, -1) / lengths[0] / lengths[1]
    method = pirn.build(ONE, BOTH)
    np.testing.assert_allclose(quick(method.score)(params(), base.take(parts(), 0)), expected, atol=1e-5)
    np.testing.assert_allclose(found.plan.sum(-1), 1 / N, rtol=1e-5)
    assert found.prototypes.shape == (1, 2, K, C)


@pytest.mark.parametrize("assignment", ["softmax", "linear", "sigmoid"])
def test_the_assignment_leaves_the_refined_prototypes(assignment):
    ours, other = traced(), traced(assignment=assignment)
    assert_same(other.prototypes, ours.prototypes)
    assert np.abs(other.plan - ours.plan).max() > 1e-3
    assert np.abs(other.after - ours.after).max() > 1e-3


@pytest.mark.parametrize("contexts", ["mean", "nearest"])
def test_contexts_act_through_the_prototypes_alone(contexts):
    changed = {"contexts": contexts, "context_patches": 2}
    assert np.abs(traced(**changed).prototypes - traced().prototypes).max() > 1e-3
    without = traced(apr=False)
    assert_same(traced(apr=False, **changed).after, without.after)
    assert_same(without.prototypes[0], params()[0]["prototypes"])


@pytest.mark.parametrize(
    "switch", [{"neighbours": 1}, {"gat_residual": False}, {"gat_self_edges": False}, {"injection": "paper"}]
)
def test_switches_of_the_communication_leave_prototypes_and_plans(switch):
    ours, other = traced(), traced(**switch)
    for name in ("prototypes", "plan"):
        assert_same(getattr(other, name), getattr(ours, name))
    assert np.abs(other.after - ours.after).max() > 1e-4
    assert_same(traced(mnc=False, **switch).after, traced(mnc=False).after)


@pytest.mark.parametrize("on", [True, False])
def test_modalities_hear_each_other_through_the_communication_alone(on):
    shown = base.take(parts(), 0)
    other = shown._replace(values=shown.values.at[1].set(parts(seed=5).values[0, 1]))
    ours, changed = traced(shown, mnc=on), traced(other, mnc=on)
    assert (np.abs(changed.after[0] - ours.after[0]).max() > 1e-4) == on
    assert np.abs(changed.after[1] - ours.after[1]).max() > 1e-2
    assert_same(changed.plan[0], ours.plan[0])


@pytest.mark.usefixtures("x64")
def test_graph_attention_is_dense_attention_under_a_mask_of_its_edges():
    rng, heads = np.random.default_rng(0), 2
    p = rng.normal(size=(2, K, C))
    weights = {"kernel": rng.normal(size=(C, C))}
    weights |= {name: rng.normal(size=(heads, C // heads)) for name in ("sender", "receiver")}
    senders, receivers = mnc.cross_modal_edges(jnp.array(p), 2)
    nodes = p.reshape(-1, C)
    found = mnc.graph_attention(jax.tree.map(jnp.array, weights), jnp.array(nodes), senders, receivers)
    edges = np.zeros((2 * K, 2 * K), bool)
    edges[receivers, senders] = True
    h = (nodes @ weights["kernel"]).reshape(2 * K, heads, -1)
    out = []
    for head in range(heads):
        sent, received = (h[:, head] @ weights[name][head] for name in ("sender", "receiver"))
        logits = received[:, None] + sent
        logits = np.where(edges, np.where(logits > 0, logits, 0.2 * logits), -np.inf)
        attention = np.array([reference.softmax(row) for row in logits])
        out.append(attention @ h[:, head])
    dense = np.concatenate(out, -1)
    np.testing.assert_allclose(found, np.where(dense > 0, dense, np.expm1(dense)), atol=1e-9)


@pytest.mark.parametrize("switch", [{}, {"injection": "paper", "assignment": "linear", "contexts": "nearest"}])
def test_gradients_of_all_parameters_are_finite_and_not_zero_before_and_after_training(switch):
    method, batch = pirn.build(dataclasses.replace(ONE, **switch), BOTH), parts(samples=3)
    adam = optax.adam(1e-2)

    def run(key):
        learned, fixed = method.start(key, batch)
        gradient = jax.grad(lambda p: method.loss(p, fixed, batch, key)[0])

        def step(state, _):
            learned, moments = state
            found = gradient(learned)
            updates, moments = adam.update(found, moments)
            return (optax.apply_updates(learned, updates), moments), found

        return jax.lax.scan(step, (learned, adam.init(learned)), None, 4)[1]

    for path, of_steps in jax.tree_util.tree_leaves_with_path(quick(run)(jax.random.key(0))):
        assert np.isfinite(of_steps).all(), path
        # Every modality's own weights, at the first step and at the last.
        for of_step in (of_steps[0], of_steps[-1]):
            assert np.abs(of_step).max() > 1e-9, path


def zeros(batch):
    return batch._replace(values=batch.values.at[:, 1].set(0.0))


EXTREMES = {
    "a modality of zeros": zeros,
    "all zeros": lambda batch: batch._replace(values=jnp.zeros_like(batch.values)),
    "a patch of zeros": lambda batch: batch._replace(values=batch.values.at[:, :, :, 0].set(0.0)),
    "two distinct tokens": lambda batch: batch._replace(values=batch.values[:, :, :, jnp.arange(N) % 2]),
    "identical tokens": lambda batch: batch._replace(
        values=jnp.broadcast_to(batch.values[:1, :, :, :1], batch.values.shape)
    ),
    "identical samples": lambda batch: batch._replace(values=batch.values[jnp.zeros(2, int)]),
    "one patch of the part": lambda batch: batch._replace(mask=batch.mask.at[:, 1:].set(False)),
    "features of 1e4": lambda batch: batch._replace(values=1e4 * batch.values),
    "features of 1e-6": lambda batch: batch._replace(values=1e-6 * batch.values),
}


@functools.cache
def outcome(score, **changes):
    """A function of a batch and of whether all prototypes are one: loss, gradient and score."""
    method = pirn.build(dataclasses.replace(ONE, score=score, **changes), BOTH)

    def run(batch, same):
        learned, fixed = method.start(jax.random.key(0), batch)
        p = learned["prototypes"]
        learned = {**learned, "prototypes": jnp.where(same, p[:, :1], p)}
        (loss, told), gradient = jax.value_and_grad(method.loss, has_aux=True)(learned, fixed, batch, jax.random.key(0))
        scores = method.score(method.finalize(learned, fixed, batch), base.take(batch, 0))
        return loss, told, gradient, jnp.where(batch.mask[0], scores, 0.0)

    return quick(run)


def assert_finite(found):
    for path, leaf in jax.tree_util.tree_leaves_with_path(found):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_features_have_finite_losses_gradients_and_scores(extreme):
    assert_finite(outcome("both")(EXTREMES[extreme](parts()), False))


@pytest.mark.parametrize("assignment", ["linear", "sigmoid"])
def test_extreme_features_are_assigned_by_other_attentions(assignment):
    run = outcome("cosine", assignment=assignment, contexts="nearest", injection="paper")
    for change in EXTREMES.values():
        assert_finite(run(change(parts()), False))


def test_identical_prototypes_have_finite_results():
    loss, told, gradient, scores = outcome("both")(parts(), True)
    assert_finite((loss, told, gradient, scores))


@pytest.mark.parametrize(("samples", "patches"), [(1, N), (2, 1), (1, 1)])
def test_one_shot_and_one_patch_have_finite_results(samples, patches):
    assert_finite(outcome("both")(parts(samples, patches), False))
