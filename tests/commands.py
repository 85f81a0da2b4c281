"""Commands as users run them: each a process of its own, with its output, its status and signals.

They are forked from a process that has imported JAX and what else commands share, which takes most of the time of a
command that only refuses a flag. No process that runs a test is forked: JAX has threads there.
"""

import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

import jax

ROOT = pathlib.Path(__file__).parents[1]

# None of these defines flags: every command has its own.
_SHARED = ["pirn_jax.study.run", "pirn_jax.inspection.inspector", "pirn_jax.report.finished", "pirn_jax.report.gallery"]
_SHARED += ["pirn_jax.report.sweep", "pirn_jax.report.tracking", "tools.console"]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_SHARED)


class Command:
    """`python -m module flags`, started in the root of the repository; `environment` is added to that of the tests."""

    def __init__(self, module: str, *flags: str, **environment: str):
        self._folder = tempfile.TemporaryDirectory()
        self._paths = [pathlib.Path(self._folder.name, name) for name in ("output", "errors")]
        self._arguments = [module, *flags]
        arguments = self._arguments, {**os.environ, **environment}, self._paths
        self._process = _CONTEXT.Process(target=_run_module, args=arguments)
        self._process.start()
        assert self._process.pid
        self._pid = self._process.pid

    def poll(self) -> int | None:
        """The status, or None while the command runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self._pid, number)

    def finish(self, timeout: float = 300) -> subprocess.CompletedProcess:
        """Waits for the end; the status of a process ended by a signal is the signal's number below zero.

        Raises:
          subprocess.TimeoutExpired: if it has not ended in `timeout` seconds; it is killed.
        """
        self._process.join(timeout)
        if (status := self._process.exitcode) is None:
            self._process.kill()
            raise subprocess.TimeoutExpired(self._arguments, timeout)
        output, errors = (path.read_text() for path in self._paths)
        self._folder.cleanup()
        return subprocess.CompletedProcess(self._arguments, status, output, errors)


def run(module: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    return Command(module, *flags, **environment).finish()


def _run_module(arguments: list[str], environment: dict[str, str], paths: list[pathlib.Path]) -> None:
    """The process of a command; what it compiles is run a few times and not worth optimising."""
    for path, descriptor in zip(paths, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.argv = arguments
    jax.config.update("jax_disable_most_optimizations", True)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
