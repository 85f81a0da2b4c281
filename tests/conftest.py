"""Fixtures of all tests. Shape types of the package are checked at run time (see addopts in pyproject.toml)."""

import os

import jax
import pytest

# Most tests run what they compile once: optimising it would take longer than running it. Their processes follow.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Without these emitters and in one piece programs compile in half the time, with the same results to a rounding. A
# jaxlib that has dropped a flag ends the process, and newer ones than these have dropped that of the emitters.
_QUICK = "--xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def x64():
    """Double precision, to compare with the float64 reference."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compilations_told():
    """JAX logs what it compiles in all threads, which `jax.log_compiles` would ask of the current one."""
    before = jax.config.jax_log_compiles
    jax.config.update("jax_log_compiles", True)
    yield
    jax.config.update("jax_log_compiles", before)
