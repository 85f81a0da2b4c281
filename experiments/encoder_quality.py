"""What an encoder's features are worth without any training: nearest-neighbour patches on the built-in parts.

    python -m experiments.encoder_quality --encoders=filter_bank,random,builtin

Every test patch is scored by its cosine distance to the nearest patch of the good parts, so the numbers judge the
features alone. The filter bank is the classical descriptor that a learned encoder has to beat. Beside the usual metrics
stands the image AUROC of each kind of defect, by the modality that it shows in.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float, UInt8

from experiments import console
from pirn_jax import cache, features, inputs
from pirn_jax.data import datasets, mvtec3d, procedural, sample
from pirn_jax.encoders import filter_bank, pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.protocol import episodes, metrics, parallel, repeats, scoring
from pirn_jax.protocol.episodes import Run
from pirn_jax.protocol.evaluation import Evaluation, Settings
from pirn_jax.report import archive

_ENCODERS = flags.DEFINE_list("encoders", ["filter_bank", "random", "builtin"], "filter_bank, or as in fewshot.")
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")
_SHOTS = flags.DEFINE_integer("shots", 10, "Number of good parts.", lower_bound=1)
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/encoder_quality", "Where encoder_quality.json goes.")

_SIZE, _PATCH, _SIGMA = 224, 14, 4.0
_PLANE = datasets.find(datasets.BUILT_IN)
_PREPARATION = Preparation(_SIZE, plane_tolerance=_PLANE.plane_tolerance, cluster_reach=_PLANE.cluster_reach)

COLUMNS = (*metrics.NAMES, "geometry", "colour", "both", "combination")
"""What is reported: metrics of all defects, and the image AUROC of each kind."""

Extract = Callable[[np.ndarray], np.ndarray]
"""(parts, 2, size, size, 3) uint8 -> (parts, 2, n, c) features."""


def _load_extract(name: str) -> Extract:
    if name == "filter_bank":
        describe = jax.jit(jax.vmap(lambda image: filter_bank.describe(image, _PATCH)))

        def extract(inputs: np.ndarray) -> np.ndarray:
            flat = np.asarray(describe(inputs.reshape(-1, _SIZE, _SIZE, 3) / np.float32(255)))
            return flat.reshape(*inputs.shape[:2], *flat.shape[1:])

        return extract
    return functools.partial(features.encode, pretrained.load(name))


@functools.partial(jax.jit, static_argnums=2)
def _nearest(memory: Float[Array, "k n c"], tokens: Float[Array, "p n c"], standardise: bool) -> Float[Array, "p n"]:
    """Cosine distance of patches to the nearest one of the memory, channels standardised over it or as they are."""
    mean, deviation = jnp.mean(memory, (0, 1)), jnp.std(memory, (0, 1)) + 1e-6

    def unit(x):
        x = (x - mean) / deviation if standardise else x
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    known = unit(memory).reshape(-1, memory.shape[-1])
    return jax.lax.map(lambda part: 1.0 - jnp.max(unit(part) @ known.T, axis=-1), tokens)


def _inputs(records: Sequence[sample.Record], progress: Callable[[int], None]) -> UInt8[np.ndarray, "p 2 s s 3"]:
    """What every encoder sees of parts."""
    found = []
    for record in records:
        found.append(inputs.prepare(sample.load(record), _PREPARATION).values)
        progress(1)
    return np.stack(found)


def _by_modality(category: str, evaluation: Evaluation) -> dict[str, float]:
    """Image AUROC of defects by the modality that they show in, the mean over defects of one modality."""
    found: dict[str, list[Any]] = {}
    for name, group in evaluation.defects.items():
        found.setdefault(procedural.DEFECTS[category][name].modality, []).append(group.values["image_auroc"])
    return {modality: float(np.mean(values)) for modality, values in found.items()}


def _judge(
    extracts: dict[str, Extract], category: str, splits: sample.Splits, progress: Callable[[int], None]
) -> dict[str, dict[str, list[float]]]:
    """Metrics of every encoder on one category, one value for each seed."""
    inputs = [_inputs(records, progress) for records in (splits.train, splits.test)]
    masks = [sample.load_gt(record) for record in splits.test]
    sizes = [record.source.size() for record in splits.test]
    truth = repeats.prepare([record.defect for record in splits.test], masks, sizes, Settings())
    judged = {}
    for name, extract in extracts.items():
        good, tests = (np.concatenate([extract(part[None]) for part in parts]) for parts in inputs)
        maps = scoring.Maps(round(good.shape[2] ** 0.5), _SIZE, _SIGMA)
        # Channels of the filter bank are of different kinds, so they are brought to one scale.
        classical = name == "filter_bank"
        found: list[dict[str, Any]] = []
        for seed in range(_SEEDS.value):
            drawn = episodes.draw(Run(category, _SHOTS.value, seed), len(good))
            distances = np.stack(
                [np.asarray(_nearest(good[drawn, m], tests[:, m], classical)) for m in range(2)], axis=1
            )
            fused = truth.flatten(map(maps.fused, distances, sizes))
            (evaluation,) = repeats.evaluate(fused[None], truth)
            found.append({**evaluation.all.values, **_by_modality(category, evaluation)})
        judged[name] = {column: [values[column] for values in found] for column in COLUMNS}
        progress(len(good) + len(tests))
    return judged


def _run() -> None:
    home = cache.cache_directory()
    parallel.keep_compiled(home / "xla")
    categories = _CATEGORIES.value or procedural.CATEGORIES
    extracts = {name: _load_extract(name) for name in _ENCODERS.value}
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in extracts}
    splits = mvtec3d.read(procedural.ensure(home, categories=categories), categories)
    for category, split in splits.items():
        parts = len(split.train) + len(split.test)
        with console.stage(category, parts * (1 + len(extracts))) as advance:
            for name, values in _judge(extracts, category, split, advance).items():
                found[name][category] = values
    print(f"{'':16s}" + "".join(f"{column:>13s}" for column in COLUMNS))
    for name, table in found.items():
        rows = {name: {column: [values[column] for values in table.values()] for column in COLUMNS}}
        rows |= {f"  {category}": values for category, values in table.items()}
        for label, values in rows.items():
            print(f"{label:16s}" + "".join(f"{np.mean(values[column]):13.3f}" for column in COLUMNS))
    settings = {"shots": _SHOTS.value, "seeds": _SEEDS.value, "input_size": _SIZE, "sigma": _SIGMA}
    archive.write_json(pathlib.Path(_OUTPUT.value) / "encoder_quality.json", {"settings": settings, "results": found})


def main(arguments: list[str]) -> None:
    """Prints one row for each encoder: means over categories and seeds."""
    console.run(_run, arguments, places="--output_dir and PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
