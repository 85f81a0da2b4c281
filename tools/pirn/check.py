"""Tells what a model is, and whether its file is whole.

    pirn check --model=bolts.pirn
    pirn check --model=bolts.pirn --picture=good.jpg

Each member of the file is compared with the hash that its manifest gives.
"""

import pathlib

from absl import flags

from pirn_jax import atomic
from pirn_jax.inspection import bundle
from tools import console
from tools.pirn import summary

FLAGS = flags.FLAGS


def define() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("model", None, "File of the model.", required=True)
    flags.DEFINE_string("encoder", None, "File of the model's encoder, if it lies elsewhere now.")
    flags.DEFINE_string("picture", None, "File that the picture of the good parts is written to.")
    console.define_help("tools.pirn.check", text=__doc__)


def _check() -> None:
    path = pathlib.Path(FLAGS.model)
    found = bundle.read(path, FLAGS.encoder)
    print(summary.text(path, dict(found.ready.settings), found.good))
    if FLAGS.picture:
        with atomic.replacing(FLAGS.picture) as file:
            file.write(found.picture)


def main(arguments: list[str]) -> None:
    """Checks a model; exits with status 1 and one sentence if it cannot be used."""
    console.run(_check, arguments, places="--model and --picture")
