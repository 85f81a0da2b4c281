"""CONTRIBUTING.md: its example is a method, and its tables name functions that exist."""

import importlib
import pathlib
import re

import pytest

from pirn_jax.methods import base

TEXT = (pathlib.Path(__file__).parents[1] / "CONTRIBUTING.md").read_text("utf-8")
NAMED = re.findall(r"`((?:methods|encoders|scoring|features)(?:\.\w+)*)\.(\w+)`", TEXT[TEXT.index("## Equations") :])


def test_the_example_is_a_method():
    code = TEXT.partition("```python\n")[2].partition("```")[0]
    names = {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    entry = names["ENTRY"]
    method = entry.build(entry.presets["default"].config, ("rgb", "normals"))
    base.check(method, base.shapes(3, 2, 2, 16, 8))


@pytest.mark.parametrize(("module", "name"), dict.fromkeys(NAMED))
def test_functions_of_equations_exist(module, name):
    path = f"pirn_jax.{module}"
    found = importlib.import_module(path)
    assert hasattr(found, name) or importlib.util.find_spec(f"{path}.{name}")


def test_the_tables_name_most_functions():
    assert len(set(NAMED)) > 15
