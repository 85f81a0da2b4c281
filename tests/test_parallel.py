"""Runs and batches spread over devices give what one device gives; how many runs one call takes."""

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

from pirn_jax.method import Method
from pirn_jax.protocol import parallel, training

SCRIPT = """
import json
import pathlib
import sys
import jax
import numpy as np
from pirn_jax.pirn import Config, pirn
from pirn_jax.protocol import episodes, parallel, scoring, training
from pirn_jax.protocol.episodes import Run

ALL = jax.local_devices()
assert len(ALL) == 8
CACHE = pathlib.Path(sys.argv[1]).parent / "cache" / "xla"
parallel.keep_compiled(CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
METHOD = pirn(Config(num_prototypes=4, sinkhorn_iterations=3, num_layers=1, mnc=False))
FEATURES = np.asarray(jax.random.normal(jax.random.key(0), (1, 4, 2, 16, 8)))
RUNS = [Run("a", 4, seed) for seed in range(2)]
RECIPE = training.Recipe(epochs=20, learning_rate=1e-3, batch_size=8)

def use(devices):
    jax.local_devices = lambda: devices
    training._compile_init.cache_clear()
    training._compile_steps.cache_clear()
    scoring._compile.cache_clear()
    programs, program = training.compile_programs(METHOD), scoring.compile_program(METHOD)

    def study(runs):
        category, chosen = np.zeros(len(runs), int), np.array([episodes.draw(run, 4) for run in runs])
        params, history = training.train(programs, runs, FEATURES, category, chosen, RECIPE)
        return jax.tree.map(np.asarray, (history, params, scoring.score(program, params, FEATURES, category)))

    return study

def largest(a, b):
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

one = use(ALL[:1])
alone = [one([run]) for run in RUNS]
spread = use(ALL[:2])(RUNS)
answer = {
    "runs": [largest(alone[i], jax.tree.map(lambda x: x[i : i + 1], spread)) for i in range(2)],
    "batch": largest(alone[0], use(ALL)(RUNS[:1])),
    "steps": alone[0][0]["loss"].shape[1],
    "placed": {},
}

# A function whose result needs the whole batch, donated state, keys, and arguments of all kinds.
def function(state, shared, key, chosen):
    seen = shared[chosen]
    total = state["x"] + (seen / seen.mean()).sum(0) + jax.random.uniform(key)
    return {"x": total}, seen.mean()

rng = np.random.default_rng(0)
shared = rng.uniform(1, 2, (5, 3)).astype(np.float32)
for runs, batch in ((8, 1), (16, 3), (1, 8), (2, 4), (3, 2), (5, 1), (7, 7), (1, 1)):
    keys, chosen = jax.random.split(jax.random.key(1), runs), rng.integers(5, size=(runs, batch))
    x = rng.normal(size=(runs, 3)).astype(np.float32)
    axes = (0, None, 0, 0), (None, None, None, 1)
    program = parallel.Program(function, *axes, donate=(0,), devices=ALL)
    state, mean = {"x": x}, None
    for _ in range(2):
        state, mean = program(state, parallel.everywhere(shared, ALL), keys, chosen)
    seen = shared[chosen]
    noise = np.array([jax.random.uniform(key) for key in keys])[:, None]
    expected = x + 2 * ((seen / seen.mean((1, 2), keepdims=True)).sum(1) + noise)
    error = max(np.abs(state["x"] - expected).max(), np.abs(mean - seen.mean((1, 2))).max())
    shapes = jax.tree.map(lambda x: x.shape, (state, mean)) == ({"x": (runs, 3)}, (runs,))
    answer["placed"][f"{runs}x{batch}"] = [len(state["x"].sharding.device_set), float(error), shapes]

# One more shape, compiled ahead of time for runs and batch on all devices.
def kept():
    return len(list(CACHE.iterdir()))

arguments = {"x": x[:1]}, parallel.everywhere(shared, ALL), keys[:1], rng.integers(5, size=(1, 6))
counts = [kept()]
program.compile(*arguments)
counts.append(kept())
program(*arguments)
answer["kept"] = [after - before for before, after in zip(counts, [*counts[1:], kept()])]
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
    """What a process with eight simulated devices found."""
    path = tmp_path_factory.mktemp("eight") / "answer.json"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-c", SCRIPT, str(path)]
    subprocess.run(command, check=True, env=environment, cwd=pathlib.Path(__file__).parent.parent)
    return json.loads(path.read_text())


@pytest.mark.slow
def test_runs_spread_over_devices_equal_one_device_to_the_bit(eight):
    assert eight["steps"] == 10
    assert eight["runs"] == [0.0, 0.0]


@pytest.mark.slow
def test_a_batch_spread_over_devices_equals_one_device(eight):
    assert 0 <= eight["batch"] < 1e-5


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
def test_what_is_compiled_ahead_of_time_is_found_by_the_call_in_a_private_directory(eight):
    ahead, by_call = eight["kept"]
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
    size = parallel.group_size(runs, most, devices)
    assert 1 <= size <= max(most, 1)
    assert runs < devices or size % devices == 0
    groups = -(-runs // size)
    assert groups <= -(-runs // most), "as few groups as the memory allows"
    assert size <= runs + devices - 1


@hypothesis.given(st.integers(1, 300), st.integers(0, 10**9), st.integers(1, 10**9), st.floats(1, 1e11))
def test_as_many_runs_as_fit_share_a_call(runs, fixed, each, room):
    needs = lambda n: fixed + n * each  # noqa: E731
    found = parallel.fitting(runs, room, needs)
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
    assert parallel.runs_at_once(100, lambda runs: 100 + 50 * runs, taken=200) == 10
    assert parallel.runs_at_once(100, lambda runs: 50 * runs, taken=200) == 12
    assert parallel.runs_at_once(9, lambda runs: 1) == 10
    # All would fit into one group, but three processes would have nothing to do.
    assert parallel.runs_at_once(32, lambda runs: 1, processes=4) == 8


def test_what_a_run_needs_is_measured_and_grows_with_the_runs():
    channels, features = 64, jnp.ones((2, 4, 2, 3, 64))
    method = Method(
        init=lambda key, features: {"w": jax.random.normal(key, (channels, channels))},
        loss=lambda params, batch: (jnp.mean((batch @ params["w"]) ** 2), {}),
        score=lambda params, features: features[..., 0],
    )
    programs, recipe = training.compile_programs(method), training.Recipe(epochs=10, batch_size=2)
    one, two, three = (training.bytes_needed(programs, runs, features, 4, recipe) for runs in (1, 2, 3))
    # Parameters, two moments and a gradient, float32.
    assert one - features.nbytes > two - one > 4 * 4 * channels**2 > 0.7 * (two - one)
    assert abs((three - two) - (two - one)) < 0.05 * (two - one)
