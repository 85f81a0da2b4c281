"""Inspection of parts by what a handful of good ones look like.

    pirn fit --parts=good --output=bolts.pirn           learn from good parts, and set a threshold
    pirn inspect --model=bolts.pirn --parts=today       say which new parts are good, and where others are not
    pirn serve --model=bolts.pirn                       do so for other programs, and for people with a browser
    pirn export --model=bolts.pirn --output=bolts.hlo   write a program that runs without this package
    pirn check --model=bolts.pirn                       tell what a model is, and whether its file is whole

`pirn fit --help` and the like list the flags. Everywhere `python -m tools.pirn` does the same.
"""

import importlib
import sys

from absl import app

COMMANDS = ("fit", "inspect", "serve", "export", "check")


def main() -> None:
    """Hands the rest of the command line to the module of the command that it names first."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "help", "--help", "-h", "-?"):
        print((__doc__ or "").strip())
        sys.exit(0 if name else 1)
    if name not in COMMANDS:
        sys.exit(f"error: {name!r} is no command of pirn; choose from {', '.join(COMMANDS)}")
    module = importlib.import_module(f"tools.pirn.{name}")
    module.define()
    app.run(module.main, [f"pirn {name}", *sys.argv[2:]])
