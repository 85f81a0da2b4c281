"""Writes a model as a program that runs without this package.

    pirn export --model=bolts.pirn --output=bolts.hlo
    pirn export --model=bolts.pirn --output=bolts.onnx

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

from pirn_jax import atomic, features, inputs
from pirn_jax.data.problems import InputError
from pirn_jax.inspection import bundle, unrolling, verdicts
from pirn_jax.inspection.bundle import Bundle
from tools import console
from tools.pirn import samples

FLAGS = flags.FLAGS
_TOLERANCE = 1e-5
"""Largest difference of maps and scores, in units of the score, see `difference`."""

_OPSET = 23
"""Version of ONNX's operators."""

_RUN_STABLEHLO = """
import sys, jax.export, numpy as np
program, given, out = sys.argv[1:]
run = jax.export.deserialize(bytearray(open(program, "rb").read())).call
with np.load(given) as arrays:
    found = [run(*of) for of in zip(arrays["images"][:, None], arrays["masks"][:, None])]
np.savez(out, **{name: np.concatenate(of) for name, of in zip(("maps", "scores"), zip(*found))})
"""

_RUN_ONNX = """
import sys, numpy as np, onnxruntime
program, given, out = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
run = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"]).run
with np.load(given) as arrays:
    pairs = zip(arrays["images"][:, None], arrays["masks"][:, None])
    found = [run(["map", "score"], dict(zip(("images", "masks"), of))) for of in pairs]
np.savez(out, **{name: np.concatenate(of) for name, of in zip(("maps", "scores"), zip(*found))})
"""


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("output", None, "File of the program, such as bolts.hlo or bolts.onnx.", required=True)
    flags.DEFINE_enum("format", None, list(FORMATS), "Language of the program; by default what the file's name says.")
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
    """Distances of maps and scores of a fresh process from the model's, on the samples that it carries and on noise.

    Args:
      model: the model.
      content: its program.
      run: see `Format`.

    Returns:
      both in units of each part's score, or of what left-out good parts score where that is more, since a part that was
      learned may score next to nothing; the largest of them.

    Raises:
      InputError: if the program does not run.
    """
    spec = model.ready.spec
    with tempfile.TemporaryDirectory() as place:
        images, regions = _given(model, pathlib.Path(place, "parts"))
        masks = np.stack([features.patch_mask(region, spec.grid) for region in regions])
        expected = model.ready(images, regions, model.good.size)
        files = [pathlib.Path(place, name) for name in ("program", "given.npz", "out.npz")]
        files[0].write_bytes(content)
        np.savez(files[1], images=images, masks=masks)
        command = [sys.executable, "-c", run, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"the program does not run ({reason}); nothing was written")
        with np.load(files[2]) as found:
            good = np.median(model.good.scores) if len(model.good.scores) else 0.0
            unit = np.maximum(expected.scores, max(good, 1e-12))
            maps = np.abs(found["maps"] - expected.maps).max((1, 2)) / unit
            return float(maps.max()), float((np.abs(found["scores"] - expected.scores) / unit).max())


def _given(model: Bundle, place: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Images of the model's samples, unpacked to a folder, and of noise whose lower half is off the part; regions."""
    spec = model.ready.spec
    side = spec.preparation.size
    images = [np.random.default_rng(0).integers(256, size=(2, side, side, 3), dtype=np.uint8)]
    regions = [np.arange(side)[:, None].repeat(side, 1) < side // 2]
    for record in samples.unpack(model, place):
        prepared = verdicts.prepare(model, record).prepared
        images.append(prepared.values)
        regions.append(prepared.mask)
    kept = np.stack(regions)
    return np.stack(images), np.ones_like(kept) if spec.background == "keep" else kept


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
    output = pathlib.Path(FLAGS.output)
    name = FLAGS.format or ("onnx" if output.suffix == ".onnx" else "stablehlo")
    form = FORMATS[name]
    model = bundle.read(pathlib.Path(FLAGS.model), FLAGS.encoder)
    if model.samples:
        inputs.require(model.ready.spec.preparation)
    with console.stage("export", 2) as advance:
        try:
            content = form.write(model)
        except ImportError as error:
            extra = {"stablehlo": "export"}.get(name, name)
            raise InputError(f'--format={name} needs a package; pip install "pirn_jax[{extra}]"') from error
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
    seen = f"{len(model.samples)} good parts and noise" if model.samples else "noise"
    print(f"in a fresh process, on {seen}: map {apart[0]:.1e} and score {apart[1]:.1e} of the score from this one")


def main(arguments: list[str]) -> None:
    """Exports a model; exits with status 1 and one sentence if something is wrong, and then writes nothing."""
    console.run(_export, arguments, places="--output and the folder of temporary files")
