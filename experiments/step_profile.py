"""Profile of a training step: time of its kernels by part of the model.

    python -m experiments.step_profile --channels=256

Trains ten runs of a small study's sizes on random features: 10 shots, 256 patches, batches of 4. Times are those of
the kernels of one step, divided by runs, of one call alone: on a CPU the share of the runs that one call takes. Below
the table stand the wall time of that call, that of all runs, whose calls go side by side, what XLA's cost analysis
counts in a step, and the least that any order of work would take.
"""

import collections
import gzip
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from absl import app, flags

from experiments.suites import train
from pirn_jax.training import episodes
from pirn_jax.training import train as training
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs
from tools import console

_CHANNELS = flags.DEFINE_integer("channels", 256, "Channels of the features.", lower_bound=4)
_STEPS = flags.DEFINE_integer("traced_steps", 5, "Steps that are traced.", lower_bound=1)

_MODULES = ("refine", "assign", "align", "inject")
_NAMES = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = .*op_name="([^"]*)"', re.MULTILINE)


def parts(hlo: str) -> dict[str, str]:
    """The part of the model that each instruction of a compiled program belongs to, in words."""
    return {name: _part(path) for name, path in _NAMES.findall(hlo)}


def _part(path: str) -> str:
    """`path` is what JAX calls the operation, scopes joined by slashes."""
    way = "backward" if "transpose(" in path else "forward" if "jvp(" in path else None
    module = re.search(r"(layer_\d+)/(?:vmap\((?:layer_\d+\.)?_?)?(\w+)", path)
    if module:
        name = module[2] if module[2] in _MODULES else "itself"
        return f"{module[1].replace('_', ' ')} {name}, {way}"
    return f"loss and features, {way}" if way else "Adam and copies"


def kernels(directory: pathlib.Path) -> Iterator[tuple[str, float]]:
    """Name and milliseconds of everything in the trace that JAX's profiler wrote below a directory."""
    path = next(directory.rglob("*.trace.json.gz"))
    for event in json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]:
        if event.get("ph") == "X":
            yield event["name"], event["dur"] / 1000


def _run() -> None:
    channels, steps, runs = _CHANNELS.value, _STEPS.value, [Run("part", train.SHOTS, i) for i in range(train.RUNS)]
    values = np.random.default_rng(0).normal(size=(1, train.SHOTS, 2, train.PATCHES, channels)).astype(np.float32)
    features, programs = train.as_features(values), compile_programs(train.method_of(train.CONFIG))
    category, chosen = np.zeros(len(runs), int), np.array([episodes.draw(run, train.SHOTS) for run in runs])
    indices = np.stack([episodes.batches(run, 10, train.RECIPE.batch_size)[:steps] for run in runs])
    states = training.initialise(programs, runs, features, category, chosen, train.RECIPE)
    steps_program = programs.steps
    assert steps_program is not None
    share = len(states[0].fixed["scale"])
    weights = sum(leaf.size for leaf in jax.tree.leaves(states[0].learned)) // share

    def together() -> None:
        nonlocal states
        states, _ = jax.block_until_ready(training.advance(programs, states, features, category, indices))

    some = np.ones(steps, np.float32), training.step_keys(training.run_keys(runs[:share], "steps"), 0, steps)
    given = features, category[:share], indices[:share], *some

    def alone() -> None:
        states[0], _ = jax.block_until_ready(steps_program(states[0], *given))

    def wall(run: Callable[[], None], some: int) -> float:
        run()
        begin = time.perf_counter()
        run()
        return 1000 * (time.perf_counter() - begin) / steps / some

    compiled = steps_program.compile(states[0], *given)
    walls = wall(alone, share), wall(together, len(runs))
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            alone()
        belongs = parts(compiled.as_text() or "")
        times: dict[str, float] = collections.defaultdict(float)
        for name, milliseconds in kernels(pathlib.Path(directory)):
            # A loop's own entry repeats what its body took.
            if name in belongs and not name.startswith("while"):
                times[belongs[name]] += milliseconds / steps / share
    total = sum(times.values())
    print(f"{'ms a run and step':>18}  {'share':>5}  part")
    for part, milliseconds in sorted(times.items(), key=lambda item: -item[1]):
        print(f"{milliseconds:18.2f}  {milliseconds / total:5.0%}  {part}")
    counted = compiled.cost_analysis() or {}
    print(f"sum {total:.1f} ms, wall {walls[0]:.1f} ms for {share} runs, {walls[1]:.1f} ms for {len(runs)}")
    print(
        f"products {train.operations(train.CONFIG, channels) / 1e9:.2f} GFLOP, at least "
        f"{train.moved_bytes(train.CONFIG, channels, weights) / 1e6:.0f} MB; XLA counts "
        f"{counted.get('bytes accessed', 0) / share / 1e6:.0f} MB, of loops one turn"
    )


def main(arguments: list[str]) -> None:
    """Prints the profile."""
    console.run(_run, arguments, places="the folder of temporary files")


if __name__ == "__main__":
    app.run(main)
