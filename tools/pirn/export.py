"""Writes a model as a StableHLO program that runs without this package.

    pirn export --model=bolts.pirn --output=bolts.hlo

The program takes the encoder's input, (1, 2, s, s, 3) uint8, and the patches that show the part, (1, n) bool, as
`inputs.prepare` and `features.patch_mask` make them, and gives the map (1, h, w) and the score (1,). It is for CPUs and
CUDA alike; `jax.export.deserialize` reads it. It is run in a fresh process before it gets its name.
"""

import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.export
import numpy as np
from absl import flags

from pirn_jax import atomic, features
from pirn_jax.data.problems import InputError
from pirn_jax.inspection import bundle
from pirn_jax.inspection.bundle import Bundle
from tools import console

FLAGS = flags.FLAGS
_TOLERANCE = 1e-5
"""Largest difference of maps and scores, in units of the score."""

_RUN = """
import sys, jax.export, numpy as np
program, given, out = sys.argv[1:]
run = jax.export.deserialize(bytearray(open(program, "rb").read())).call
with np.load(given) as arrays:
    maps, scores = run(arrays["images"], arrays["masks"])
np.savez(out, maps=maps, scores=scores)
"""


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("output", None, "File of the program, such as bolts.stablehlo.", required=True)
    flags.DEFINE_string("encoder", None, "File of the model's encoder, if it lies elsewhere now.")
    console.define_help("tools.pirn.export", text=__doc__)


def program(model: Bundle) -> bytes:
    """The model as a serialised program with all its weights."""
    ready = model.ready
    side, grid = ready.spec.preparation.size, ready.spec.grid

    def inspect(images: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = ready.program(ready.spec.encoder.params, ready.params, ready.scales, images, masks, model.good.size)
        return found.maps, found.scores

    shapes = jax.ShapeDtypeStruct((1, 2, side, side, 3), np.uint8), jax.ShapeDtypeStruct((1, grid**2), np.bool_)
    try:
        return bytes(jax.export.export(jax.jit(inspect), platforms=["cpu", "cuda"])(*shapes).serialize())
    except ImportError as error:
        raise InputError('pirn export needs a further package; pip install "pirn_jax[export]"') from error


def _difference(model: Bundle, content: bytes) -> float:
    """Distance of a fresh process from this one, on images of noise whose lower half is off the part."""
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
        command = [sys.executable, "-c", _RUN, *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"the program does not run ({reason}); nothing was written")
        with np.load(files[2]) as found:
            apart = np.abs(found["maps"] - expected.maps).max(), np.abs(found["scores"] - expected.scores).max()
    return float(max(apart) / max(float(expected.scores[0]), 1e-12))


def _export() -> None:
    output = pathlib.Path(FLAGS.output)
    model = bundle.read(pathlib.Path(FLAGS.model), FLAGS.encoder)
    with console.stage("export", 2) as advance:
        content = program(model)
        advance(1)
        apart = _difference(model, content)
        advance(1)
    if apart > _TOLERANCE:
        told = f"by {apart:.1e} of the score, more than {_TOLERANCE:g}"
        raise InputError(f"the program differs from the model {told}; nothing was written")
    with atomic.replacing(output) as file:
        file.write(content)
    side, patches = model.ready.spec.preparation.size, model.ready.spec.grid**2
    height, width = model.good.size
    print(f"{output}: StableHLO for CPU and CUDA by jax {jax.__version__}, {len(content) / 1e6:.1f} MB")
    print(
        f"images (1, 2, {side}, {side}, 3) uint8, masks (1, {patches}) bool -> map (1, {height}, {width}), score (1,)"
    )
    print(f"in a fresh process {apart:.1e} of the score from this one")


def main(arguments: list[str]) -> None:
    """Exports a model; exits with status 1 and one sentence if something is wrong, and then writes nothing."""
    console.run(_export, arguments, places="--output and the folder of temporary files")
