"""Writes a model as a program that runs without this package.

    pirn export --model=bolts.pirn --output=bolts.hlo
    pirn export --model=bolts.pirn --output=bolts.onnx --format=onnx

The program takes `images`, the encoder's input (1, 2, s, s, 3) uint8, and `masks`, the patches that show the part
(1, n) bool, as `inputs.prepare` and `features.patch_mask` make them, and gives `map` (1, h, w) and `score` (1,).
`--format=stablehlo` is for CPUs and CUDA alike, `jax.export.deserialize` reads it; `onnx` has its loops unrolled and is
for ONNX Runtime. Either is run in a fresh process before it gets its name.
"""

import logging
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.export
import numpy as np
from absl import flags

from pirn_jax import atomic, features
from pirn_jax.data.problems import InputError
from pirn_jax.inspection import bundle, unrolling
from pirn_jax.inspection.bundle import Bundle
from tools import console

FLAGS = flags.FLAGS
_TOLERANCE = 1e-5
"""Largest difference of maps and scores, in units of the score."""

_OPSET = 23
"""Version of ONNX's operators."""

_RUN_STABLEHLO = """
import sys, jax.export, numpy as np
program, given, out = sys.argv[1:]
run = jax.export.deserialize(bytearray(open(program, "rb").read())).call
with np.load(given) as arrays:
    maps, scores = run(arrays["images"], arrays["masks"])
np.savez(out, maps=maps, scores=scores)
"""

_RUN_ONNX = """
import sys, numpy as np, onnxruntime
program, given, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
run = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"]).run
with np.load(given) as arrays:
    maps, scores = run(["map", "score"], {name: arrays[name] for name in ("images", "masks")})
np.savez(out, maps=maps, scores=scores)
"""


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("output", None, "File of the program, such as bolts.hlo or bolts.onnx.", required=True)
    flags.DEFINE_enum("format", "stablehlo", list(FORMATS), "Language of the program.")
    flags.DEFINE_string("encoder", None, "File of the model's encoder, if it lies elsewhere now.")
    console.define_help("tools.pirn.export", text=__doc__)


def _function(model: Bundle) -> tuple[Callable, tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]]:
    """The model as a function of images and masks, and their shapes."""
    ready = model.ready
    side, grid = ready.spec.preparation.size, ready.spec.grid

    def inspect(images: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = ready.program(ready.spec.encoder.params, ready.params, ready.scales, images, masks, model.good.size)
        return found.maps, found.scores

    shapes = jax.ShapeDtypeStruct((1, 2, side, side, 3), np.uint8), jax.ShapeDtypeStruct((1, grid**2), np.bool_)
    return inspect, shapes


def stablehlo(model: Bundle) -> bytes:
    """The model as a serialised StableHLO program with all its weights."""
    inspect, shapes = _function(model)
    return bytes(jax.export.export(jax.jit(inspect), platforms=["cpu", "cuda"])(*shapes).serialize())


def onnx(model: Bundle) -> bytes:
    """The model as an ONNX graph with all its weights.

    Raises:
      InputError: if the exporter has no form of a primitive of the method or the encoder.
    """
    import jax2onnx  # pyright: ignore[reportMissingImports]

    inspect, shapes = _function(model)
    flat = unrolling.unroll(inspect, *shapes)
    names = {"input_names": ["images", "masks"], "output_names": ["map", "score"]}
    try:
        graph = jax2onnx.to_onnx(flat, list(shapes), model_name="pirn", opset=_OPSET, **names)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as error:
        # The exporter has no exception of its own.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        method = model.ready.spec.method
        told = f"{method} on {model.ready.spec.encoder.name} has no form in ONNX ({reason}); take --format=stablehlo"
        raise InputError(told) from error
    return graph.SerializeToString()


class Format(NamedTuple):
    """A language of programs.

    Attributes:
      write: `Bundle -> bytes`.
      run: Python code that runs a program on given arrays.
      title: for people.
    """

    write: Callable[[Bundle], bytes]
    run: str
    title: str


FORMATS = {
    "stablehlo": Format(stablehlo, _RUN_STABLEHLO, f"StableHLO for CPU and CUDA by jax {jax.__version__}"),
    "onnx": Format(onnx, _RUN_ONNX, f"ONNX with operators of version {_OPSET}"),
}


def difference(model: Bundle, content: bytes, run: str) -> tuple[float, float]:
    """Distances of maps and scores of a fresh process from the model's, on noise whose lower half is off the part.

    Args:
      model: the model.
      content: its program.
      run: see `Format`.

    Returns:
      both in units of the score.

    Raises:
      InputError: if the program does not run.
    """
    spec = model.ready.spec
    side = spec.preparation.size
    images = np.random.default_rng(0).integers(256, size=(1, 2, side, side, 3), dtype=np.uint8)
    region = np.zeros((side, side), bool)
    region[: side // 2] = True
    masks = features.patch_mask(region, spec.grid)[None]
    if spec.background == "keep":
        region, masks = np.ones_like(region), np.ones_like(masks)
    expected = model.ready(images, region[None], model.good.size)
    with tempfile.TemporaryDirectory() as place:
        files = [pathlib.Path(place, name) for name in ("program", "given.npz", "out.npz")]
        files[0].write_bytes(content)
        np.savez(files[1], images=images, masks=masks)
        command = [sys.executable, "-c", run, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"the program does not run ({reason}); nothing was written")
        with np.load(files[2]) as found:
            apart = (np.abs(found[name] - getattr(expected, name)).max() for name in ("maps", "scores"))
            in_scores = [float(value / max(float(expected.scores[0]), 1e-12)) for value in apart]
    return in_scores[0], in_scores[1]


def write(output: pathlib.Path, content: bytes, apart: tuple[float, float]) -> None:
    """Writes a program whole, if it is near enough to the model.

    Raises:
      InputError: if it is not.
    """
    # Not a number is no small difference.
    if not np.max(apart) <= _TOLERANCE:
        told = f"by {np.max(apart):.1e} of the score, more than {_TOLERANCE:g}"
        raise InputError(f"the program differs from the model {told}; nothing was written")
    with atomic.replacing(output) as file:
        file.write(content)


def _export() -> None:
    # The exporter tells of its steps.
    logging.getLogger().setLevel(logging.ERROR)
    output, form = pathlib.Path(FLAGS.output), FORMATS[FLAGS.format]
    model = bundle.read(pathlib.Path(FLAGS.model), FLAGS.encoder)
    with console.stage("export", 2) as advance:
        try:
            content = form.write(model)
        except ImportError as error:
            extra = {"stablehlo": "export"}.get(FLAGS.format, FLAGS.format)
            raise InputError(f'--format={FLAGS.format} needs a package; pip install "pirn_jax[{extra}]"') from error
        advance(1)
        apart = difference(model, content, form.run)
        advance(1)
    write(output, content, apart)
    side, patches = model.ready.spec.preparation.size, model.ready.spec.grid**2
    height, width = model.good.size
    print(f"{output}: {form.title}, {len(content) / 1e6:.1f} MB")
    print(
        f"images (1, 2, {side}, {side}, 3) uint8, masks (1, {patches}) bool -> map (1, {height}, {width}), score (1,)"
    )
    print(f"in a fresh process map {apart[0]:.1e} and score {apart[1]:.1e} of the score from this one")


def main(arguments: list[str]) -> None:
    """Exports a model; exits with status 1 and one sentence if something is wrong, and then writes nothing."""
    console.run(_export, arguments, places="--output and the folder of temporary files")
