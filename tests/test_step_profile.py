"""The profile of a step knows which part of the model a kernel belongs to."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import step_profile
from pirn_jax.pirn import Config, pirn


def test_instructions_of_a_gradient_are_told_apart_by_layer_module_and_direction():
    method = pirn(Config(num_prototypes=4, num_layers=1, neighbours=2, heads=2, sinkhorn_iterations=2))
    batch = jnp.array(np.random.default_rng(0).normal(size=(1, 2, 9, 8)), jnp.float32)
    params = jax.eval_shape(method.initial, jax.random.key(0), batch)
    program = jax.jit(jax.grad(lambda params, batch: method.loss(params, batch)[0]))
    compiled = program.lower(params, batch).compile(compiler_options={"xla_backend_optimization_level": 0})
    found = set(step_profile.parts(compiled.as_text()).values())
    modules = ("refine", "assign", "align", "inject")
    assert {f"layer 0 {name}, {way}" for name in modules for way in ("forward", "backward")} <= found
    assert "loss and features, backward" in found
    assert not any("layer 1" in part for part in found)
