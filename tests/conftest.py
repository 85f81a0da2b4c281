"""Fixtures of all tests. Shape types of the package are checked at run time (see addopts in pyproject.toml)."""

import jax
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def x64():
    """Double precision, to compare with the float64 reference."""
    with jax.enable_x64(True):
        yield
