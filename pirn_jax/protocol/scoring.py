"""From parameters to patch distances, from distances to anomaly maps and scores."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float, Int

from pirn_jax import threads
from pirn_jax.method import Method
from pirn_jax.protocol import parallel

BATCH = 4
"""Parts scored at a time by every run."""


def compile_program(method: Method) -> Callable:
    """Builds `(params, features, category (runs,), parts (batch,)) -> distances (runs, batch, 2, n)`.

    Methods with the same score share it.
    """
    return _compile(method.score)


@functools.lru_cache
def _compile(score: Callable) -> Callable:
    def distances(params: Any, features: Float[Array, "d m 2 n c"], category: Int[Array, ""], parts: Int[Array, " b"]):
        return jax.vmap(lambda part: score(params, features[category, part]))(parts)

    return parallel.Program(distances, (0, None, 0, None), batch_axes=(None, None, None, 0))


def score(
    program: Callable,
    params: Any,
    features: Float[Array, "d m 2 n c"],
    category: Int[np.ndarray, " r"],
    progress: Callable[[int], None] = lambda parts: None,
) -> Float[np.ndarray, "r m 2 n"]:
    """Patch distances of all test parts under every run.

    Args:
      program: see `compile_program`.
      params: parameters with the run axis.
      features: test features of every category, filled up to one number m of parts.
      category: index of each run's category in `features`.
      progress: told how many more parts are done.
    """
    count, features = features.shape[1], parallel.everywhere(features)
    shares = parallel.shares(len(category))
    cut = [jax.tree.map(lambda x, share=share: x[share], params) for share in shares]
    pieces = []
    for start in range(0, count, BATCH):
        parts = np.minimum(np.arange(start, start + BATCH), count - 1)

        def distances(params: Any, share: slice, parts=parts) -> np.ndarray:
            return np.asarray(program(params, features, category[share], parts))

        pieces.append(np.concatenate(threads.each(distances, cut, shares)))
        progress(min(BATCH, count - start))
    return np.concatenate(pieces, axis=1)[:, :count]


@dataclasses.dataclass(frozen=True)
class Maps:
    """How patch distances become anomaly maps.

    Attributes:
      grid: patches along a side.
      input_size: side of the encoder's input in pixels.
      sigma: deviation of the Gaussian filter in pixels of the encoder's input; 0 leaves it out.
    """

    grid: int
    input_size: int
    sigma: float

    def modalities(self, distances: Float[np.ndarray, "2 n"], size: tuple[int, int]) -> Float[np.ndarray, "2 h w"]:
        """Anomaly maps of one part, RGB and surface normals, at the size (height, width) of its image."""
        rows, columns = operators(self, size)
        return rows @ distances.reshape(2, self.grid, self.grid) @ columns.T

    def fused(self, distances: Float[np.ndarray, "2 n"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
        """Sum of the two modalities' maps; its maximum is the score of the part."""
        return self.modalities(distances, size).sum(0)


@functools.lru_cache(maxsize=64)
def operators(maps: Maps, size: tuple[int, int]) -> tuple[Float[np.ndarray, "h g"], Float[np.ndarray, "w g"]]:
    """What takes patch distances to an anomaly map, as one matrix for each axis: `map = rows @ distances @ columns.T`.

    Bilinear upsampling to the encoder's input, a Gaussian filter there, bilinear resizing to the padded square image
    and cutting off the padding are all linear and separable, so their product is taken once.
    """
    smooth = bilinear(maps.input_size, maps.grid)
    if maps.sigma > 0:
        smooth = scipy.ndimage.gaussian_filter1d(smooth, maps.sigma, axis=0, mode="reflect")
    side = max(size)
    full = bilinear(side, maps.input_size) @ smooth
    starts = [(side - length) // 2 for length in size]
    rows, columns = (full[start : start + length] for start, length in zip(starts, size, strict=True))
    return rows.astype(np.float32), columns.astype(np.float32)


def bilinear(size_out: int, size_in: int) -> Float[np.ndarray, "o i"]:
    """Bilinear interpolation along one axis as a matrix, pixel centres at half integers, edges repeated."""
    position = np.clip((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0, size_in - 1)
    below = np.minimum(np.floor(position).astype(int), max(size_in - 2, 0))
    matrix = np.zeros((size_out, size_in))
    index = np.arange(size_out)
    matrix[index, below] = 1.0 - (position - below)
    matrix[index, np.minimum(below + 1, size_in - 1)] += position - below
    return matrix
