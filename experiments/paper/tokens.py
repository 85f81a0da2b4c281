"""Patch tokens of test samples on their way through a trained PIRN."""

from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image
from jaxtyping import Bool, Float

from experiments.paper.studies import Done
from pirn_jax import cache, features, inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record
from pirn_jax.inspection import inspector
from pirn_jax.methods.base import Features
from pirn_jax.methods.pirn import method
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.training.episodes import Run

MARKED = 0.25
"""Share of a patch from which on a mask makes it anomalous; below it, it is neither that nor normal (our choice)."""


class Traced(NamedTuple):
    """Tokens of the test samples of a category.

    Attributes:
      records: these samples.
      before: input of the decoder.
      after: what it rebuilt.
      prototypes: of the first and of the last layer, refined on each sample.
      plan: of the first layer's BPA.
      shown: patches that show the part.
      normal: patches of good samples.
      anomalous: marked patches of defective ones.
    """

    records: list[Record]
    before: Float[np.ndarray, "s 2 n c"]
    after: Float[np.ndarray, "s 2 n c"]
    prototypes: Float[np.ndarray, "s l 2 k c"]
    plan: Float[np.ndarray, "s 2 n k"]
    shown: Bool[np.ndarray, "s n"]
    normal: Bool[np.ndarray, "s n"]
    anomalous: Bool[np.ndarray, "s n"]

    @property
    def lengths(self) -> Float[np.ndarray, "s 2 n"]:
        """Distance that each token moves."""
        return np.linalg.norm(self.after - self.before, axis=-1)


def follow(done: Done, category: str, records: list[Record]) -> Traced:
    """Follows a category's test samples through the run of seed 0."""
    spec = done.spec
    loaded = inspector.load(done.directory, Run(category, spec.shots[0], 0), spec.encoder.name)
    names = inputs.identify(records, spec.preparation, Problems())
    frozen, home = (spec.encoder, spec.grid, spec.preparation), cache.cache_directory()
    found = features.extract(records, names, *frozen, home, Stopwatch())
    shown = found.mask if spec.background == "ignore" else np.ones_like(found.mask)
    params: Any = jax.tree.map(lambda leaf: leaf[0], loaded.params)
    values = found.values
    if len(spec.encoder.parts) > 1:
        scale, params = params
        values = values / np.asarray(scale)[:, None, None]
    learned, fixed = (params["learned"], params["fixed"]) if isinstance(params, dict) else params
    one = jax.jit(lambda values, mask: method.trace(spec.config, learned, fixed, Features(values, mask)))
    traces = [jax.device_get(one(*of)) for of in zip(values, shown, strict=True)]
    before, after, prototypes, plan = (np.stack(of) for of in zip(*traces, strict=True))
    shares = np.stack([_marked(record, spec.grid) for record in records])
    defective = np.array([record.defective for record in records])[:, None]
    normal, anomalous = shown & ~defective, shown & (shares >= MARKED)
    return Traced(records, before, after, prototypes[:, [0, -1]], plan, shown, normal, anomalous)


def _marked(record: Record, grid: int) -> Float[np.ndarray, " n"]:
    """Share of each patch that a sample's mask marks; none without a mask."""
    gt = sample.load_gt(record)
    if gt is None:
        return np.zeros(grid**2)
    image = PIL.Image.fromarray(inputs.square(gt).astype(np.float32))
    return np.asarray(image.resize((grid, grid), PIL.Image.Resampling.BOX)).ravel()
