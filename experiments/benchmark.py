"""Speed, measured beside what it is compared with, alternating in one process; ratios are what counts.

    python -m experiments.benchmark --suite=seeds,encoder

Each suite is a module of `experiments/suites/`, which says what it compares. What a run found is printed as Markdown by

    python -m experiments.benchmark --markdown=outputs/benchmark/benchmark.json
"""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from absl import app, flags

from experiments.suites import (
    encoder,
    latency,
    methods,
    metrics,
    normals,
    patchcore,
    scaling,
    score,
    seeds,
    serve,
    sinkhorn,
    table,
    train,
)
from pirn_jax import atomic
from pirn_jax.data.problems import InputError
from pirn_jax.study import results, storage
from tools import console

SUITES = {
    "seeds": seeds.measure,
    "train": train.measure,
    "sinkhorn": sinkhorn.measure,
    "score": score.measure,
    "patchcore": patchcore.measure,
    "methods": methods.measure,
    "latency": latency.measure,
    "serve": serve.measure,
    "encoder": encoder.measure,
    "normals": normals.measure,
    "metrics": metrics.measure,
    "scaling": scaling.measure,
    "table": table.measure,
}
_PLOTS = {"scaling": scaling.plot}
"""SVG files of what a suite found, besides its numbers."""

_EXTRAS = dict.fromkeys(("train", "score", "patchcore", "methods", "latency", "encoder", "table"), "convert") | {
    "normals": "open3d",
    "serve": "serve",
}

_SUITE = flags.DEFINE_list("suite", ["seeds"], f"What to measure: {', '.join(SUITES)}.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/benchmark", "Where benchmark.json and plots go.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "How often each side is timed.", lower_bound=1)
_MARKDOWN = flags.DEFINE_string("markdown", None, "Measure nothing; print the tables of this benchmark.json.")


def _row(case: dict[str, float]) -> str:
    if "clients" in case:
        return ", ".join(f"{name} {_digits(value)}" for name, value in case.items())
    text = f"ours {case['ours']:.3g} s, reference {case['reference']:.3g} s, ratio {case['ratio']:.2f}"
    if "floor_fraction" in case:
        text += f"; of the ceiling ours {case['floor_fraction']:.0%}, reference {case['reference_fraction']:.0%}"
    if "parts_per_s" in case:
        text += f"; p99 ours {case['p99_ms']:.0f} ms, reference {case['reference_p99_ms']:.0f} ms"
        text += f"; parts/s ours {case['parts_per_s']:.1f}, reference {case['reference_parts_per_s']:.1f}"
        text += f"; cold start {case['cold_start_s']:.1f} s, nothing compiled {case['cold_start_empty_s']:.1f} s"
        text += f"; peak {case['peak_mb']:.0f} MB"
    if "paper_ms" in case:
        text += f"; p50 ours {1000 * case['ours']:.1f} ms, the PIRN paper's {case['paper_ms']} ms (hardware not named)"
    if "exponent" in case:
        text += f"; time grows as the power {case['exponent']:z.2f}"
    if "models" in case:
        text += f"; {case['models']:.0f} models, compiling {case['compile_s']:.1f} s"
    return text


def machine() -> dict[str, Any]:
    """Provenance of the numbers: processor, cores, versions, date, command."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")  # Linux; `platform` knows the model elsewhere only.
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    torch = {"torch": importlib.metadata.version("torch")} if importlib.util.find_spec("torch") else {}
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", "-m", "experiments.benchmark", *sys.argv[1:]]),
        "versions": results.versions() | torch,
    }


def markdown(benchmark: Mapping[str, Any]) -> str:
    """Tables of the content of a benchmark.json, one a suite; numbers have three digits."""
    facts = benchmark["machine"]
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in ("jax", "torch") if name in facts["versions"])
    lines = [
        f"{facts['versions']['device']} ({facts['cpu']}, {facts['cores']} cores), {versions}, {facts['date']}: "
        f"`{facts['command']}`"
    ]
    for suite, cases in benchmark["suites"].items():
        columns = list(dict.fromkeys(key for values in cases.values() for key in values))
        lines += ["", f"| {suite} | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for case, values in cases.items():
            cells = [_digits(values[key]) if key in values else "" for key in columns]
            lines.append(f"| {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _run() -> None:
    if _MARKDOWN.value:
        try:
            print(markdown(json.loads(pathlib.Path(_MARKDOWN.value).read_text("utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            told = f"--markdown={_MARKDOWN.value} cannot be read ({error}); give a benchmark.json"
            raise InputError(told) from error
        return
    unknown = set(_SUITE.value) - set(SUITES)
    if unknown:
        raise InputError(f"unknown suite {', '.join(sorted(unknown))}; choose from {', '.join(SUITES)}")
    found, output = {}, pathlib.Path(_OUTPUT.value)
    for name in _SUITE.value:
        try:
            found[name] = SUITES[name](_REPEATS.value)
        except ImportError as error:
            if name not in _EXTRAS:
                raise
            told = f"suite {name} needs {error.name}: pip install 'pirn_jax[{_EXTRAS[name]}]'"
            raise InputError(told) from error
        for case, values in found[name].items():
            print(f"{name} {case}: {_row(values)}", flush=True)
        if name in _PLOTS:
            atomic.write_text(output / f"{name}.svg", _PLOTS[name](found[name]))
        storage.write_json(output / "benchmark.json", {"machine": machine(), "suites": found})


def main(arguments: list[str]) -> None:
    """Runs the suites and writes what they found."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE")


if __name__ == "__main__":
    app.run(main)
