"""Inspects parts for other programs, and for people with a browser.

    pirn serve --model=bolts.pirn
    curl -F rgb=@part.png -F scan=@part.tiff http://127.0.0.1:8000/v1/inspect

/docs describes the interface, / is a page for people, /metrics is for Prometheus. With PIRN_TOKEN in the environment
requests must bear that token. Ctrl-C answers what was taken, then ends.
"""

import os
import pathlib

import numpy as np
from absl import flags

from pirn_jax import cache, inputs
from pirn_jax.data.problems import InputError
from pirn_jax.inspection import bundle, verdicts
from pirn_jax.training import compiled
from tools import console

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 8000, "Port to listen at; 0 for any that is free.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_integer("waiting", 32, "Parts that may wait; further ones are refused.", lower_bound=1)
    flags.DEFINE_integer("megabytes", 64, "Most megabytes of a request.", lower_bound=1)
    flags.DEFINE_integer("megapixels", 16, "Most megapixels of an image or a scan.", lower_bound=1)
    flags.DEFINE_float("false_alarms", None, "Wished share of good parts called defective; by default the model's.")
    flags.DEFINE_string("encoder", None, "File of the model's encoder, if it lies elsewhere now.")
    console.define_help("tools.pirn.serve", text=__doc__)


def _run() -> None:
    try:
        import uvicorn

        from tools.pirn import service
    except ImportError as error:
        raise InputError(f'pirn serve needs further packages ({error}); pip install "pirn_jax[serve]"') from error
    compiled.keep(cache.cache_directory() / "xla")
    path = pathlib.Path(FLAGS.model)
    model = bundle.read(path, FLAGS.encoder)
    inputs.require(model.ready.spec.preparation)
    limit = verdicts.limits(model, FLAGS.false_alarms)
    with console.stage("compiling", 1) as advance:
        side = model.ready.spec.preparation.size
        model.ready(np.zeros((1, 2, side, side, 3), np.uint8), None, model.good.size)
        advance(1)
    given = {"waiting": FLAGS.waiting, "most_bytes": FLAGS.megabytes << 20, "most_pixels": FLAGS.megapixels * 1_000_000}
    app = service.build(model, limit, path.name, **given, token=os.environ.get("PIRN_TOKEN", ""))
    config = uvicorn.Config(app, host=FLAGS.host, port=FLAGS.port, log_level="warning")
    with config.bind_socket() as listening:
        # With --port=0 the system has chosen one.
        print(f"{path.name} at http://{FLAGS.host}:{listening.getsockname()[1]}, its interface at /docs", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def main(arguments: list[str]) -> None:
    """Serves until Ctrl-C; exits with status 1 and one sentence if something is wrong with what the user gave."""
    console.run(_run, arguments, places="--model")
