"""Processes that share a study: who does what, signs of life, and the command with two real processes."""

import json
import pathlib
import signal
import threading
import time

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments import processes as told
from pirn_jax.data.problems import InputError
from pirn_jax.processes import Team
from tests import commands

# Eleven runs are two groups: one for each process.
STUDY = ("--debug", "--encoder=random", "--num_layers=1", "--nomnc", "--noapr", "--categories=knob", "--seeds=11")


@pytest.fixture(scope="module", autouse=True)
def parsed_flags():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_turn_is_taken_by_one_process(count):
    team = [Team(index=i, count=count) for i in range(count)]
    for turn in range(20):
        assert sum(one.takes(turn) for one in team) == 1
    shares = [sum(one.takes(turn) for turn in range(20)) for one in team]
    assert max(shares) - min(shares) <= 1


def test_what_another_process_finishes_is_waited_for_as_long_as_it_lives(tmp_path):
    here, other = (Team(tmp_path / "processes", i, 2, patience=1.0) for i in range(2))
    found = []
    with other.at_work():
        # Longer than the patience.
        threading.Timer(2.0, lambda: found.append("group")).start()
        assert here.wait(1, "group 2-001", lambda: found[0] if found else None) == "group"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_missing_is_told(tmp_path):
    here = Team(tmp_path / "study" / "processes", 0, 3, patience=0.5)
    sentence = "study: process 2 of 3 has not finished group 2-005 and has shown no sign of life for 0.5 s; see what it"
    with here.at_work(), pytest.raises(InputError, match=sentence):
        here.wait(5, "group 2-005", lambda: None)


def test_a_sign_that_a_dead_process_left_is_no_sign_of_life(tmp_path):
    (tmp_path / "1-of-2").write_text("17\n")
    with pytest.raises(InputError, match="process 1 of 2"):
        Team(tmp_path, 0, 2, patience=0.3).wait(1, "group", lambda: None)


def test_processes_that_cut_the_study_differently_do_not_wait_forever(tmp_path):
    here, other = (Team(tmp_path, i, 2, patience=1.0) for i in range(2))
    here.plan, other.plan = "10 of 5 shots", "16 of 5 shots"
    message = r"process 1 of 2 cuts the study into other groups \(16 of 5 shots\) than process 0 \(10 of 5 shots\)"
    with other.at_work(), pytest.raises(InputError, match=message):
        here.wait(1, "group", lambda: None)


def test_a_process_alone_leaves_nothing(tmp_path):
    team = Team(tmp_path / "processes")
    with team.at_work():
        assert list(tmp_path.iterdir()) == []


SLURM = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, (0, 1)),
        ({}, {"num_processes": 1}, (0, 1)),
        ({}, {"num_processes": 2, "process_id": 1}, (1, 2)),
        (SLURM, {}, (2, 4)),
        (SLURM, {"num_processes": 1, "process_id": 0}, (0, 1)),
        # The script of a job that asks for four tasks is one process, and so is a member of an array.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_ARRAY_TASK_ID": "3"}, {}, (0, 1)),
        ({"JOB_COMPLETION_INDEX": "3"}, {"num_processes": 5}, (3, 5)),
        ({"JOB_COMPLETION_INDEX": "3"}, {}, (0, 1)),
    ],
)
def test_flags_go_before_slurm_and_kubernetes(environment, given, expected):
    with flagsaver.flagsaver(**given):
        team = told.team(pathlib.Path("out"), environment)
    assert (team.index, team.count) == expected


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_processes": 2}, "--process_id: neither given nor told by SLURM or Kubernetes; give it"),
        ({"process_id": 1}, "--num_processes: neither given nor told by SLURM or Kubernetes; give it"),
        ({"num_processes": 2, "process_id": 2}, "--process_id=2: with --num_processes=2 ids go from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_refused(given, sentence):
    with flagsaver.flagsaver(**given), pytest.raises(InputError, match=sentence):
        told.team(pathlib.Path("out"), {})


def start(cache, output, *more):
    return commands.Command("experiments.fewshot", *STUDY, f"--output_dir={output}", *more, PIRN_CACHE=str(cache))


def start_team(cache, output, patience=60):
    return [start(cache, output, "--num_processes=2", f"--process_id={i}", f"--patience={patience}") for i in range(2)]


def finish(process):
    done = process.finish()
    return done.returncode, done.stdout, done.stderr.splitlines()


def measured(output):
    results = json.loads((output / "results.json").read_text())
    return {key: results[key] for key in ("settings", "results", "more_results", "mean", "episodes")}


def arrays(output):
    found = {}
    for path in sorted((output / "groups").glob("*.npz")):
        with np.load(path) as stored:
            found |= {(path.name, key): stored[key] for key in stored.files if key != "facts"}
    return found


@pytest.mark.slow
def test_two_processes_survive_the_death_of_one_and_end_as_one_process_does(tmp_path):
    cache, alone, shared = tmp_path / "cache", tmp_path / "alone", tmp_path / "shared"
    assert finish(start(cache, alone))[0] == 0
    first, second = start_team(cache, shared, patience=5)
    while not list((shared / "processes").glob("1-of-2")):
        assert second.poll() is None
        time.sleep(0.05)
    second.send(signal.SIGKILL)
    second.finish()
    status, _, errors = finish(first)
    assert status == 1
    assert "process 1 of 2 has not finished group 2-001 and has shown no sign of life for 5 s" in errors[-1]
    assert sum(line.startswith("error:") for line in errors) == 1
    assert {path.name for path in (shared / "groups").iterdir()} == {"2-000.npz"}

    (status, output, errors), (other, nothing, _) = map(finish, start_team(cache, shared))
    assert (status, other) == (0, 0), errors
    assert "report.html shows it" in output
    assert nothing == ""
    assert not any(line.startswith("training") for line in errors), "process 0 had finished its group"
    assert measured(shared) == measured(alone)
    one, two = arrays(alone), arrays(shared)
    assert one.keys() == two.keys()
    assert all(one[key].tobytes() == two[key].tobytes() for key in one)
    assert not (shared / "processes").exists()
