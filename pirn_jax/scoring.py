"""Scoring: parameters to patch distances, distances to anomaly maps and image scores."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from jaxtyping import Array, Float, Int

from pirn_jax import threads
from pirn_jax.methods.base import Features, Method, take
from pirn_jax.training import parallel

BATCH = 4
"""Samples scored at a time by every run."""

_ROUNDING = 1e-5
"""Distances of equal rows, up to which rounding alone takes them; those of different ones are about 1."""

FUSIONS = ("sum", "calibrated", "one_class", "maximum")
"""Sum of maps as they are; or sum, one-class sum or maximum of maps divided by what good parts reach (`calibrate`), the
maximum of each judge (`Method.judges`)."""


def patch_distances(score: Callable, params: Any, features: Features) -> Float[Array, "k n"]:
    """Distances of a method's maps, zero off the part."""
    return jnp.where(features.mask, score(params, features), 0.0)


def compile_program(method: Method) -> parallel.Program:
    """Builds `(params, features, category (runs,), samples (batch,)) -> distances (runs, batch, k, n)`.

    Methods with the same score share it.
    """
    return _compile(method.score)


@functools.lru_cache
def _compile(score: Callable) -> parallel.Program:
    def distances(params: Any, features: Features, category: Int[Array, ""], samples: Int[Array, " b"]):
        return jax.vmap(lambda i: patch_distances(score, params, take(features, category, i)))(samples)

    return parallel.Program(distances, (0, None, 0, None), (None, None, None, 0))


def score(
    program: Callable,
    params: Sequence[Any],
    features: Features,
    category: Int[np.ndarray, " r"],
    progress: Callable[[int], None] = lambda samples: None,
) -> Float[np.ndarray, "r d k n"]:
    """Patch distances of all test samples under every run.

    Args:
      program: see `compile_program`.
      params: parameters, a piece for each of `parallel.shares`, see `train.Trained`.
      features: test features of every category, padded to one number d of samples.
      category: index of each run's category in `features`.
      progress: told how many more samples are done.
    """
    count, features = features.mask.shape[1], parallel.everywhere(features)
    batch = math.lcm(BATCH, parallel.parts_of(params[0]))
    pieces = []
    for start in range(0, count, batch):
        samples = np.minimum(np.arange(start, start + batch), count - 1)

        def distances(params: Any, share: slice, samples=samples) -> np.ndarray:
            return parallel.collect_batches(program(params, features, category[share], samples))

        pieces.append(np.concatenate(threads.each(distances, params, parallel.shares(len(category)))))
        progress(min(batch, count - start))
    return np.concatenate(pieces, axis=1)[:, :count]


def compile_support_program(method: Method) -> parallel.Program:
    """Builds `(params, features, category, episode) -> distances (runs, shots, k, n)`.

    These are distances of each run's own good parts, each scored with parameters that forget it; with a single shot
    nothing would be left, and nothing is forgotten.
    """
    return _compile_support(method.score, method.forget)


@functools.lru_cache
def _compile_support(score: Callable, forget: Callable) -> parallel.Program:
    def distances(params: Any, features: Features, category: Int[Array, ""], episode: Int[Array, " s"]):
        def of_sample(i: Int[Array, ""]) -> Float[Array, "k n"]:
            used = forget(params, i) if len(episode) > 1 else params
            return patch_distances(score, used, take(features, category, episode[i]))

        return jax.lax.map(of_sample, jnp.arange(len(episode)))

    return parallel.Program(distances, (0, None, 0, 0), (None,) * 4)


def score_support(
    program: Callable,
    params: Sequence[Any],
    features: Features,
    category: Int[np.ndarray, " r"],
    chosen: Int[np.ndarray, "r s"],
) -> Float[np.ndarray, "r s k n"]:
    """Patch distances of each run's own good parts, see `compile_support_program`; arguments as in `train.train`."""
    features = parallel.everywhere(features)

    def distances(params: Any, share: slice) -> np.ndarray:
        return parallel.collect([program(params, features, category[share], chosen[share])])

    return np.concatenate(threads.each(distances, params, parallel.shares(len(category))))


