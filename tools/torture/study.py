"""A small study as a process that is killed, starved or interrupted, and what it must give in the end."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from typing import Any

import numpy as np

STUDY = ("--debug", "--encoder=random", "--num_layers=1", "--nomnc", "--noapr", "--categories=knob", "--grid=8")
STUDY += ("--epochs=20", "--checkpoint_minutes=0", "--save_maps=none")


def start(cache: pathlib.Path, output: pathlib.Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """A study in a process of its own."""
    command = [sys.executable, "-m", "experiments.fewshot", *STUDY, f"--output_dir={output}", *flags]
    # What is run once is not worth optimising.
    surroundings = {**os.environ, "PIRN_CACHE": str(cache), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", **environment}
    return subprocess.Popen(command, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 600) -> tuple[int, str]:
    """Status and standard error of a process; one that does not end is killed."""
    try:
        _, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        return -signal.SIGKILL, f"no end within {timeout} s; {errors}"
    return process.returncode, errors


def two(cache: pathlib.Path, output: pathlib.Path) -> list[subprocess.Popen[str]]:
    """A study of two groups of runs in two processes that share it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2", "--seeds=11"
    return [start(cache, output, *shared, f"--process_id={i}") for i in range(2)]


def measured(output: pathlib.Path) -> dict[str, Any]:
    """All numbers of a finished study: of its results, and of its groups of runs bit by bit."""
    content = json.loads((output / "results.json").read_text("utf-8"))
    numbers = {key: content[key] for key in ("results", "more_results", "mean", "episodes")}
    for path in sorted((output / "groups").glob("*.npz")):
        with np.load(path) as stored:
            numbers |= {f"{path.name} {key}": stored[key].tobytes().hex() for key in stored.files if key != "facts"}
    return numbers


def is_sentence(errors: str) -> bool:
    """True if a command ended with one sentence for its user."""
    return "error: " in errors and "Traceback" not in errors
