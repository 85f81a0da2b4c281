"""Ten seeds together, against ten runs of one seed.

"training" is the compiled steps alone, "study" a whole study of one category of the built-in parts, from cached
features to metrics.
"""

import pathlib
import tempfile

import numpy as np

from experiments.suites import timing
from experiments.suites.train import as_features, method_of
from pirn_jax import cache
from pirn_jax.data import mvtec3d, procedural
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.methods import pirn
from pirn_jax.methods.base import Recipe
from pirn_jax.study import run as study
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import hidden
from pirn_jax.training import compiled, episodes
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

_RUNS, _SHOTS, _PATCHES, _CHANNELS = 10, 10, 256, 256
_RECIPE = Recipe(epochs=10, learning_rate=1e-3, batch_size=4)


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times ten seeds in one call of the program, and ten calls of the program for one seed."""
    values = as_features(np.random.default_rng(0).normal(size=(1, _SHOTS, 2, _PATCHES, _CHANNELS)).astype(np.float32))
    programs = compile_programs(method_of(pirn.Config(score="cosine")))
    runs = [Run("part", _SHOTS, seed) for seed in range(_RUNS)]

    def train(some: list[Run]) -> None:
        chosen = np.array([episodes.draw(run, _SHOTS) for run in some])
        training.train(programs, some, values, np.zeros(len(some), int), chosen, _RECIPE)

    def train_each() -> None:
        for run in runs:
            train([run])

    return {
        "training": timing.alternate(lambda: train(runs), train_each, repeats),
        "study": timing.alternate(lambda: _study(_RUNS), lambda: [_study(1) for _ in runs], repeats),
    }


def _study(count: int) -> None:
    """A study of one category with this many seeds, in a directory of its own."""
    home = cache.cache_directory()
    compiled.keep(home / "xla")
    splits = mvtec3d.read(procedural.ensure(home, categories=("knob",)), ("knob",))
    recipe = Recipe(epochs=40, learning_rate=1e-3, batch_size=4)
    encoder = pretrained.load("random")
    spec = Spec("procedural", (_SHOTS,), count, "pirn", pirn.Config(score="cosine"), recipe, encoder, Preparation())
    with tempfile.TemporaryDirectory() as directory:
        study.run(spec, splits, pathlib.Path(directory), hidden)
