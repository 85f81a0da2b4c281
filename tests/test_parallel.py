"""Runs and batches spread over devices equal one device; number of runs in one call."""

import itertools
import json
import os
import pathlib
import stat
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

from pirn_jax.methods.base import Features, Method, Recipe
from pirn_jax.training import parallel, sizes
from pirn_jax.training.programs import compile_programs

SCRIPT = """
import json
import pathlib
import sys
import jax
import numpy as np
from pirn_jax import scoring
from pirn_jax.methods import patchcore, pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.training import episodes, parallel, programs as building, train
from pirn_jax.training.compiled import keep
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

ALL = jax.local_devices()
assert len(ALL) == 8
CACHE = pathlib.Path(sys.argv[1]).parent / "cache" / "xla"
keep(CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
BOTH = ("rgb", "normals")
CONFIG = pirn.Config(score="cosine", num_prototypes=4, sinkhorn_iterations=3, num_layers=1, neighbours=2, heads=2)
MASK = np.arange(16) < np.array([[[16], [9], [12], [5]]])
FEATURES = Features(np.asarray(jax.random.normal(jax.random.key(0), (1, 4, 2, 1, 16, 8))), MASK)
RUNS = [Run("a", 4, seed) for seed in range(3)]
RECIPE = Recipe(epochs=20, learning_rate=1e-3, batch_size=4)

def use(devices, method, recipe):
    jax.local_devices = lambda: devices
    for cached in (building._compile_init, building._compile_steps, building._compile_finalize):
        cached.cache_clear()
    scoring._compile.cache_clear()
    scoring._compile_support.cache_clear()
    programs, program = compile_programs(method), scoring.compile_program(method)
    support = scoring.compile_support_program(method)

    def study(runs):
        category, chosen = np.zeros(len(runs), int), np.array([episodes.draw(run, 4) for run in runs])
        trained, history = train.train(programs, runs, FEATURES, category, chosen, recipe)
        distances = scoring.score(program, trained.params, FEATURES, category)
        own = scoring.score_support(support, trained.params, FEATURES, category, chosen)
        return parallel.collect(trained.params), history, distances, own

    return study

def largest(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max((float(np.abs(np.asarray(x, float) - y).max()) for x, y in pairs), default=0.0)

METHOD = pirn.build(CONFIG, BOTH)
one = use(ALL[:1], METHOD, RECIPE)
together, alone = one(RUNS), one(RUNS[:1])
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **kwargs: compiled.append(event) if "backend_compile" in event else None
)
eight = use(ALL, METHOD, RECIPE)
spread = eight(RUNS)
answer = {
    "steps": together[1]["loss"].shape[1],
    "three_runs": [largest(x, y) for x, y in zip(together, spread)],
    "one_run": [largest(x, y) for x, y in zip(alone, eight(RUNS[:1]))],
    "devices_of_three_runs": parallel.layout(3, 4, 8),
}
before = len(compiled)
eight(RUNS)
answer["compiled_again"] = len(compiled) - before
banks = patchcore.build(patchcore.Config(coreset=0.5), BOTH)
answer["banks"] = [largest(x, y) for x, y in zip(use(ALL[:1], banks, None)(RUNS), use(ALL, banks, None)(RUNS))]

# Two calls on eight devices, the second with what the first one left there.
programs = compile_programs(METHOD)
category, chosen = np.zeros(2, int), np.array([episodes.draw(run, 4) for run in RUNS[:2]])
states = train.initialise(programs, RUNS[:2], FEATURES, category, chosen, RECIPE, RECIPE.batch_size)
answer["occupied"] = sorted({device.id for device in jax.tree.leaves(states[0].tree)[0].sharding.device_set})
kept = parallel.place_like(states, jax.tree.leaves(parallel.collect(states)))
answer["kept"] = largest(parallel.collect(states), parallel.collect(kept))

# A function whose result needs the whole batch, donated state, keys, and arguments of all kinds.
from pirn_jax.methods import losses

def function(state, shared, key, chosen):
    seen = shared[chosen]
    mean = losses.batch_mean(seen.mean())
    total = state["x"] + losses.batch_mean((seen / mean).mean(0)) + jax.random.uniform(key)
    return {"x": total}, mean

rng = np.random.default_rng(0)
shared = rng.uniform(1, 2, (5, 3)).astype(np.float32)
answer["placed"] = {}
for runs, batch in ((8, 1), (16, 3), (1, 8), (2, 4), (3, 2), (5, 1), (7, 7), (1, 1)):
    keys, chosen = jax.random.split(jax.random.key(1), runs), rng.integers(5, size=(runs, batch))
    x = rng.normal(size=(runs, 3)).astype(np.float32)
    program = parallel.Program(function, (0, None, 0, 0), (None, None, None, 1), donate=(0,), devices=ALL)
    state = {"x": x}
    for _ in range(2):
        result = program(state, parallel.everywhere(shared, ALL), keys, chosen)
        state, mean = (parallel.pick(result, lambda of, i=i: of[i]) for i in range(2))
    seen = shared[chosen]
    noise = np.array([jax.random.uniform(key) for key in keys])[:, None]
    expected = x + 2 * ((seen / seen.mean((1, 2), keepdims=True)).mean(1) + noise)
    found, means = parallel.collect([state])["x"], parallel.collect([mean])
    error = max(np.abs(found - expected).max(), np.abs(means - seen.mean((1, 2))).max())
    answer["placed"][f"{runs}x{batch}"] = [len(state.layout.devices), float(error), found.shape == (runs, 3)]

# One more shape, compiled ahead of time for runs and batch on all devices.
def stored():
    return len(list(CACHE.iterdir()))

arguments = {"x": x[:1]}, parallel.everywhere(shared, ALL), keys[:1], rng.integers(5, size=(1, 6))
counts = [stored()]
program.compile(*arguments)
counts.append(stored())
program(*arguments)
answer["stored"] = [after - before for before, after in zip(counts, [*counts[1:], stored()])]
answer["mode"] = CACHE.stat().st_mode

def heavy(shared, chosen):
    return ((shared[chosen] @ shared.T) ** 2).sum()

def flops(devices):
    program = parallel.Program(heavy, (None, 0), (None, 1), devices=devices)
    return program.compile(np.ones((64, 64), np.float32), np.zeros((1, 8), int)).cost_analysis()["flops"]

answer["flops"] = [flops(ALL), flops(ALL[:1])]

json.dump(answer, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Answers of a process with eight simulated devices."""
    path = tmp_path_factory.mktemp("eight") / "answer.json"
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    subprocess.run(command, check=True, env=environment, cwd=pathlib.Path(__file__).parent.parent)
    return json.loads(path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("runs", ["three_runs", "one_run"])
def test_eight_devices_equal_one_after_twenty_steps_where_the_batch_is_spread(eight, runs):
    params, _, distances, support = eight[runs]
    assert eight["steps"] == 20
    assert eight["devices_of_three_runs"] == [3, 2]
    assert params < 1e-5
    assert max(distances, support) < 1e-5


@pytest.mark.slow
def test_banks_on_eight_devices_equal_those_on_one(eight):
    params, distances, support = (eight["banks"][i] for i in (0, 2, 3))
    assert max(params, distances, support) < 1e-6


@pytest.mark.slow
def test_all_devices_share_one_compilation(eight):
    assert eight["compiled_again"] == 0


@pytest.mark.slow
def test_a_state_kept_on_the_host_goes_back_to_its_devices(eight):
    assert eight["occupied"] == list(range(8))
    assert eight["kept"] == 0.0


@pytest.mark.slow
def test_a_spread_batch_leaves_each_device_its_part_of_the_work(eight):
    each, one = eight["flops"]
    assert each < 0.2 * one


@pytest.mark.slow
def test_every_way_to_share_devices_gives_the_same_numbers(eight):
    devices = {name: found[0] for name, found in eight["placed"].items()}
    assert devices == {"8x1": 8, "16x3": 8, "1x8": 8, "2x4": 8, "3x2": 6, "5x1": 5, "7x7": 7, "1x1": 1}
    assert all(error < 1e-5 and shapes for _, error, shapes in eight["placed"].values())


@pytest.mark.slow
def test_a_program_compiled_ahead_of_time_is_found_by_the_call_in_a_private_directory(eight):
    ahead, by_call = eight["stored"]
    assert ahead > 0
    assert by_call == 0
    assert stat.S_IMODE(eight["mode"]) == 0o700


@hypothesis.given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 16))
def test_no_layout_occupies_more_devices(runs, batch, devices):
    shares, parts = parallel.layout(runs, batch, devices)
    assert runs % shares == batch % parts == 0
    assert shares * parts <= devices
    others = [(a, b) for a, b in itertools.product(range(1, devices + 1), repeat=2) if not (runs % a or batch % b)]
    assert all(a * b < shares * parts or a <= shares for a, b in others if a * b <= devices)


