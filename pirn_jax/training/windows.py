"""Features of the parts that a call of a program needs: all of them on the device, or a window that is read for it."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from pirn_jax.methods.base import Features
from pirn_jax.training import parallel

WINDOW_BYTES = 2**29
"""Most bytes of a window (our choice); one is in use while the next is read, and the device has a copy of each."""

Item = TypeVar("Item")
Value = TypeVar("Value")


@runtime_checkable
class Source(Protocol):
    """Features of one category's parts, too many to hold."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a part's values (m, g, n, c)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of its values."""
        ...

    @property
    def most(self) -> int:
        """Parts of the largest category, by which windows of all categories have one shape."""
        ...

    @property
    def sample_bytes(self) -> int:
        """Bytes of a part."""
        ...

    def read(self, samples: Int[np.ndarray, " w"]) -> Features:
        """NumPy arrays with leading axes (1, w)."""
        ...


def window(features: Features | Source, samples: Int[np.ndarray, "*shape"]) -> tuple[Features, np.ndarray]:
    """Features that hold some samples, and the places of these there.

    A window has room for all different samples that so many can be, so its shape depends on their number alone.
    """
    if isinstance(features, Features):
        return features, samples
    different, places = np.unique(samples, return_inverse=True)
    size = min(samples.size, features.most)
    padded = np.pad(different, (0, size - len(different)), "edge")
    held = parallel.everywhere(jax.device_put(features.read(padded)))
    return Features(*held), places.reshape(samples.shape)


def shapes(features: Features | Source, samples: int) -> Features:
    """Shapes of `window` for so many samples, or all features, as they are asked for when compiling ahead."""
    if isinstance(features, Features):
        return features
    leading = 1, min(samples, features.most)
    values: Any = jax.ShapeDtypeStruct((*leading, *features.shape), features.dtype)
    mask: Any = jax.ShapeDtypeStruct((*leading, features.shape[2]), jnp.bool_)
    return Features(values, mask)


def ahead(function: Callable[[Item], Value], items: Iterable[Item]) -> Iterator[Value]:
    """Like `map`, with the next value computed by a thread while the last one is in use."""
    with ThreadPoolExecutor(1) as pool:
        asked = (pool.submit(function, item) for item in items)
        upcoming = next(asked, None)
        for following in itertools.chain(asked, [None]):
            if upcoming is not None:
                yield upcoming.result()
            upcoming = following
