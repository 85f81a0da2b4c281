"""Speed, measured beside what it is compared with, alternating in one process; ratios are what counts.

    python -m experiments.benchmark --suite=seeds,encoder

Each suite is a module of `experiments/suites/`, which says what it compares.
"""

import pathlib
import sys

from absl import app, flags, logging

from experiments.suites import encoder, latency, metrics, normals, score, seeds, sinkhorn, train
from pirn_jax.report import archive

SUITES = {
    "seeds": seeds.measure,
    "train": train.measure,
    "sinkhorn": sinkhorn.measure,
    "score": score.measure,
    "latency": latency.measure,
    "encoder": encoder.measure,
    "normals": normals.measure,
    "metrics": metrics.measure,
}
_EXTRAS = dict.fromkeys(("train", "score", "latency", "encoder"), "convert") | {"normals": "open3d"}

_SUITE = flags.DEFINE_list("suite", ["seeds"], f"What to measure: {', '.join(SUITES)}.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/benchmark", "Where benchmark.json goes.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "How often each side is timed.", lower_bound=1)


def _row(case: dict[str, float]) -> str:
    text = f"ours {case['ours']:.3g} s, reference {case['reference']:.3g} s, ratio {case['ratio']:.2f}"
    if "floor_fraction" in case:
        text += f"; of the ceiling ours {case['floor_fraction']:.0%}, reference {case['reference_fraction']:.0%}"
    if "parts_per_s" in case:
        text += f"; p99 ours {case['p99_ms']:.0f} ms, reference {case['reference_p99_ms']:.0f} ms"
        text += f"; parts/s ours {case['parts_per_s']:.1f}, reference {case['reference_parts_per_s']:.1f}"
        text += f"; cold start {case['cold_start_s']:.1f} s, nothing compiled {case['cold_start_empty_s']:.1f} s"
        text += f"; peak {case['peak_mb']:.0f} MB"
    return text


def main(arguments: list[str]) -> None:
    """Runs the suites and writes what they found."""
    del arguments
    # Libraries tell of every step of a checkpoint.
    logging.set_verbosity(logging.WARNING)
    unknown = set(_SUITE.value) - set(SUITES)
    if unknown:
        raise app.UsageError(f"unknown suite {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    found = {}
    for name in _SUITE.value:
        try:
            found[name] = SUITES[name](_REPEATS.value)
        except ImportError as error:
            sys.exit(f"error: suite {name} needs {error.name}: pip install 'pirn_jax[{_EXTRAS[name]}]'")
        for case, values in found[name].items():
            print(f"{name} {case}: {_row(values)}", flush=True)
    archive.write_json(pathlib.Path(_OUTPUT.value) / "benchmark.json", {"suites": found})


if __name__ == "__main__":
    app.run(main)
