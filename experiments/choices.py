"""The studies by which defaults were chosen, to run again: one setting after the other, changed from the default.

    python -m experiments.choices --study=fusion

Built-in parts of seeds 7 and 8 are for choosing; the defaults' own numbers are those of other parts, of seed 0, which
no choice has seen. Finished rows are kept, so an interrupted study continues.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments import builtin_parts
from experiments.by_modality import COLUMNS, table
from experiments.choice_studies import STUDIES, label, spec_of
from pirn_jax import cache
from pirn_jax.data.problems import InputError
from pirn_jax.study import run, storage
from pirn_jax.training import compiled
from tools import console

_STUDY = flags.DEFINE_enum("study", None, list(STUDIES), "Which study.", required=True)
_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_PARTS_SEEDS = flags.DEFINE_list("parts_seeds", ["7"], "Seeds of the built-in parts.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/choices", "Where the studies and choices-NAME.json go.")


def _run() -> None:
    if not _PARTS_SEEDS.value or not all(text.isdecimal() for text in _PARTS_SEEDS.value):
        raise InputError(f"--parts_seeds={','.join(_PARTS_SEEDS.value)}: give one or more whole numbers")
    home, output = cache.cache_directory(), pathlib.Path(_OUTPUT.value)
    compiled.keep(home / "xla")
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'':44s}" + "".join(f"{column:>16s}" for column in COLUMNS))
    for changes in STUDIES[_STUDY.value]:
        row = label(changes)
        values: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
        for seed in map(int, _PARTS_SEEDS.value):
            splits = builtin_parts.read(home, _CATEGORIES.value, seed)
            directory = output / f"parts{seed}" / row.replace(" ", "-").replace(",", "+")
            spec = spec_of(changes, _SHOTS.value, _SEEDS.value)
            content, _ = run.run(spec, splits, directory, console.stage)
            for column in COLUMNS:
                values[column].append(np.mean([of[column] for of in table(content).values()], axis=0))
        found[row] = {column: np.concatenate(of).tolist() for column, of in values.items()}
        cells = (f"{np.mean(of):.3f} +- {np.std(of):.3f}" for of in found[row].values())
        print(f"{row:44s}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    settings = {"shots": _SHOTS.value, "seeds": _SEEDS.value, "parts_seeds": _PARTS_SEEDS.value}
    storage.write_json(output / f"choices-{_STUDY.value}.json", {"settings": settings, "results": found})


def main(arguments: list[str]) -> None:
    """Prints one row for each setting: means over categories, mean and deviation over seeds."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