@dataclasses.dataclass(frozen=True)
class Maps:
    """Fusion of patch distances and upsampling to anomaly maps.

    Attributes:
      grid: patches along a side.
      input_size: side of the encoder's input in pixels.
      sigma: deviation of the Gaussian filter in pixels of the encoder's input; 0 leaves it out.
      fusion: one of `FUSIONS`.
      judges: of the method, see `Method.judges`.
    """

    grid: int
    input_size: int
    sigma: float
    fusion: str = "sum"
    judges: tuple[int, ...] = ()

    def upsample(self, distances: Float[np.ndarray, "*k n"], size: tuple[int, int]) -> Float[np.ndarray, "*k h w"]:
        """Anomaly maps of one sample at the size (height, width) of its image."""
        rows, columns = operators(self, size)
        return rows @ distances.reshape(*distances.shape[:-1], self.grid, self.grid) @ columns.T

    def fused(
        self, distances: Float[np.ndarray, "k n"], scales: Float[np.ndarray, " k"], size: tuple[int, int]
    ) -> Float[np.ndarray, "h w"]:
        """The fused anomaly map of one sample; patches are fused, which for sums is the same as to fuse maps."""
        return self.upsample(fuse(distances, scales, self.fusion, self.judges), size)


def fuse(distances: Any, scales: Any, fusion: str, judges: tuple[int, ...] = ()) -> Any:
    """Sum or maximum over maps of distances (..., k, n), each divided by its scale.

    A defect that shows in one map alone stands out in the maximum, and drowns in a sum with the others' noise. Several
    judges see the same defects, each with false alarms of its own, so their maxima are added: a patch that one of them
    alone finds odd no longer outvotes the rest.

    Args:
      distances: of the method's maps.
      scales: (k,) of them.
      fusion: one of `FUSIONS`.
      judges: see `Method.judges`; only "maximum" tells them apart.
    """
    scaled = distances / scales[:, None]
    if fusion != "maximum":
        return scaled.sum(-2)
    ends = list(itertools.accumulate(judges or (scaled.shape[-2],)))
    starts = [0, *ends[:-1]]
    return sum(scaled[..., a:b, :].max(-2) for a, b in zip(starts, ends, strict=True))


def calibrate(support: Float[np.ndarray, "s k n"], maps: Maps) -> Float[np.ndarray, " k"]:
    """Scale of each map: the median over good parts of the map's maximum, 1 where that is nothing but rounding.

    So it is where a single part meets its own patches in a memory bank. By "one_class" maps are weighted besides, see
    `one_class_weights`.
    """
    side = maps.input_size
    highest = maps.upsample(support, (side, side)).max((-2, -1))
    scales = np.median(highest, axis=0)
    scales = np.where(scales > _ROUNDING, scales, 1.0)
    if maps.fusion == "one_class":
        rows = np.moveaxis(support / scales[:, None], 1, 2).reshape(-1, len(scales))
        rows = rows[rows.any(axis=1)]
        weights = one_class_weights(rows) if len(rows) else np.ones(len(scales))
        scales = scales / np.maximum(weights / weights.sum(), 1e-6)
    return scales.astype(np.float32)


def one_class_weights(rows: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " k"]:
    """Normal vector of a linear one-class support vector machine with nu = 1/2, as M3DM fuses distances.

    Its weights are the mean of the half of the rows that score lowest under them. M3DM fits it on distances of the
    training parts to a bank that holds themselves, here these are left out; it has three maps, here are as many as the
    method has. Where a map is larger on good parts it counts for more, which calibration has mostly taken out before.

    Args:
      rows: distances of patches of good parts in each map, none negative; at least one.
    """
    weights = rows.mean(axis=0)
    for _ in range(100):
        scores = rows @ weights
        renewed = rows[scores <= np.median(scores)].mean(axis=0)
        if np.array_equal(renewed, weights):
            break
        weights = renewed
    return weights


def image_score(values: Any, top_share: float = 0.0) -> Any:
    """Score of each map (..., h, w): its maximum, or the mean of a top share of its pixels, at least one."""
    if not top_share:
        return values.max((-2, -1))
    flat = values.reshape(*values.shape[:-2], -1)
    count = max(1, round(top_share * flat.shape[-1]))
    if isinstance(flat, jax.Array):
        return jax.lax.top_k(flat, count)[0].mean(-1)
    return np.partition(flat, -count, axis=-1)[..., -count:].mean(-1)


@functools.lru_cache(maxsize=64)
def operators(maps: Maps, size: tuple[int, int]) -> tuple[Float[np.ndarray, "h g"], Float[np.ndarray, "w g"]]:
    """Patch distances to an anomaly map as one matrix for each axis: `map = rows @ distances @ columns.T`.

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
