"""What an encoder's features are worth without any training: nearest-neighbour patches on the built-in parts.

    python -m experiments.encoder_quality --encoders=filter_bank,random,builtin

Every test patch is scored by its cosine distance to the nearest patch of the good parts, so the numbers judge the
features alone. The filter bank is the classical descriptor that a learned encoder has to beat. Beside the usual metrics
stands the image AUROC of each kind of defect, by the modality that it shows in.
"""

import functools
import pathlib

import jax
import numpy as np
from absl import app, flags

from experiments import console, nearest
from pirn_jax import cache, features
from pirn_jax.data import mvtec3d, procedural
from pirn_jax.encoders import filter_bank, pretrained
from pirn_jax.protocol import parallel
from pirn_jax.report import archive

_ENCODERS = flags.DEFINE_list("encoders", ["filter_bank", "random", "builtin"], "filter_bank, or as in fewshot.")
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")
_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_PARTS_SEED = flags.DEFINE_integer("parts_seed", 0, "Seed of the parts; on parts of seed 7 `builtin` was developed.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/encoder_quality", "Where encoder_quality.json goes.")

_PATCH = 14


def _load(name: str) -> nearest.Extractor:
    if name == "filter_bank":
        describe = jax.jit(jax.vmap(lambda image: filter_bank.describe(image, _PATCH)))

        def extract(inputs: np.ndarray) -> np.ndarray:
            flat = np.asarray(describe(inputs.reshape(-1, nearest.SIZE, nearest.SIZE, 3) / np.float32(255)))
            return flat.reshape(*inputs.shape[:2], *flat.shape[1:])

        return nearest.Extractor(extract, standardise=True)
    return nearest.Extractor(functools.partial(features.encode, pretrained.load(name)))


def _run() -> None:
    home, shots, seeds = cache.cache_directory(), _SHOTS.value, _SEEDS.value
    parallel.keep_compiled(home / "xla")
    categories = _CATEGORIES.value or procedural.CATEGORIES
    extractors = {name: _load(name) for name in _ENCODERS.value}
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in extractors}
    splits = mvtec3d.read(procedural.ensure(home, categories=categories, seed=_PARTS_SEED.value), categories)
    for category, split in splits.items():
        parts = len(split.train) + len(split.test)
        with console.stage(category, parts * (1 + len(extractors))) as advance:
            for name, values in nearest.judge(extractors, category, split, shots, seeds, advance).items():
                found[name][category] = values
    print(f"{'':16s}" + "".join(f"{column:>13s}" for column in nearest.COLUMNS))
    for name, table in found.items():
        rows = {name: {column: [values[column] for values in table.values()] for column in nearest.COLUMNS}}
        rows |= {f"  {category}": values for category, values in table.items()}
        for label, values in rows.items():
            print(f"{label:16s}" + "".join(f"{np.mean(values[column]):13.3f}" for column in nearest.COLUMNS))
    settings = {"shots": shots, "seeds": seeds, "parts_seed": _PARTS_SEED.value}
    settings |= {"input_size": nearest.SIZE, "sigma": nearest.SIGMA}
    archive.write_json(pathlib.Path(_OUTPUT.value) / "encoder_quality.json", {"settings": settings, "results": found})


def main(arguments: list[str]) -> None:
    """Prints one row for each encoder: means over categories and seeds."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
