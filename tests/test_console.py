"""What every command does with Ctrl-C, --help and numbers that cannot be."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from tests import commands
from tools import console


@pytest.mark.parametrize("swallowed", [False, True])
def test_ctrl_c_ends_a_command_even_if_a_library_swallows_its_exception(swallowed, capsys):
    reached = []

    def command():
        with console.stage("work", 2) as advance:
            with contextlib.suppress(KeyboardInterrupt) if swallowed else contextlib.nullcontext():
                os.kill(os.getpid(), signal.SIGINT)
            reached.append("after")
            advance(1)
            reached.append("never")

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        console.run(command, ["command"], places="--output_dir", interrupted="interrupted; go on")
    assert ended.value.code == 130
    assert reached == (["after"] if swallowed else [])
    assert "interrupted; go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) == handler


def test_sigterm_ends_a_command_as_ctrl_c_does(capsys):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        console.run(
            lambda: os.kill(os.getpid(), signal.SIGTERM), ["command"], places="--output_dir", interrupted="go on"
        )
    assert ended.value.code == 143
    assert "go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == handler


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_a_sentence(platform):
    code = "import sys, jax; from absl import flags; from tools import console; flags.FLAGS(['x'])\n"
    code += "console.run(lambda: jax.numpy.ones(3).sum() and None, ['x'], places='--output_dir')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "JAX_PLATFORMS": platform}, capture_output=True, text=True
    )
    if platform == "cuda" and done.returncode == 0:
        pytest.skip("a GPU is there")
    assert done.returncode == 1
    assert f"error: JAX_PLATFORMS={platform}: no such device here" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_errors_are_not_taken_for_a_missing_device(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")

    def fail():
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault of the program"):
        console.run(fail, ["command"], places="--output_dir")


@pytest.mark.parametrize(
    ("module", "flags"),
    [
        ("tools.check_dataset", ("--data_dir", "--workers")),
        ("tools.prepare_normals", ("--data_dir", "--png_dir")),
        ("experiments.evaluate", ("--data_dir", "--metrics", "--image_score")),
        ("experiments.inspect_parts", ("--data_dir", "--run")),
    ],
)
def test_help_shows_the_flags_that_documents_name(module, flags):
    done = commands.run(module, "--help")
    assert done.returncode == 0, done.stderr
    assert all(f"{flag}:" in done.stdout for flag in flags), done.stdout


def test_seeds_that_are_no_numbers_are_refused():
    done = commands.run("experiments.choices", "--study=fusion", "--parts_seeds=x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --parts_seeds=x: give one or more whole numbers")
