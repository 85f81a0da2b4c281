"""Runs spread over several devices give what one device gives."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from pirn_jax.pirn import Config, pirn
from pirn_jax.protocol import episodes, scoring, training
from pirn_jax.protocol.episodes import Run

assert jax.local_device_count() == int(sys.argv[1])
features = jax.random.normal(jax.random.key(0), (1, 4, 2, 16, 8))
runs = [Run("a", 4, seed) for seed in range(3)]
method = pirn(Config(num_prototypes=4, sinkhorn_iterations=5, neighbours=2, heads=2, num_layers=1))
recipe = training.Recipe(epochs=10, learning_rate=1e-3, batch_size=2)
programs, program = training.compile_programs(method), scoring.compile_program(method)

def train(runs):
    category, chosen = np.zeros(len(runs), int), np.array([episodes.draw(run, 4) for run in runs])
    params, history = training.train(programs, runs, features, category, chosen, recipe)
    return history["loss"], scoring.score(program, params, features, category), params["decoder"]["prototypes"]

# With two devices, one of them has a run to fill up with.
parts = [runs] if jax.local_device_count() > 1 else [runs[:2], [runs[2], runs[2]]]
losses, distances, prototypes = (np.concatenate(pieces)[:3] for pieces in zip(*map(train, parts)))
np.savez(sys.argv[2], losses=losses, distances=distances, prototypes=prototypes)
"""


@pytest.mark.slow
def test_runs_spread_over_devices_equal_the_share_of_each_on_one(tmp_path):
    results = []
    for devices in (1, 2):
        path = tmp_path / f"{devices}.npz"
        environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        command = [sys.executable, "-c", SCRIPT, str(devices), str(path)]
        subprocess.run(command, check=True, env=environment, cwd=pathlib.Path(__file__).parent.parent)
        results.append(dict(np.load(path)))
    assert results[1]["losses"].shape == (3, 20)
    assert results[1]["distances"].shape == (3, 4, 2, 16)
    for name, one in results[0].items():
        np.testing.assert_allclose(results[1][name], one, rtol=1e-4)
