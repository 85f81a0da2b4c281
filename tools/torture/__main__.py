"""Torture: kills, damaged files, full disks and the like, each followed by what must come of it; a table at the end.

    python -m tools.torture --short
    python -m tools.torture --kills=50 --files=10000

Exits with status 1 if anything came out otherwise. The same seed makes the same files and waits the same times.
"""

import pathlib
import random
import tempfile
import time

from absl import app, flags

from tools import console
from tools.torture import faults, files, study
from tools.torture.trial import Trial, table

FLAGS = flags.FLAGS
flags.DEFINE_bool("short", False, "Mutated files alone, 200 of them.")
flags.DEFINE_integer("files", 2000, "Mutated files.", lower_bound=0)
flags.DEFINE_integer("kills", 6, "Kills of a study; a third as many of one in two processes.", lower_bound=0)
flags.DEFINE_bool("machine", True, "Also signals, full and read-only disks, damaged and shared caches, the clock.")
flags.DEFINE_integer("seed", 0, "Seed of all that is random.")
flags.DEFINE_string("folder", None, "Where to work; by default a temporary folder.")


def _trials(folder: pathlib.Path) -> list[Trial]:
    trials = [files.run(folder / "files", 200 if FLAGS.short else FLAGS.files, FLAGS.seed)]
    if FLAGS.short or not (FLAGS.kills or FLAGS.machine):
        return trials
    rng = random.Random(FLAGS.seed)
    cache = folder / "cache"
    begin = time.monotonic()
    status, errors = study.finish(study.start(cache, folder / "whole"))
    if status:
        raise RuntimeError(f"the study fails without any fault: {errors}")
    longest, whole = time.monotonic() - begin, study.measured(folder / "whole")
    if FLAGS.machine:
        trials += [
            faults.signals(folder, whole, cache, longest / 2, rng),
            faults.full_disk(folder, whole, (500, 4_000, 20_000)),
            faults.read_only(folder, whole, cache),
            faults.damaged_cache(folder, whole, cache, 2, rng),
            faults.shared_cache(folder, whole),
            faults.clock(folder, whole, cache),
        ]
    if FLAGS.kills:
        trials.append(faults.kills(folder, whole, FLAGS.kills, longest, rng, both=False))
    if FLAGS.kills > 2:
        status, errors = study.finish(study.start(cache, folder / "eleven", "--seeds=11"))
        eleven = study.measured(folder / "eleven")
        trials.append(faults.kills(folder, eleven, FLAGS.kills // 3, longest, rng, both=True))
    return trials


def _run() -> int:
    with tempfile.TemporaryDirectory(dir=FLAGS.folder) as folder:
        trials = _trials(pathlib.Path(folder))
    print(table(trials))
    return 1 if any(trial.failures for trial in trials) else 0


def main(arguments: list[str]) -> None:
    """Runs the torture; exits with status 1 if something failed."""
    console.run(_run, arguments, places="--folder")


if __name__ == "__main__":
    app.run(main)
