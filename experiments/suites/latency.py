"""Inspection of one part after the other, from images in the host's memory to maps and scores in it.

`ours` is an `inspector.Inspector`: encoder, decoder and maps of 224 pixels. The reference is the encoder alone in eager
PyTorch, up to the same block: it does less. Parameters are untrained, which costs the same. `ours` and `reference` are
median seconds for one part, `p99_ms` the 99th percentile; `parts_per_s` is the best over batches of 1 to 16.
`floor_fraction` is the share of the machine's matrix-product ceiling, counting the encoder's products only. Cold
start is a process from its start to its first score, with the programs compiled by an earlier one or (`_empty`) with
none; `peak_mb` is its largest resident memory, `peak_device_mb` that of an accelerator. `paper_ms` stands beside the
encoder of the PIRN paper: its published latency, on hardware that is not named (it trains on two RTX 4090).
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.paper.published import LATENCY_MS
from experiments.suites import encoder, timing
from experiments.suites.train import as_features
from pirn_jax.encoders import conversion, pretrained, weights
from pirn_jax.inputs import Preparation
from pirn_jax.inspection import inspector
from pirn_jax.methods import pirn
from pirn_jax.methods.base import Recipe
from pirn_jax.study import storage
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training.episodes import Run

_SIDE, _BATCHES, _CALLS = 224, (1, 2, 4, 8, 16), 40
_RUN = Run("part", 10, 0)
# The kernel's own count: getrusage begins with what the parent had when it started the process.
_COLD = """
import pathlib, sys
import jax, numpy as np
from pirn_jax.inspection import inspector
from pirn_jax.training.episodes import Run
ready = inspector.load(pathlib.Path(sys.argv[1]), Run("part", 10, 0))
float(ready(np.zeros((1, 2, 224, 224, 3), np.uint8)).scores[0])
status = pathlib.Path("/proc/self/status").read_text()
device = jax.devices()[0].memory_stats() or {}
print(int(status.split("VmHWM:")[1].split()[0]) / 1024, device.get("peak_bytes_in_use", 0) / 2**20)
"""


def measure(repeats: int) -> dict[str, timing.Case]:
    """Times the built-in encoder and DINOv2's ViT-B/14 with random weights."""
    from experiments.baselines_torch import dinov2

    found, ceiling = {}, max(timing.ceilings("float32").values())
    base = dinov2.TorchViT(dinov2.Form(768, 12, 12)).eval()
    with tempfile.TemporaryDirectory() as directory:
        home = pathlib.Path(directory)
        converted = conversion.convert({name: value.numpy() for name, value in base.state_dict().items()})
        stored = weights.Stored(converted.config, converted.params, pretrained.default_blocks(12), {})
        weights.save(home / "base.safetensors", stored)
        small = dinov2.TorchViT(dinov2.Form(256, 4, 8, grid=16)).eval()
        for title, name, model in (("builtin", "builtin", small), ("B/14", str(home / "base.safetensors"), base)):
            study = _study(home / title.replace("/", ""), pretrained.load(name))
            ready = inspector.load(study, _RUN)
            case = _compare(lambda images, ready=ready: jax.device_get(ready(images)), _theirs(model, ready), repeats)
            last = dataclasses.replace(ready.spec.encoder.config, depth=max(ready.spec.encoder.groups[0]))
            floor = encoder.operations(last, 2) / ceiling
            shares = {"floor_fraction": floor / case["ours"], "reference_fraction": floor / case["reference"]}
            paper = {"paper_ms": LATENCY_MS} if title == "B/14" else {}
            found[f"{title}, float32, one part"] = {**case, **shares, **paper, **_cold_starts(study)}
    return found


def _study(directory: pathlib.Path, frozen: pretrained.Encoder) -> pathlib.Path:
    """A study's directory with one run, untrained."""
    spec = Spec("none", (10,), 1, "pirn", pirn.Config(score="cosine"), Recipe(), frozen, Preparation(_SIDE))
    features = np.random.default_rng(0).normal(size=(10, 2, spec.grid**2, frozen.config.width)).astype(np.float32)
    params = spec.build().start(jax.random.key(1), as_features(features))
    stacked = jax.tree.map(lambda leaf: np.asarray(leaf)[None], params)
    storage.save_group(directory, "10-000", describe(spec, ["part"], []), stacked, {}, {"runs": [_RUN]})
    return directory


def _theirs(model: Any, ready: inspector.Inspector) -> Callable[[np.ndarray], Any]:
    """Tokens of the last chosen block, by PyTorch."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    config = ready.spec.encoder.config
    mean, std = (torch.tensor(three, device=device)[:, None, None] for three in (config.mean, config.std))
    model.blocks = model.blocks[: max(ready.spec.encoder.groups[0])]
    model = model.to(device)

    def run(images: np.ndarray) -> Any:
        with torch.inference_mode():
            pixels = torch.from_numpy(images).to(device).flatten(0, 1).permute(0, 3, 1, 2).float()
            return model((pixels / 255 - mean) / std).cpu()

    return run


def _compare(
    ours: Callable[[np.ndarray], Any], reference: Callable[[np.ndarray], Any], repeats: int
) -> dict[str, float]:
    """Both sides in turns: quantiles of single parts, and the best rate of any batch."""
    functions = {"ours": ours, "reference": reference}
    rng = np.random.default_rng(0)
    batches = {size: rng.integers(256, size=(size, 2, _SIDE, _SIDE, 3), dtype=np.uint8) for size in _BATCHES}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for call in range(_CALLS * repeats + 1):
        for name, function in functions.items():
            begin = time.perf_counter()
            function(batches[1])
            if call:
                times[name].append(time.perf_counter() - begin)
    middle, late = ({name: float(np.quantile(kept, q)) for name, kept in times.items()} for q in (0.5, 0.99))
    rates = dict.fromkeys(functions, 0.0)
    for size, images in batches.items():
        calls = {name: functools.partial(function, images) for name, function in functions.items()}
        for name, seconds in timing.medians(calls, repeats).items():
            rates[name] = max(rates[name], size / seconds)
    return {
        **middle,
        "ratio": middle["reference"] / middle["ours"],
        "p99_ms": 1000 * late["ours"],
        "reference_p99_ms": 1000 * late["reference"],
        "parts_per_s": rates["ours"],
        "reference_parts_per_s": rates["reference"],
    }


def _cold_starts(study: pathlib.Path) -> dict[str, float]:
    """Seconds and memory of two new processes, the second of which finds what the first has compiled."""
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(study / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    found = {}
    for name in ("cold_start_empty_s", "cold_start_s"):
        begin = time.perf_counter()
        command = [sys.executable, "-c", _COLD, str(study)]
        told = subprocess.run(command, env={**os.environ, **compiled}, capture_output=True, text=True, check=True)
        found[name] = time.perf_counter() - begin
        found["peak_mb"], found["peak_device_mb"] = map(float, told.stdout.split())
    return found