@pytest.mark.parametrize(
    ("runs", "batch", "devices", "expected"), [(4, 2, 8, (4, 2)), (8, 8, 8, (8, 1)), (3, 4, 8, (3, 2))]
)
def test_runs_are_cut_before_batches(runs, batch, devices, expected):
    assert parallel.layout(runs, batch, devices) == expected


@hypothesis.given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 8))
def test_groups_are_even_and_fill_the_devices(runs, share, devices):
    most = share * devices
    size = sizes.group_size(runs, most, devices)
    assert 1 <= size <= max(most, 1)
    assert runs < devices or size % devices == 0
    groups = -(-runs // size)
    assert groups <= -(-runs // most), "as few groups as the memory allows"
    assert size <= runs + devices - 1


@hypothesis.given(st.integers(1, 300), st.integers(0, 10**9), st.integers(1, 10**9), st.floats(1, 1e11))
def test_as_many_runs_as_fit_share_a_call(runs, fixed, each, room):
    needs = lambda n: fixed + n * each  # noqa: E731
    found = sizes.fitting(runs, room, needs)
    assert 1 <= found <= runs
    assert found == 1 or needs(found) <= room
    assert found == runs or needs(found + 1) > room


def test_runs_on_an_accelerator_are_chosen_from_its_memory(monkeypatch):
    class Device:
        def __init__(self, limit):
            self.limit = limit

        def memory_stats(self):
            return {"bytes_limit": self.limit, "bytes_in_use": 0}

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(1000), Device(2000)])
    # 800 of 1000 bytes are planned with, 200 are taken: each of two devices has room for five runs, then for six.
    assert sizes.runs_at_once(100, lambda runs: 100 + 50 * runs, taken=200) == 10
    assert sizes.runs_at_once(100, lambda runs: 50 * runs, taken=200) == 12
    assert sizes.runs_at_once(9, lambda runs: 1) == 10
    # All would fit into one group, but three processes would have nothing to do.
    assert sizes.runs_at_once(32, lambda runs: 1, processes=4) == 8


def test_bytes_of_a_run_are_measured_and_grow_with_the_runs():
    channels, features = 64, Features(jnp.ones((2, 4, 2, 1, 3, 64)), jnp.ones((2, 4, 3), bool))
    method = Method(
        maps=("rgb", "normals"),
        init=lambda key, support: ({"w": jax.random.normal(key, (channels, channels))}, {}),
        loss=lambda learned, fixed, batch, key: (jnp.mean((batch.values @ learned["w"]) ** 2), {}),
        score=lambda params, features: features.values[:, 0, :, 0],
    )
    programs, recipe = compile_programs(method), Recipe(epochs=10, batch_size=2)
    one, two, three = (sizes.bytes_needed(programs, runs, features, 4, recipe) for runs in (1, 2, 3))
    # Parameters, two moments and a gradient, float32.
    assert one - features.values.nbytes > two - one > 4 * 4 * channels**2 > 0.7 * (two - one)
    assert abs((three - two) - (two - one)) < 0.05 * (two - one)
