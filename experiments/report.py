"""Makes the page of a finished run again, or compares several, from their output directories alone.

    python -m experiments.report RUN
    python -m experiments.report RUN RUN... --page=compare.html
    python -m experiments.report SWEEP

With one run, writes its report.html; with several, a page of the differences between the first and each of the
others; with the directory of a sweep, its sweep.html. The data set is not needed.
"""

import pathlib

from absl import app, flags

from pirn_jax.data.problems import InputError
from pirn_jax.report import comparison, finished, sweep
from pirn_jax.study import grid, results
from tools import console

_PAGE = flags.DEFINE_string("page", None, "The page to write; default RUN/report.html, for several runs compare.html.")


def _names(directories: list[pathlib.Path]) -> list[str]:
    """Names of folders where these differ, else the paths as given."""
    names = [directory.resolve().name for directory in directories]
    return names if len(set(names)) == len(names) else [str(directory) for directory in directories]


def _run(arguments: list[str]) -> pathlib.Path:
    directories = [pathlib.Path(argument) for argument in arguments]
    if not directories:
        raise InputError("no run given; give one or more output directories of experiments.fewshot")
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise InputError(f"{', '.join(arguments)}: a run is given twice; give different output directories")
    if len(directories) == 1 and (directories[0] / grid.PLAN).is_file():
        if _PAGE.value:
            raise InputError(f"--page={_PAGE.value}: the page of a grid lies beside its cells; leave it out")
        return sweep.write(directories[0])
    if len(directories) == 1:
        return finished.write_page(directories[0], pathlib.Path(_PAGE.value) if _PAGE.value else None)
    output = pathlib.Path(_PAGE.value or "compare.html")
    found = [results.read(directory) for directory in directories]
    comparison.write_page(output, dict(zip(_names(directories), found, strict=True)))
    return output


def main(arguments: list[str]) -> None:
    """Writes the page; exits with status 1 and one sentence if something is wrong with what the user gave."""
    console.run(lambda: print(_run(arguments[1:])), arguments[:1], places="--page")


if __name__ == "__main__":
    app.run(main)
