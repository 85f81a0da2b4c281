"""Attribution of kernels to parts of the model in the profile of a step."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import step_profile
from pirn_jax.methods import pirn
from pirn_jax.methods.base import Features


def test_instructions_of_a_gradient_are_told_apart_by_layer_module_and_direction():
    config = pirn.Config(num_prototypes=4, num_layers=1, neighbours=2, heads=2, sinkhorn_iterations=2)
    method = pirn.build(config, ("rgb", "normals"))
    values = jnp.array(np.random.default_rng(0).normal(size=(1, 2, 1, 9, 8)), jnp.float32)
    batch = Features(values, jnp.ones((1, 9), bool))
    learned, fixed = jax.eval_shape(method.start, jax.random.key(0), batch)
    program = jax.jit(jax.grad(lambda learned, fixed, batch: method.loss(learned, fixed, batch, jax.random.key(0))[0]))
    compiled = program.lower(learned, fixed, batch).compile(compiler_options={"xla_backend_optimization_level": 0})
    found = set(step_profile.parts(compiled.as_text()).values())
    modules = ("refine", "assign", "align", "inject")
    assert {f"layer 0 {name}, {way}" for name in modules for way in ("forward", "backward")} <= found
    assert "loss and features, backward" in found
    assert not any("layer 1" in part for part in found)
