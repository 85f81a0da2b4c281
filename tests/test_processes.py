"""Processes that share a study through `jax.distributed`: flags, launchers, and the command with two real processes."""

import json
import re
import signal
import socket
import time

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import processes
from pirn_jax.data.problems import InputError
from pirn_jax.training import cluster
from tests import commands

# Eleven runs are two groups: one for each process.
STUDY = ("--debug", "--encoder=random", "--num_layers=1", "--nomnc", "--noapr", "--categories=knob", "--seeds=11")
STUDY += ("--epochs=200", "--checkpoint_minutes=0", "--grid=8")


@pytest.fixture(scope="module", autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])


SRUN = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}
ADDRESS = {"coordinator_address": "host:1234"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, []),
        ({}, {**ADDRESS, "num_processes": 1, "process_id": 0}, []),
        ({}, {**ADDRESS, "num_processes": 2, "process_id": 1}, [("host:1234", 2, 1)]),
        (SRUN, {}, [(None, None, None)]),
        (SRUN, {**ADDRESS, "num_processes": 2, "process_id": 0}, [("host:1234", 2, 0)]),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, {}, [(None, None, None)]),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, {}, []),
        # The script of a job that asks for four tasks is one process, and so is a member of an array.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_ARRAY_TASK_ID": "3"}, {}, []),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, {}, [(None, None, None)]),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, {}, []),
    ],
)
def test_processes_are_joined_where_flags_or_a_launcher_say_so(environment, given, expected, monkeypatch):
    joined = []
    monkeypatch.setattr(cluster, "connect", lambda *arguments: joined.append(arguments))
    with flagsaver.flagsaver(**given):
        processes.connect(environment)
    assert joined == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_processes": 2}, "--coordinator_address, --process_id: not given; without a launcher"),
        ({"process_id": 1}, "--coordinator_address, --num_processes: not given"),
        ({**ADDRESS, "num_processes": 2, "process_id": 2}, "--process_id=2: with --num_processes=2 ids go from 0 to 1"),
    ],
)
def test_incomplete_flags_are_refused(given, sentence):
    with flagsaver.flagsaver(**given), pytest.raises(InputError, match=sentence):
        processes.connect({})


def test_a_launcher_that_does_not_tell_enough_is_told(monkeypatch):
    def fail(*arguments, **options):
        raise ValueError("coordinator_address should be defined.\nmore")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(InputError, match="processes cannot be joined: coordinator_address should be defined.$"):
        cluster.connect(None, None, None)


def test_a_process_alone_waits_for_nobody():
    assert cluster.process() == (0, 1)
    cluster.barrier("groups")


def start(cache, output, *more):
    return commands.Command("experiments.fewshot", *STUDY, f"--output_dir={output}", *more, PIRN_CACHE=str(cache))


def start_two(cache, output):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"
    return [start(cache, output, *shared, f"--process_id={i}") for i in range(2)]


def finish(process):
    done = process.finish()
    return done.returncode, done.stdout, done.stderr


def measured(output):
    results = json.loads((output / "results.json").read_text())
    return {key: results[key] for key in ("results", "more_results", "mean")}, results["settings"], results["episodes"]


def arrays(output):
    found = {}
    for path in sorted((output / "groups").glob("*.npz")):
        with np.load(path) as stored:
            found |= {(path.name, key): stored[key] for key in stored.files if key != "facts"}
    return found


def assert_close(one, two):
    """Nested dictionaries and lists of numbers."""
    leaves, tree = jax.tree.flatten(one)
    others, other_tree = jax.tree.flatten(two)
    assert tree == other_tree
    np.testing.assert_allclose(np.array(leaves, float), np.array(others, float), atol=1e-5)


@pytest.mark.slow
def test_two_processes_give_the_results_of_one_and_continue_after_one_was_killed(tmp_path):
    cache, alone, shared = tmp_path / "cache", tmp_path / "alone", tmp_path / "shared"
    assert finish(start(cache, alone))[0] == 0
    first, second = start_two(cache, shared)
    while not list((shared / "checkpoints" / "2-001").glob("0*")):
        assert second.poll() is None
        time.sleep(0.02)
    second.send(signal.SIGKILL)
    begin = time.monotonic()
    assert finish(second)[0] == -signal.SIGKILL
    status, output, errors = finish(first)
    assert status != 0
    assert time.monotonic() - begin < 60
    assert "shows it" not in output
    assert re.search("another process has ended|heartbeat|unhealthy|another task died", errors), errors[-2000:]
    assert not (shared / "results.json").exists()
    finished = [path.name for path in (shared / "groups").glob("*.npz")]
    assert "2-001.npz" not in finished

    (status, output, errors), (other, nothing, _) = map(finish, start_two(cache, shared))
    assert (status, other) == (0, 0), errors
    assert "report.html shows it" in output
    assert "shows it" not in nothing, "process 0 alone writes results"
    assert ("training" in errors) == ("2-000.npz" not in finished), "finished groups stay"
    (numbers, *rest), (expected, *same) = measured(shared), measured(alone)
    assert rest == same
    assert_close(numbers, expected)
    one, two = arrays(alone), arrays(shared)
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, atol=1e-5, err_msg=str(name))
