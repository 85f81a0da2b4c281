"""Timing of things that are compared: in turns, in one process, medians."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

Case = dict[str, float]
"""What is known of one case: seconds of ours and of the reference, and reference / ours."""

_SIDE = 2048
_ELEMENTS = 2**26
_TRIALS = 9


def medians(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, all called in turns after one call each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            if repeat:
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(kept) for name, kept in times.items()}


def alternate(ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> Case:
    """Medians in seconds of both sides, timed in turns, and reference / ours."""
    found = medians({"ours": ours, "reference": reference}, repeats)
    return {**found, "ratio": found["reference"] / found["ours"]}


def judge(found: Mapping[str, float], name: str) -> Case:
    """`ours` beside the reference of a name, and the share of `floor`, all in seconds, that either reaches."""
    ours, reference, floor = found["ours"], found[name], found["floor"]
    return {
        "ours": ours,
        "reference": reference,
        "ratio": reference / ours,
        "floor": floor,
        "floor_fraction": floor / ours,
        "reference_fraction": floor / reference,
    }


def matrix_product(dtype: str) -> Callable[[], object]:
    """A product of square matrices in JAX."""
    a = jnp.ones((_SIDE, _SIDE), dtype)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a).block_until_ready()


def torch_matrix_product(dtype: str) -> Callable[[], object]:
    """The same product in PyTorch."""
    import torch

    a = torch.ones(_SIDE, _SIDE, dtype=getattr(torch, dtype))

    def product() -> object:
        with torch.inference_mode():
            return a @ a

    return product


def ceilings(dtype: str) -> dict[str, float]:
    """Operations per second of a large matrix product, in JAX and in PyTorch; the machine's is the higher one."""
    found = medians({"jax": matrix_product(dtype), "torch": torch_matrix_product(dtype)}, _TRIALS)
    return {name: 2 * _SIDE**3 / seconds for name, seconds in found.items()}


def bandwidth() -> float:
    """Bytes per second that memory delivers: the best of a copy in NumPy and a triad, a + 2 b, in JAX.

    Their arrays are of 256 MB, so that caches hold little of them.
    """
    source, target = np.ones(_ELEMENTS, np.float32), np.empty(_ELEMENTS, np.float32)
    triad = jax.jit(lambda a, b: a + 2 * b)
    a, b = jnp.ones(_ELEMENTS), jnp.zeros(_ELEMENTS)
    found = medians(
        {"copy": lambda: np.copyto(target, source), "triad": lambda: triad(a, b).block_until_ready()}, _TRIALS
    )
    return max(2 * source.nbytes / found["copy"], 3 * source.nbytes / found["triad"])


def compiles() -> bool:
    """True if torch.compile works here: it needs a C++ compiler."""
    code = "import torch; torch.compile(lambda x: x.sin() + 1)(torch.ones(8))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
