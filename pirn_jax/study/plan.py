"""Plans of studies: models, steps, bytes, and minutes from rates that are measured in a minute on this machine."""

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pirn_jax import features, inputs, scoring
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.methods.base import Features
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study.data import MEMORY_BYTES
from pirn_jax.study.memory import BASE_BYTES
from pirn_jax.study.selection import Draw, draw
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage
from pirn_jax.training import episodes, sizes, train, windows
from pirn_jax.training.episodes import ALL, Run, Shots
from pirn_jax.training.programs import compile_programs

_PARTS = 10
"""Good parts that rates are measured with."""

_STEPS = 2
"""Steps in a measured call."""


class Rates(NamedTuple):
    """Seconds of a group of runs, and its memory.

    Attributes:
      step: of a training step.
      fit: from trained parameters to those that score, with `_PARTS` good parts.
      score: of a test sample.
      bytes: of the training program with parameters, optimiser and gradients, without features.
    """

    step: float
    fit: float
    score: float
    bytes: int


class Row(NamedTuple):
    """Plan of one number of shots.

    Attributes:
      shots: the number.
      models: runs.
      steps: of a model, the fewest and the most; zero where nothing is learned by steps.
      train: seconds of training and fitting.
      score: seconds of scoring and calibration.
      memory: bytes at the peak.
    """

    shots: Shots
    models: int
    steps: tuple[int, int]
    train: float
    score: float
    memory: int


class Plan(NamedTuple):
    """Plan of a study.

    Attributes:
      rows: by number of shots.
      samples: whose features are needed.
      disk: bytes of the cache for them.
      prepare: seconds until all features are there, from an empty cache.
    """

    rows: list[Row]
    samples: int
    disk: int
    prepare: float

    @property
    def seconds(self) -> float:
        """Of all, metrics and pages left out."""
        return self.prepare + sum(row.train + row.score for row in self.rows)


def make(spec: Spec, splits: dict[str, Splits], stage: Stage, memory: int = MEMORY_BYTES) -> Plan:
    """Measures rates and plans a study; nothing is kept.

    Args:
      spec: the study.
      splits: the samples of each category.
      stage: shows progress.
      memory: see `run.run`.

    Raises:
      InputError: if samples cannot be read, or there are too few.
    """
    drawn = draw(spec, splits)
    samples = sum(len(drawn.learned[c]) + len(of.test) for c, of in splits.items())
    first = next(iter(splits.values()))
    with stage("measuring rates", 1 + len(spec.shots)) as advance:
        seconds, patches = _prepare(spec, [*first.train, *first.test][: features.BATCH + 1])
        advance(1)
        rows = []
        for shots in spec.shots:
            rows.append(_row(spec, shots, drawn, patches, memory))
            advance(1)
    side = spec.preparation.size
    one = spec.sample_bytes * 2 // len(spec.modalities) + 7 * side**2
    return Plan(rows, samples, samples * one, samples * seconds)


def _prepare(spec: Spec, records: Sequence[Record]) -> tuple[float, int]:
    """Seconds of a sample from its files to its features, and the patches that are kept."""
    problems = Problems()
    names = inputs.identify(records, spec.preparation, problems)
    problems.check()

    def extract(some: slice) -> features.Extracted:
        with tempfile.TemporaryDirectory() as home:
            given = records[some], names[some], spec.encoder, spec.grid, spec.preparation
            return features.extract(*given, pathlib.Path(home), Stopwatch())

    _, begin = extract(slice(0, 1)), time.perf_counter()
    found = extract(slice(1, None))
    seconds = (time.perf_counter() - begin) / len(found.mask)
    return seconds, found.mask.shape[1] if spec.background == "keep" else int(found.mask.sum(1).max())


