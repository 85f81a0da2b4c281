"""Files that are whole or not there, and what killed writers leave."""

import os
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
