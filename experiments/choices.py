"""The studies by which defaults were chosen, to run again: one setting after the other, changed from the default.

    python -m experiments.choices --study=fusion

Built-in parts of seeds 7 and 8 are for choosing; the defaults' own numbers are those of other parts, of seed 0, which
no choice has seen. Finished rows are kept, so an interrupted study continues.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app, flags

from experiments import builtin_parts
from experiments.by_modality import COLUMNS, table
from pirn_jax import cache, methods
from pirn_jax.data import catalogue
from pirn_jax.encoders import pretrained
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.study import run, storage
from pirn_jax.study.spec import Spec
from pirn_jax.training import parallel
from tools import console

_PATCHCORE = {"method": "patchcore", "grid": 16}
STUDIES: dict[str, list[dict[str, Any]]] = {
    "background": [{**_PATCHCORE, "background": "keep"}, _PATCHCORE, {"background": "keep"}, {}],
    "encoders": [
        *({**_PATCHCORE, "encoder": names} for names in ("builtin", "lite0", "chroma", "builtin,lite0")),
        _PATCHCORE,
    ],
    "fusion": [{**_PATCHCORE, "fusion": name} for name in ("sum", "calibrated", "maximum")],
    "grid": [{**_PATCHCORE, "grid": side} for side in (14, 16, 28)],
    "image_score": [{**_PATCHCORE, "top_share": share} for share in (0.0, 0.002, 0.01)],
    "sigma": [{**_PATCHCORE, "sigma": sigma} for sigma in (2.0, 4.0, 8.0)],
    "score": [{"score": "cosine"}, {"score": "residual"}],
    "epochs": [{"epochs": epochs} for epochs in (10, 20, 40, 80)],
    "learning_rate": [{"learning_rate": rate} for rate in (3e-4, 1e-3, 3e-3)],
    "injection": [
        {"injection": form, "score": score} for form in ("query_only", "paper") for score in ("cosine", "residual")
    ],
    "prototypes": [{"num_prototypes": number} for number in (5, 10, 30)],
    "layers": [{"num_layers": number} for number in (1, 2, 4)],
    "epsilon": [{"epsilon": epsilon} for epsilon in (0.03, 0.05, 0.2)],
}
"""Rows of each study: what a row changes of the default of `experiments.fewshot`."""

_STUDY = flags.DEFINE_enum("study", None, list(STUDIES), "Which study.", required=True)
_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_PARTS_SEEDS = flags.DEFINE_list("parts_seeds", ["7"], "Seeds of the built-in parts.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/choices", "Where the studies and choices-NAME.json go.")


def spec_of(changes: Mapping[str, Any], shots: int, seeds: int) -> Spec:
    """The default study of the built-in parts with some settings changed."""
    left = {"method": "pirn", "encoder": pretrained.DEFAULT, "grid": 16, "top_share": 0.0, **changes}
    method, encoder, top_share = (left.pop(name) for name in ("method", "encoder", "top_share"))
    preset = methods.choose(method, "default")

    def changed(part: Any) -> Any:
        names = {field.name for field in dataclasses.fields(part)} & left.keys()
        return dataclasses.replace(part, **{name: left.pop(name) for name in names})

    config, recipe = changed(preset.config), preset.recipe and changed(preset.recipe)
    fixed = catalogue.BUILT_IN, (shots,), seeds, method, config, recipe, pretrained.load(encoder)
    return Spec(*fixed, builtin_parts.preparation(), metrics=MetricSettings(top_share=top_share), **left)


def label(changes: Mapping[str, Any]) -> str:
    """Name of a row."""
    return " ".join(f"{name}={value}" for name, value in changes.items()) or "default"


def _run() -> None:
    home, output = cache.cache_directory(), pathlib.Path(_OUTPUT.value)
    parallel.keep_compiled(home / "xla")
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'':44s}" + "".join(f"{column:>16s}" for column in COLUMNS))
    for changes in STUDIES[_STUDY.value]:
        values: dict[str, list[np.ndarray]] = {column: [] for column in COLUMNS}
        for seed in map(int, _PARTS_SEEDS.value):
            splits = builtin_parts.read(home, _CATEGORIES.value, seed)
            directory = output / f"parts{seed}" / label(changes).replace(" ", "-").replace(",", "+")
            content, _ = run.run(spec_of(changes, _SHOTS.value, _SEEDS.value), splits, directory, console.stage)
            for column in COLUMNS:
                values[column].append(np.mean([row[column] for row in table(content).values()], axis=0))
        found[label(changes)] = {column: np.concatenate(of).tolist() for column, of in values.items()}
        cells = (f"{np.mean(of):.3f} +- {np.std(of):.3f}" for of in found[label(changes)].values())
        print(f"{label(changes):44s}" + "".join(f"{cell:>16s}" for cell in cells), flush=True)
    settings = {"shots": _SHOTS.value, "seeds": _SEEDS.value, "parts_seeds": _PARTS_SEEDS.value}
    storage.write_json(output / f"choices-{_STUDY.value}.json", {"settings": settings, "results": found})


def main(arguments: list[str]) -> None:
    """Prints one row for each setting: means over categories, mean and deviation over seeds."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
