"""Growth of the time of a training step with the number of runs and with the sizes of their features and parameters.

One axis at a time, the others at their defaults: 10 seeds, 10 shots, 256 patches (`tokens`), 10 prototypes, 256
channels, batches of 4, the default config. Compilation is left out; all points are timed in turns.

`ours` are the seconds of a step of all runs, `x` is the place on the axis. `reference` is what growth in proportion
would give, from the first point of the axis; so a ratio above 1 says that growing is cheaper than that. `exponent` is
the power of x with which the time grows, least squares in logarithms over all points of the axis; it hides that costs
which do not grow with x weigh less and less.

Shots are features on the device, from which each step gathers its batch; no more of them are computed with. Studies on
a CPU train at most `sizes.RUNS_ON_CPU` runs together; 100 seeds there show that more would gain nothing.

Devices are an axis where there are several, with 8 seeds; proportion there is 1/x. What one CPU simulates
(XLA_FLAGS=--xla_force_host_platform_device_count=8) shares its cores, so it shows what cutting the runs costs, not
what devices add.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.suites import timing
from experiments.suites.train import RECIPE, stepping
from pirn_jax.methods import pirn
from pirn_jax.report import charts
from pirn_jax.training.episodes import Run


class Point(NamedTuple):
    """Sizes of a training; names are those of the axes."""

    seeds: int = 10
    shots: int = 10
    tokens: int = 256
    prototypes: int = 10
    devices: int = 1


AXES: dict[str, Sequence[int]] = {
    "seeds": (1, 10, 100),
    "shots": (1, 10, 200),
    "tokens": (64, 256, 1024),
    "prototypes": (5, 10, 50),
    "devices": (1, 2, 4, 8),
}
_SEEDS_ON_DEVICES = 8
_CHANNELS, _STEPS = 256, 2


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times every point once, those that axes share included."""
    axes = points(len(jax.local_devices()))
    distinct = dict.fromkeys(point for places in axes.values() for point in places.values())
    times = timing.medians({str(point): _steps(point) for point in distinct}, repeats)
    return cases(
        {axis: {x: times[str(point)] / _STEPS for x, point in places.items()} for axis, places in axes.items()}
    )


def points(devices: int) -> dict[str, dict[int, Point]]:
    """The points of each axis by place, on a machine with so many devices."""
    found = {axis: {x: Point(**{axis: x}) for x in places} for axis, places in AXES.items() if axis != "devices"}
    if devices > 1:
        found["devices"] = {x: Point(seeds=_SEEDS_ON_DEVICES, devices=x) for x in AXES["devices"] if x <= devices}
    return found


def _steps(point: Point) -> Callable[[], None]:
    """Some steps of all runs, going on from where the last call stopped."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(point.shots, 2, point.tokens, _CHANNELS)).astype(np.float32)
    indices = rng.integers(point.shots, size=(point.seeds, _STEPS, RECIPE.batch_size))
    runs = [Run("part", point.shots, seed) for seed in range(point.seeds)]
    devices = jax.local_devices()[: point.devices]
    return stepping(pirn.Config(score="cosine", num_prototypes=point.prototypes), features, indices, runs, devices)[0]


def cases(seconds: Mapping[str, Mapping[int, float]]) -> dict[str, timing.Case]:
    """A case for each point, from the seconds of a step by axis and place."""
    found = {}
    for axis, times in seconds.items():
        power, first = exponent(times), min(times)
        for x, ours in times.items():
            reference = times[first] * (first / x if axis == "devices" else x / first)
            values = {"ours": ours, "reference": reference, "ratio": reference / ours, "x": x, "exponent": power}
            found[f"{axis}, {x}"] = values
    return found


def exponent(times: Mapping[int, float]) -> float:
    """The p of the power law c x^p that fits best, in the sense of least squares between logarithms."""
    return float(np.polyfit(np.log(list(times)), np.log(list(times.values())), 1)[0])


def plot(found: Mapping[str, timing.Case]) -> str:
    """A panel for each axis as an SVG file: seconds of a step, and growth in proportion."""
    panels = {}
    for axis in AXES:
        of_axis = [case for name, case in found.items() if name.startswith(f"{axis},")]
        if not of_axis:
            continue
        x, ours, reference = (np.array([case[key] for case in of_axis]) for key in ("x", "ours", "reference"))
        lines = [
            charts.Line("seconds a step", x, ours, ours, ours),
            charts.Line("in proportion", x, reference, reference, reference),
        ]
        panels[f"{axis}: power {of_axis[0]['exponent']:z.2f}"] = lines
    return charts.log_panels_svg("Seconds of a training step of all runs, by the size of each axis", panels)
