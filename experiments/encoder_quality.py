"""Quality of an encoder's features without any training: nearest patches of good parts on the built-in parts.

    python -m experiments.encoder_quality --encoders=filter_bank,random,builtin

Each encoder is a study of `patchcore` whose bank keeps all patches, so the numbers judge the features alone. The filter
bank is the classical descriptor that a learned encoder has to beat; its channels are of unequal units and are
standardised. Beside the usual metrics stands the image AUROC of each kind of defect, by the modality that it shows in.
"""

import pathlib

import numpy as np
from absl import app, flags

from experiments import builtin_parts
from experiments.by_modality import COLUMNS, table
from pirn_jax import cache
from pirn_jax.data import catalogue
from pirn_jax.encoders import pretrained
from pirn_jax.methods import patchcore
from pirn_jax.study import run, storage
from pirn_jax.study.spec import Spec
from pirn_jax.training import compiled
from tools import console

_ENCODERS = flags.DEFINE_list("encoders", ["filter_bank", "random", "builtin"], "As in fewshot.")
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")
_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_PARTS_SEED = flags.DEFINE_integer("parts_seed", 0, "Seed of the parts; on parts of seed 7 `builtin` was developed.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/encoder_quality", "Where the studies and encoder_quality.json go.")


def _spec(name: str) -> Spec:
    config = patchcore.Config(banks="each", reach=False, standardise=name == "filter_bank")
    encoder = pretrained.load(name)
    shots, seeds = (_SHOTS.value,), _SEEDS.value
    fixed = catalogue.BUILT_IN, shots, seeds, "patchcore", config, None, encoder, builtin_parts.preparation()
    return Spec(*fixed, background="keep", fusion="sum")


def _run() -> None:
    home, output = cache.cache_directory(), pathlib.Path(_OUTPUT.value)
    compiled.keep(home / "xla")
    specs = {name: _spec(name) for name in _ENCODERS.value}
    splits = builtin_parts.read(home, _CATEGORIES.value, _PARTS_SEED.value)
    found = {
        name: table(run.run(spec, splits, output / name.replace("/", "_"), console.stage)[0])
        for name, spec in specs.items()
    }
    print(f"{'':16s}" + "".join(f"{column:>13s}" for column in COLUMNS))
    for name, categories in found.items():
        rows = {name: {column: [values[column] for values in categories.values()] for column in COLUMNS}}
        rows |= {f"  {category}": values for category, values in categories.items()}
        for label, values in rows.items():
            print(f"{label:16s}" + "".join(f"{np.mean(values[column]):13.3f}" for column in COLUMNS))
    settings = {"shots": _SHOTS.value, "seeds": _SEEDS.value, "parts_seed": _PARTS_SEED.value}
    storage.write_json(output / "encoder_quality.json", {"settings": settings, "results": found})


def main(arguments: list[str]) -> None:
    """Prints one row for each encoder: means over categories and seeds."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
