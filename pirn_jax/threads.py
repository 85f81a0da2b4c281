"""Calls that go side by side, each from a thread: kernels of one call alone leave the cores of a CPU idle at times.

Compiled programs that are called so must not hold operations that wait in XLA's own threads, as LAPACK's and FFT's do:
as many of them at once as there are threads wait for each other for good.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Value = TypeVar("Value")

AT_ONCE = 16
"""Most calls side by side: each takes memory of its own, and more would not be faster."""


def shares(count: int, least: int = 1) -> list[slice]:
    """Equal shares, the smallest of at least so many, in which a CPU computes what is alike; elsewhere one with all."""
    size = count
    if jax.default_backend() == "cpu" and len(jax.local_devices()) == 1:
        size = next((some for some in range(least, count) if count % some == 0), count)
    return [slice(start, start + size) for start in range(0, count, size)]


def each(function: Callable, *arguments: Sequence[Any], at_once: int = AT_ONCE) -> list[Any]:
    """The function's results in order, like those of `map`; so many calls at once go side by side."""
    if len(arguments[0]) == 1:
        return [function(*(argument[0] for argument in arguments))]
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(function, *arguments))


def once(function: Callable[..., Value]) -> Callable[..., Value]:
    """Keeps the function's results; of threads that ask for the same one at a time, one computes and the others wait.

    With `functools.cache` alone each of them would compile a program of its own.
    """
    lock, kept = threading.Lock(), functools.cache(function)

    @functools.wraps(function)
    def locked(*arguments: Any) -> Value:
        with lock:
            return kept(*arguments)

    return locked
