"""Files that are whole or not there, and what killed writers leave."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pirn_jax import atomic


def break_off(path):
    with atomic.replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("in the middle")


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "folder" / "file"
    with pytest.raises(RuntimeError, match="in the middle"):
        break_off(path)
    assert not list(path.parent.iterdir())
    with atomic.replacing(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"


_KILLED = """
import os, pathlib, signal, sys
from pirn_jax import atomic

def die(*of):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "renaming":
    pathlib.Path.replace = die
with atomic.replacing(sys.argv[1]) as file:
    file.write(b"half" * 100_000)
    file.flush()
    if sys.argv[2] == "writing":
        die()
"""


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_a_killed_writer_leaves_what_was_there(tmp_path, moment):
    path = tmp_path / "program.onnx"
    path.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", _KILLED, path, moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    (left,) = (of for of in tmp_path.iterdir() if of != path)
    os.utime(left, (time.time() - 90_000,) * 2)
    atomic.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_only_old_temporary_files_of_our_own_are_swept(tmp_path):
    (tmp_path / "00").mkdir()
    old, young, other = (tmp_path / "00" / name for name in (f".{'0' * 16}.tmp", f".{'1' * 16}.tmp", ".mine.tmp"))
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 90_000,) * 2)
    atomic.sweep(tmp_path)
    assert not old.exists()
    assert young.exists()
    assert other.exists()
    atomic.sweep(tmp_path / "not there")
