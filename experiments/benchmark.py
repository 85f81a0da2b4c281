"""Speed, measured beside what it is compared with, alternating in one process; ratios are what counts.

    python -m experiments.benchmark --suite=seeds

Suites:
  seeds: ten seeds together, against ten runs of one seed: "training" is the compiled steps alone, "study" a whole
    study of one category of the built-in parts, from cached features to metrics.
"""

import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import app, flags

from pirn_jax import cache, pirn, study
from pirn_jax.data import mvtec3d, procedural
from pirn_jax.encoders import pretrained
from pirn_jax.protocol import episodes, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.report import archive

_SUITE = flags.DEFINE_list("suite", ["seeds"], "What to measure: seeds.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/benchmark", "Where benchmark.json goes.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "How often each side is timed.", lower_bound=1)
_CHANNELS = flags.DEFINE_integer("channels", 192, "Channels of the features.", lower_bound=1)

_RUNS, _SHOTS, _PATCHES = 10, 10, 256
_RECIPE = training.Recipe(epochs=10, learning_rate=1e-3, batch_size=4)


def alternate(ours: Callable[[], object], reference: Callable[[], object], repeats: int) -> dict[str, float]:
    """Medians in seconds of both sides, timed in turns after one call each, and reference / ours."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for function, kept in zip((ours, reference), times, strict=True):
            begin = time.perf_counter()
            function()
            if repeat:
                kept.append(time.perf_counter() - begin)
    medians = [statistics.median(kept) for kept in times]
    return {"ours": medians[0], "reference": medians[1], "ratio": medians[1] / medians[0]}


def seeds() -> dict[str, dict[str, float]]:
    """Ten seeds in one call of the program, against ten calls of the program for one seed."""
    values = jax.random.normal(jax.random.key(0), (1, _SHOTS, 2, _PATCHES, _CHANNELS.value))
    programs = training.compile_programs(pirn.pirn(pirn.Config()), _RECIPE)
    runs = [Run("part", _SHOTS, seed) for seed in range(_RUNS)]

    def train(some: list[Run]) -> None:
        chosen = np.array([episodes.draw(run, _SHOTS) for run in some])
        params, _ = training.train(programs, some, values, np.zeros(len(some), int), chosen, _RECIPE)
        jax.block_until_ready(params)

    def train_each() -> None:
        for run in runs:
            train([run])

    return {
        "training": alternate(lambda: train(runs), train_each, _REPEATS.value),
        "study": alternate(lambda: _study(_RUNS), lambda: [_study(1) for _ in runs], _REPEATS.value),
    }


def _study(count: int) -> None:
    """A study of one category with this many seeds, in a directory of its own."""
    home = cache.cache_directory()
    jax.config.update("jax_compilation_cache_dir", str(home / "xla"))
    splits = mvtec3d.read(procedural.ensure(home, categories=("knob",)), ("knob",))
    recipe = training.Recipe(epochs=40, learning_rate=1e-3, batch_size=4)
    spec = study.Spec(
        "procedural", (_SHOTS,), count, "pirn", pirn.Config(), recipe, pretrained.load("random"), 224, 4.0
    )
    with tempfile.TemporaryDirectory() as directory:
        study.run(spec, splits, pathlib.Path(directory), _quiet)


@contextlib.contextmanager
def _quiet(title: str, total: int) -> Iterator[Callable[..., None]]:
    del title, total
    yield lambda *_: None


SUITES = {"seeds": seeds}


def main(arguments: list[str]) -> None:
    """Runs the suites and writes what they found."""
    del arguments
    unknown = set(_SUITE.value) - set(SUITES)
    if unknown:
        raise app.UsageError(f"unknown suite {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    found = {name: SUITES[name]() for name in _SUITE.value}
    for suite, cases in found.items():
        for case, values in cases.items():
            print(
                f"{suite} {case}: ours {values['ours']:.2f} s, reference {values['reference']:.2f} s, "
                f"ratio {values['ratio']:.2f}"
            )
    archive.write_json(pathlib.Path(_OUTPUT.value) / "benchmark.json", {"suites": found})


if __name__ == "__main__":
    app.run(main)
