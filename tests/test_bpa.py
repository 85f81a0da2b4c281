"""The transport plan and what is made of it: the float64 reference, finite differences, masks, ott-jax as solver."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ott.geometry import geometry

from pirn_jax.methods import base, pirn
from pirn_jax.methods.pirn import bpa, patches
from tests import reference

N, K, C = 24, 5, 8
WHOLE = jnp.ones(N, bool)
MASK = jnp.arange(N) % 3 != 1
EPSILONS = (0.02, 0.05, 0.2)

plan_of = jax.jit(bpa.transport_plan, static_argnums=(3, 4))


def patches_and_prototypes(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, C)), rng.normal(size=(K, C))


def converged(epsilon):
    """Iterations after which the plan of the data above has stopped moving in float64."""
    return {0.02: 4000, 0.05: 1500, 0.2: 400}[epsilon]


@pytest.mark.usefixtures("x64")
def test_cosine_cost_is_the_reference():
    z, p = patches_and_prototypes()
    np.testing.assert_allclose(bpa.cosine_cost(jnp.array(z), jnp.array(p)), reference.cosine_cost(z, p), atol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("iterations", [1, 5, 20])
@pytest.mark.parametrize(("epsilon", "log_domain"), [(0.02, True), (0.05, True), (0.03, False), (0.2, False)])
def test_plan_is_the_reference_after_any_number_of_iterations(epsilon, log_domain, iterations):
    cost = reference.cosine_cost(*patches_and_prototypes())
    plan = plan_of(jnp.array(cost), WHOLE, epsilon, iterations, log_domain)
    np.testing.assert_allclose(plan, reference.sinkhorn(cost, epsilon, iterations), atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_kernel_domain_holds_the_largest_costs_at_its_smallest_epsilon(seed):
    # Costs at both ends of their range: in float32 kernels of a smaller epsilon would vanish.
    rng = np.random.default_rng(seed)
    cost = jnp.array(rng.choice([0.0, 2.0], size=(N, K)) * rng.uniform(0.98, 1.0, (N, K)), jnp.float32)
    plans = [plan_of(cost, WHOLE, bpa.KERNEL_EPSILON, 50, log_domain) for log_domain in (True, False)]
    np.testing.assert_allclose(plans[1], plans[0], atol=1e-6)
    gradient = jax.grad(lambda c: jnp.sum(bpa.transport_plan(c, WHOLE, bpa.KERNEL_EPSILON, 50, False)[:, 0]))(cost)
    assert jnp.isfinite(gradient).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("epsilon", EPSILONS)
def test_gradient_of_the_plan_matches_finite_differences(epsilon):
    # Only a function of the plan sees a wrong gradient: the transport cost is stationary in it.
    cost = reference.cosine_cost(*patches_and_prototypes())
    weights, direction = np.random.default_rng(1).normal(size=(2, N, K))
    plan = jax.jit(functools.partial(bpa.transport_plan, mask=WHOLE, epsilon=epsilon, iterations=converged(epsilon)))
    gradient = jax.grad(lambda c: jnp.sum(plan(c) * weights))(jnp.array(cost))
    step = 1e-6
    ahead, behind = (jnp.sum(plan(jnp.array(cost + s * direction)) * weights) for s in (step, -step))
    np.testing.assert_allclose(jnp.sum(gradient * direction), (ahead - behind) / (2 * step), rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_gradient_keeps_the_marginals():
    # A loss of the marginals alone cannot be changed by the cost: its gradient is zero.
    cost = jnp.array(reference.cosine_cost(*patches_and_prototypes()))
    row, column = np.random.default_rng(2).normal(size=N), np.random.default_rng(3).normal(size=K)

    def loss(c):
        plan = bpa.transport_plan(c, WHOLE, 0.05, 20)
        return jnp.sum(plan.sum(1) * row) + jnp.sum(plan.sum(0) * column)

    assert jnp.abs(jax.grad(loss)(cost)).max() < 1e-12


def test_float32_gradient_is_finite_and_near_double_precision():
    cost = reference.cosine_cost(*patches_and_prototypes()).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(N, K))

    def gradient(dtype):
        plan = functools.partial(bpa.transport_plan, mask=WHOLE, epsilon=0.02, iterations=50)
        return jax.grad(lambda c: jnp.sum(plan(c) * jnp.array(weights, dtype)))(jnp.array(cost, dtype))

    single = gradient(jnp.float32)
    with jax.enable_x64(True):
        double = gradient(jnp.float64)
    np.testing.assert_allclose(single, double, atol=2e-3 * np.abs(double).max())


def random_plan(seed, epsilon=0.1, iterations=200):
    z, p = patches_and_prototypes(seed)
    cost = bpa.cosine_cost(jnp.array(z, jnp.float32), jnp.array(p, jnp.float32))
    return plan_of(cost, WHOLE, epsilon, iterations)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(deadline=None, max_examples=25)
def test_marginals_are_uniform(seed):
    plan = random_plan(seed)
    np.testing.assert_allclose(plan.sum(1), 1 / N, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(0), 1 / K, rtol=1e-2)
    assert (plan >= 0).all()


@hypothesis.given(st.integers(0, 2**32 - 1), st.permutations(range(K)))
@hypothesis.settings(deadline=None, max_examples=25)
def test_permuting_prototypes_permutes_the_plan_and_leaves_the_reconstruction(seed, order):
    z, p = (jnp.array(x, jnp.float32) for x in patches_and_prototypes(seed))
    order = jnp.array(order)
    plan, permuted = (plan_of(bpa.cosine_cost(z, q), WHOLE, 0.1, 20) for q in (p, p[order]))
    np.testing.assert_allclose(permuted, plan[:, order], atol=1e-6)
    rebuilt, again = (patches.dense(bpa.reconstruct(*given)) for given in ((plan, p), (permuted, p[order])))
    np.testing.assert_allclose(again, rebuilt, atol=1e-5)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("scale", bpa.PLAN_SCALES)
def test_contexts_and_reconstruction_are_the_reference(scale):
    z, p = patches_and_prototypes()
    plan = reference.sinkhorn(reference.cosine_cost(z, p), 0.05, 20)
    np.testing.assert_allclose(bpa.contexts(jnp.array(plan), jnp.array(z)), reference.contexts(plan, z), atol=1e-7)
    rebuilt = patches.dense(bpa.reconstruct(jnp.array(plan), jnp.array(p), scale))
    np.testing.assert_allclose(rebuilt, reference.reconstruct(plan, p, scale), atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_softmax_plan_is_the_reference_and_not_balanced():
    cost = reference.cosine_cost(*patches_and_prototypes())
    plan = bpa.softmax_plan(jnp.array(cost), WHOLE, 0.05)
    np.testing.assert_allclose(plan, reference.softmax_plan(cost, 0.05), atol=1e-7)
    assert np.ptp(plan.sum(0)) > 0.05


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [WHOLE, MASK])
def test_plans_of_other_attentions_are_the_reference_and_not_balanced(mask):
    z, p = patches_and_prototypes()
    cost = reference.cosine_cost(z, p)
    plans = bpa.sigmoid_plan(jnp.array(cost), mask, 0.05), bpa.linear_plan(jnp.array(z), jnp.array(p), mask)
    expected = reference.sigmoid_plan(cost[mask], 0.05), reference.linear_plan(z[mask], p)
    for plan, by_loops in zip(plans, expected, strict=True):
        np.testing.assert_allclose(plan[mask], by_loops, atol=1e-9)
        assert (plan[~mask] == 0).all()
        assert bpa.column_error(plan) > 0.02


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mask", [WHOLE, MASK])
@pytest.mark.parametrize("count", [1, 4, 99])
def test_contexts_of_the_nearest_patches_are_the_reference(count, mask):
    z, p = patches_and_prototypes()
    cost = reference.cosine_cost(z, p)
    plan = bpa.nearest_plan(jnp.array(cost), mask, count)
    expected = reference.nearest_plan(cost[mask], count)
    np.testing.assert_allclose(plan[mask], expected, atol=1e-9)
    found = bpa.contexts(plan, jnp.array(z))
    np.testing.assert_allclose(found, reference.contexts(expected, z[mask]), atol=1e-7)
    if count == 99:
        np.testing.assert_allclose(found, bpa.contexts(bpa.mean_plan(mask, K), jnp.array(z)), atol=1e-7)


@pytest.mark.parametrize("plan_of_cost", [bpa.softmax_plan, bpa.sigmoid_plan])
def test_far_prototypes_and_a_small_epsilon_leave_plans_finite(plan_of_cost):
    plan = plan_of_cost(jnp.array([[2.0, 1.99], [0.0, 2.0]]), jnp.ones(2, bool), 0.002)
    np.testing.assert_allclose(plan.sum(1), 0.5, rtol=1e-6)


def test_the_column_error_falls_with_iterations():
    cost = jnp.array(reference.cosine_cost(*patches_and_prototypes()), jnp.float32)
    errors = [float(bpa.column_error(plan_of(cost, WHOLE, 0.05, count))) for count in (1, 10, 300)]
    assert errors[0] > 0.2 > errors[1] > errors[2]
    assert errors[2] < 1e-3
    np.testing.assert_allclose(bpa.column_error(jnp.array([[0.5, 0.0], [0.25, 0.25]])), 0.5)


def test_unknown_scale_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="unknown plan scale 'columns'; choose one of rows, literal"):
        bpa.reconstruct(jnp.ones((2, 2)), jnp.ones((2, 3)), "columns")


def test_zero_patch_has_a_finite_gradient():
    gradient = jax.grad(lambda z: bpa.cosine_cost(z, jnp.ones((2, 3))).sum())(jnp.zeros((1, 3)))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("assigned", "expected"),
    [([0, 1, 2, 3], 1.0), ([2, 2, 2, 2], 0.25), ([0, 0, 3, 3], 0.5), ([1, 1, 1, 2], 4 / 3**0.75 / 4)],
)
def test_use_of_prototypes_is_that_of_their_patches(assigned, expected):
    plan = 0.1 + 0.2 * np.eye(4)[assigned]
    np.testing.assert_allclose(bpa.prototype_use(jnp.asarray(plan)), expected, rtol=1e-6)


def test_use_of_prototypes_counts_patches_of_the_part_alone():
    plan = jnp.asarray(np.eye(4)[[0, 1, 2, 3, 3, 3]] * np.array([1, 1, 0, 0, 0, 0])[:, None])
    np.testing.assert_allclose(bpa.prototype_use(plan), 0.5, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("epsilon", "log_domain"), [(0.02, True), (0.05, True), (0.05, False)])
def test_a_masked_plan_is_that_of_the_patches_on_the_mask(epsilon, log_domain):
    cost = reference.cosine_cost(*patches_and_prototypes())
    plan = plan_of(jnp.array(cost), MASK, epsilon, 20, log_domain)
    np.testing.assert_allclose(plan[MASK], reference.sinkhorn(cost[MASK], epsilon, 20), atol=1e-7)
    assert (plan[~MASK] == 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("log_domain", [True, False])
def test_gradient_of_a_masked_plan_matches_finite_differences(log_domain):
    cost = reference.cosine_cost(*patches_and_prototypes())
    weights, direction = np.random.default_rng(1).normal(size=(2, N, K))

    def value(c):
        return jnp.sum(bpa.transport_plan(c, MASK, 0.05, converged(0.05), log_domain) * weights)

    gradient = jax.jit(jax.grad(value))(jnp.array(cost))
    ahead, behind = (jax.jit(value)(jnp.array(cost + s * direction)) for s in (1e-6, -1e-6))
    np.testing.assert_allclose(jnp.sum(gradient * direction), (ahead - behind) / 2e-6, rtol=1e-4)
    assert (gradient[~MASK] == 0).all()


@pytest.mark.parametrize("scale", bpa.PLAN_SCALES)
def test_patches_off_the_mask_are_rebuilt_as_zero_and_give_no_context(scale):
    z, p = (jnp.array(x, jnp.float32) for x in patches_and_prototypes())
    plan = plan_of(bpa.cosine_cost(z, p), MASK, 0.05, 20, False)
    assert (patches.dense(bpa.reconstruct(plan, p, scale))[~MASK] == 0).all()
    changed = z.at[np.flatnonzero(~np.asarray(MASK))].set(99.0)
    np.testing.assert_array_equal(bpa.contexts(plan, changed), bpa.contexts(plan, z))


@pytest.mark.parametrize(("epsilon", "update"), [(0.05, "update_scaling"), (0.02, "update_potential")])
@pytest.mark.parametrize("layers", [1, 2])
def test_ott_solves_every_plan_of_a_training_step_and_of_scoring(epsilon, update, layers, monkeypatch):
    calls = []
    solve = getattr(geometry.Geometry, update)

    def counted(self, *given, **more):
        calls.append(update)
        return solve(self, *given, **more)

    monkeypatch.setattr(geometry.Geometry, update, counted)
    # A neighbourhood that no other test has: nothing is traced already.
    config = pirn.Config(score="cosine", num_prototypes=5, num_layers=layers, heads=2, neighbours=4, epsilon=epsilon)
    method, batch = pirn.build(config, ("rgb", "normals")), base.shapes(2, 2, 1, N, C)
    learned, fixed = jax.eval_shape(method.start, jax.eval_shape(lambda: jax.random.key(0)), batch)
    calls.clear()
    jax.eval_shape(jax.value_and_grad(method.loss, has_aux=True), learned, fixed, batch, jax.random.key(0))
    # A loop's body is traced once: an update of columns and one of rows, for APR and for BPA of each layer.
    assert len(calls) == 4 * layers
    calls.clear()
    sample = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    jax.eval_shape(method.score, (learned, fixed), sample)
    assert len(calls) == 4 * layers