def _row(spec: Spec, shots: Shots, drawn: Draw, patches: int, memory: int) -> Row:
    """Plan of one number of shots."""
    splits = drawn.splits
    # Of an episode of each category, in all views.
    parts = {c: len(drawn.episodes[Run(c, shots, 0)]) for c in splits}
    shape = len(spec.modalities), len(spec.encoder.groups), patches, spec.encoder.config.width
    size = sizes.runs_at_once(spec.seeds if shots == ALL else spec.seeds * len(splits))
    rates, groups = _rates(spec, size, shape), _groups(shots, parts, size, spec.seeds)
    recipe, tests = spec.recipe, {c: len(of.test) for c, of in splits.items()}
    padded = tests if shots == ALL else dict.fromkeys(tests, max(tests.values()))
    steps = {c: recipe and episodes.count_steps(n, recipe.epochs, recipe.batch_size) or 0 for c, n in parts.items()}
    # Banks grow with the parts that they are made from, and each of their rows is compared with all others.
    support = {c: min(n, spec.support(shots) or n) for c, n in parts.items()}
    bank = {c: support[c] / _PARTS if rates.fit else 1.0 for c in parts}
    training = sum(rates.step * steps[c] + rates.fit * bank[c] ** 2 for c in groups)
    calibrated = {c: 0 if spec.fusion == "sum" else support[c] // len(spec.views) for c in parts}
    scored = sum(rates.score * bank[c] * (padded[c] + calibrated[c]) for c in groups)
    held = _held(spec, shots, parts, splits, 4 * int(np.prod(shape)), memory)
    between = min(steps.values()), max(steps.values())
    return Row(shots, spec.seeds * len(splits), between, training, scored, BASE_BYTES + held + rates.bytes)


def _held(
    spec: Spec, shots: Shots, parts: Mapping[str, int], splits: Mapping[str, Splits], one: int, memory: int
) -> int:
    """Bytes of features that are held at a time; `one` are those of a sample."""
    if shots == ALL:
        return min(memory, one * max(parts.values())) + 2 * windows.WINDOW_BYTES
    learned = sum(min(len(of.train), spec.seeds * parts[c]) for c, of in splits.items())
    return 2 * one * (learned + sum(len(of.test) for of in splits.values()))


def _groups(shots: Shots, parts: dict[str, int], size: int, seeds: int) -> list[str]:
    """A category of each group: the only one with every good part, else any, since all take as many steps."""
    if shots == ALL:
        return [c for c in parts for _ in range(-(-seeds // size))]
    return [next(iter(parts))] * -(-seeds * len(parts) // size)


def _rates(spec: Spec, runs: int, shape: tuple[int, ...]) -> Rates:
    """Rates of a group of runs on random features."""
    method, rng = spec.build(), np.random.default_rng(0)
    programs = compile_programs(method)
    values = rng.normal(size=(1, _PARTS, *shape)).astype(jnp.dtype(method.precision))
    held = Features(*jax.device_put((values, np.ones((1, _PARTS, shape[2]), bool))))
    every = [Run("", _PARTS, seed) for seed in range(runs)]
    category, chosen = np.zeros(runs, int), np.tile(np.arange(_PARTS), (runs, 1))
    recipe, step, needed = spec.recipe, 0.0, 0
    if recipe is not None and programs.steps is not None:
        batch = recipe.batch_size
        states = train.initialise(programs, every, held, category, chosen, recipe, batch)
        order = np.stack([episodes.batches(run, 1 + batch * _STEPS // _PARTS, batch)[:_STEPS] for run in every])
        # As many steps as are measured, so that the program is compiled once.
        once = dataclasses.replace(recipe, epochs=1)
        needed = sizes.bytes_needed(programs, runs, held, batch * _STEPS, once) - sum(x.nbytes for x in held)
        states, _ = train.advance(programs, states, held, category, order)
        step = _seconds(lambda: train.advance(programs, states, held, category, order)) / _STEPS
    untrained = None if recipe is None else dataclasses.replace(recipe, epochs=0)

    def fit() -> train.Trained:
        return jax.block_until_ready(train.train(programs, every, held, category, chosen, untrained)[0])

    trained = fit()
    fitted = _seconds(fit) if programs.finalize is not None else 0.0
    program = scoring.compile_program(method)
    scoring.score(program, trained.params, held, category)
    scored = _seconds(lambda: scoring.score(program, trained.params, held, category)) / _PARTS
    return Rates(step, fitted, scored, max(needed, 0))


def _seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
