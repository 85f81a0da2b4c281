"""Claims of docs/security.md that no other test holds."""

import ast
import io
import json
import os
import pathlib
import re
import signal
import zipfile

import numpy as np
import pytest

from pirn_jax import atomic, cache
from pirn_jax.data.problems import InputError
from pirn_jax.report import pictures
from pirn_jax.study import storage
from pirn_jax.training import compiled
from tools.torture import files
from tools.torture.trial import table

ROOT = pathlib.Path(__file__).parents[1]


class Bomb:
    """Makes a file where it is unpickled."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("hacked"),)


def test_arrays_of_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("groups").mkdir()
    bombs = np.array([Bomb()], object)
    np.savez(tmp_path / "groups" / "1-000.npz", facts=np.array(json.dumps({})), values=bombs, mask=bombs, note=bombs)
    path = tmp_path / "groups" / "1-000.npz"
    with np.load(path, allow_pickle=True) as whole:
        whole["values"]
    assert pathlib.Path("hacked").exists()
    pathlib.Path("hacked").unlink()
    assert atomic.load_arrays(path) is None
    endless = io.BytesIO()
    np.lib.format.write_array_header_1_0(endless, {"descr": "<f4", "fortran_order": False, "shape": (10**30,)})
    with zipfile.ZipFile(tmp_path / "endless.npz", "w") as archive:
        archive.writestr("values.npy", endless.getvalue())
    assert atomic.load_arrays(tmp_path / "endless.npz") is None
    assert cache.load(path) is None
    assert storage.load_group(tmp_path, "1-000", {}) is None
    with pytest.raises(InputError, match="missing or damaged"):
        pictures.load(path)
    assert not pathlib.Path("hacked").exists()


RUNS = re.compile(
    r"(?:cloud|_)?pickle\.loads?|marshal\.loads?|joblib\.load|yaml\.(?:unsafe_|full_)?load(?:_all)?|dill\..*"
)


def test_nothing_reads_in_a_way_that_runs_code():
    found = []
    for path in [path for folder in ("pirn_jax", "tools", "experiments") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
            own_loader = name == "yaml.load" and [ast.unparse(value) for value in node.args[1:]] == ["_Loader"]
            if name in ("eval", "exec") or (RUNS.fullmatch(name) and not own_loader):
                found.append(f"{path}: {name}")
            if options.get("allow_pickle") == "True" or (
                name == "torch.load" and options.get("weights_only") != "True"
            ):
                found.append(f"{path}: {ast.unparse(node)}")
    assert not found


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_compiled_programs_that_others_can_write_are_refused(tmp_path, mode):
    directory = tmp_path / "xla"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(InputError, match="compiled programs of it would run as you"):
        compiled.keep(directory)


def test_compiled_programs_of_somebody_else_are_refused(tmp_path, monkeypatch):
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(InputError, match="belongs to somebody else"):
        compiled.keep(tmp_path / "xla")


def test_a_cache_that_can_only_be_read_is_done_without(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    entry = cache.Prepared(np.zeros(3), np.ones(3, bool), "")
    cache.save(tmp_path / "a" / "b.npz", entry)
    assert cache.load(tmp_path / "a" / "b.npz") is None
    compiled.keep(tmp_path / "a" / "xla")


def test_a_full_disk_is_not_passed_over(tmp_path, monkeypatch):
    def fill(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(OSError, match="No space left"):
        cache.save(tmp_path / "b.npz", cache.Prepared(np.zeros(3), np.ones(3, bool), ""))
    assert not list(tmp_path.iterdir())


def test_mutated_files_are_read_or_told(tmp_path):
    trial = files.run(tmp_path, 60, seed=1)
    assert not trial.failures, table([trial])


def test_the_torture_tells_readers_that_raise_or_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LIMIT_S", 0.05)
    before = signal.getsignal(signal.SIGPROF)
    files.listen()

    def lacks_a_name(path):
        raise ValueError("cannot reshape")

    def hangs(path):
        while True:
            pass

    assert files.outcome(lacks_a_name, tmp_path) == ("raised", "lacks_a_name: ValueError: cannot reshape")
    assert files.outcome(hangs, tmp_path) == ("hung", "hangs")
    signal.signal(signal.SIGPROF, before)
