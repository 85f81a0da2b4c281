"""Modules build on those below them, and optional packages are asked for only where they are needed."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LEAVES = ("stopwatch", "atomic", "cache", "threads")
ROOMS = ("data", "geometry", "encoders", "inputs", "features", "methods", "training", "scoring", "metrics", "study")
ROOMS += ("inspection", "report")
"""Each may import from itself and from those before it, as leaves may; all others may import all leaves."""

OPTIONAL = ("open3d", "tensorflow_datasets", "tensorflow", "array_record", "apache_beam", "OpenEXR", "tensorboardX")
OPTIONAL += ("torch", "transformers", "timm", "matplotlib", "sklearn")
FILES = sorted((ROOT / "pirn_jax").rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(path: pathlib.Path, level: int) -> str:
    """What a relative import of a level in a file is relative to."""
    parts = path.relative_to(ROOT).parts[:-1]
    return ".".join(parts[: len(parts) - level + 1])


def targets(path: pathlib.Path, node: ast.AST) -> list[str]:
    """Full names of what a statement imports; `from a import b` counts as a.b, be it a module or not."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            base = ".".join(filter(None, [package_of(path, node.level), base]))
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def imports(path: pathlib.Path) -> list[str]:
    return [name for node in ast.walk(ast.parse(path.read_text("utf-8"))) for name in targets(path, node)]


def imports_on_import(path: pathlib.Path) -> list[str]:
    """What importing the file imports: all but what stands in functions."""
    found: list[str] = []
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        found += targets(path, node)
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            nodes.extend(ast.iter_child_nodes(node))
    return found


def room_of(name: str) -> str | None:
    """The room of a module or of a name in it, None for the package itself and what is outside of it."""
    parts = name.split(".")
    if parts[0] != "pirn_jax" or len(parts) == 1 or parts[1].startswith("__"):
        return None
    return parts[1]


def test_every_module_has_a_room():
    rooms = {room_of(name_of(path)) for path in FILES} - {None}
    assert rooms == {*LEAVES, *ROOMS}, "name a new module in ROOMS, where it belongs"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_module_imports_only_from_its_room_and_those_before_it(path):
    own = room_of(name_of(path))
    if own is None:
        allowed = set()
    elif own in LEAVES:
        allowed = {*LEAVES[: LEAVES.index(own) + 1]}
    else:
        allowed = {*LEAVES, *ROOMS[: ROOMS.index(own) + 1]}
    used = {room for name in imports(path) if (room := room_of(name))}
    assert used <= allowed, f"{own} may not import {sorted(used - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_library_knows_neither_flags_nor_experiments_nor_tests(path):
    foreign = ("absl", "experiments", "tools", "tests", "pytest")
    assert not [name for name in imports(path) if name.split(".")[0] in foreign]


# The baselines are programs of PyTorch; whoever imports them needs it.
COMMANDS = [p for folder in ("experiments", "tools") for p in sorted((ROOT / folder).rglob("*.py"))]
COMMANDS = [path for path in COMMANDS if path.parent.name != "baselines_torch"]


# Its classes are registered by deriving from those of tensorflow-datasets; the package imports it only where that is.
PLUGIN = ROOT / "pirn_jax" / "data" / "tfds" / "builders.py"


@pytest.mark.parametrize("path", [path for path in (*FILES, *COMMANDS) if path != PLUGIN], ids=name_of)
def test_optional_packages_are_not_imported_with_the_module(path):
    assert not [name for name in imports_on_import(path) if name.split(".")[0] in OPTIONAL]


def test_nothing_but_commands_imports_reports():
    others = [path for path in FILES if room_of(name_of(path)) != "report"]
    assert not [name_of(path) for path in others if any(room_of(name) == "report" for name in imports(path))]


def test_nothing_but_methods_names_a_method():
    names = {path.stem for path in (ROOT / "pirn_jax" / "methods").glob("*.py")} | {"pirn"}
    names -= {"__init__", "base", "balance", "losses", "nearest", "views"}
    others = [path for path in FILES if room_of(name_of(path)) != "methods"]
    for path in others:
        modules = {name.split(".")[2] for name in imports(path) if name.startswith("pirn_jax.methods.")}
        assert not modules & names, name_of(path)


def test_tools_import_nothing_of_experiments():
    paths = sorted((ROOT / "tools").rglob("*.py"))
    assert not [name_of(path) for path in paths if any(name.split(".")[0] == "experiments" for name in imports(path))]


def test_modules_do_not_import_each_other_in_a_circle():
    """Imports within functions count, too."""
    known = {name_of(path): path for path in FILES}

    def used(path):
        names = {name for name in imports(path) if name.startswith("pirn_jax.")}
        modules = {name if name in known else name.rpartition(".")[0] for name in names}
        return (modules & known.keys()) - {"pirn_jax"}

    edges = {name: used(path) - {name} for name, path in known.items()}
    graphlib.TopologicalSorter(edges).prepare()


def test_the_reference_shares_nothing_with_the_library():
    names = {name.split(".")[0] for name in imports(ROOT / "tests" / "reference.py")}
    assert names <= {"numpy", "typing", "math", "collections"}


def test_imports_are_found_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "pirn_jax" / "report" / "page.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import torch.nn as nn\nfrom pirn_jax import study\nfrom ..features import extract\nfrom . import tables\n"
        "def f():\n    import open3d\nclass C:\n    import timm\n"
        "try:\n    import array_record\nexcept ImportError: pass\n"
    )
    on_import = {"torch.nn", "pirn_jax.study", "pirn_jax.features.extract", "pirn_jax.report.tables", "timm"}
    on_import |= {"array_record"}
    assert set(imports_on_import(path)) == on_import
    assert set(imports(path)) == on_import | {"open3d"}
    assert name_of(path) == "pirn_jax.report.page"
    assert [room_of(name) for name in ("pirn_jax.study", "pirn_jax.__version__", "jax")] == ["study", None, None]


def test_importing_computes_nothing():
    # A computation starts XLA's threads, which no process survives that forks afterwards; and it takes a GPU's memory.
    code = "import pirn_jax.study.run, pirn_jax.inspection.inspector, jax._src.xla_bridge as b; print(b._backends)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{}"
