"""Scores anomaly maps that any program has saved, by the metrics of docs/metrics.md.

    python -m experiments.evaluate --maps=DIR --dataset=mvtec3d --data_dir=DIR

The map of a test part is <maps>/<category>/<id>.npy, .npz, .tiff or .png (16 bits), for example
bagel/hole/003 of MVTec 3D-AD at <maps>/bagel/test/hole/003.tiff. Maps of experiments.fewshot are such maps: for 10
shots, --maps=<its output>/maps/10. Prints a table for each category and writes evaluate.json to --output_dir. Exits
with status 1 and a list of all that is wrong if a map is missing, left over, does not fit or holds NaN.
"""

import functools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

import pirn_jax
from experiments import metric_settings
from pirn_jax.data import maps, sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.metrics import ground_truth, streamed
from pirn_jax.metrics.evaluation import Breakdown, Evaluation, MetricSettings
from pirn_jax.metrics.ground_truth import GroundTruth
from pirn_jax.metrics.streamed import StoredMap
from pirn_jax.study import storage
from tools import console, dataset_flags

_MAPS = flags.DEFINE_string("maps", None, "Folder of the maps, with one folder for each category.", required=True)
_SEED = flags.DEFINE_integer("seed", None, "Whose maps to take where the maps of several seeds lie in seed-N/.")
_OUTPUT = flags.DEFINE_string("output_dir", ".", "Folder that evaluate.json is written to.")


def _prepare(
    records: Sequence[Record], paths: Sequence[pathlib.Path], settings: MetricSettings, problems: Problems
) -> tuple[list[StoredMap], GroundTruth]:
    """Maps and ground truth of a category's test samples; each mask is read once.

    Samples whose image cannot be read are left out, and masks that cannot be used are unknown; both are noted.
    """
    usable, stored = [], []
    for record, path in zip(records, paths, strict=True):
        with problems.collecting():
            stored.append(StoredMap(str(path), record.source.size(), functools.partial(maps.read, path)))
            usable.append(record)
    sizes = [of_sample.image for of_sample in stored]

    def masks() -> Iterator[np.ndarray | None]:
        for record, size in zip(usable, sizes, strict=True):
            mask = None
            with problems.collecting():
                mask = sample.load_gt(record, size)
            yield mask

    return stored, ground_truth.prepare([record.defect for record in usable], masks(), sizes, settings)


def _evaluate(
    splits: Mapping[str, Splits], settings: MetricSettings, problems: Problems
) -> Iterator[tuple[str, Evaluation]]:
    """Evaluations by category; of categories with a problem there is none."""
    for category, split in splits.items():
        with problems.collecting():
            if not split.test:
                raise InputError(f"{category}: no test part; leave it out of --categories or add test parts")
            paths = maps.find(pathlib.Path(_MAPS.value), category, split.test, _SEED.value, problems)
            if not paths:
                continue
            before = len(problems.found)
            stored, truth = _prepare(split.test, paths, settings, problems)
            with console.stage(category, 2 * len(stored)) as advance:
                found = streamed.evaluate(stored, truth, problems, advance)
            if found is not None and len(problems.found) == before:
                yield category, found


def table(found: Evaluation) -> list[list[str]]:
    """Rows of text: the heading, all defects, each kind, each size."""
    names = list(found.all.values)
    rows = [["", "parts", "regions", *names], ["all", *_cells(found.all, names)]]
    rows += [[f"defect {name}", *_cells(group, names)] for name, group in found.defects.items()]
    rows += [[f"size {name}", *_cells(group, names)] for name, group in found.sizes.items()]
    return rows


def _cells(group: Breakdown, names: list[str]) -> list[str]:
    values = [group.values.get(name) for name in names]
    texts = [
        "-" if value is None else f"{value:.4g}" if "threshold" in name else f"{value:.4f}"
        for name, value in zip(names, values, strict=True)
    ]
    return [str(group.parts), "-" if group.regions is None else str(group.regions), *texts]


def means(found: Mapping[str, Evaluation]) -> dict[str, float | None]:
    """Mean of every metric but the thresholds over the categories where it is defined."""
    tables = [of_category.all.values for of_category in found.values()]
    names = [name for name in tables[0] if "threshold" not in name] if tables else []
    defined = {name: [value for values in tables if (value := values[name]) is not None] for name in names}
    return {name: float(np.mean(values)) if values else None for name, values in defined.items()}


def _print(category: str, found: Evaluation, settings: MetricSettings) -> None:
    rows = table(found)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"{category}: {found.good_parts} good parts")
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip())
    for name, group in {"all": found.all, **found.defects, **found.sizes}.items():
        for kind, reason in group.undefined.items():
            print(f"{name}: {kind} metrics undefined: {reason}")
    print("settings: " + "; ".join(f"{name} {value}" for name, value in settings.describe().items()) + "\n")


def _run() -> int:
    settings, problems, output = metric_settings.read(), Problems(), pathlib.Path(_OUTPUT.value)
    # What cannot be written should be known before an hour of reading.
    output.mkdir(parents=True, exist_ok=True)
    splits = dataset_flags.find(problems)
    found = {}
    for category, of_category in _evaluate(splits, settings, problems):
        found[category] = of_category
        _print(category, of_category, settings)
    if problems.found:
        print(*(f"problem: {sentence}" for sentence in problems.found), sep="\n", file=sys.stderr)
        print(f"error: {len(problems.found)} problems, evaluate.json is not written", file=sys.stderr)
        return 1
    mean = means(found)
    print("mean over categories: " + ", ".join(f"{k} {'-' if v is None else f'{v:.4f}'}" for k, v in mean.items()))
    result: dict[str, Any] = {
        "schema": 1,
        "pirn_jax": pirn_jax.__version__,
        "dataset": dataset_flags.FLAGS.dataset,
        "maps": _MAPS.value,
        "settings": settings.describe(),
        "categories": {category: of_category.as_json() for category, of_category in found.items()},
        "mean": mean,
    }
    storage.write_json(output / "evaluate.json", result)
    return 0


def main(arguments: list[str]) -> None:
    """Evaluates the maps; exits with status 1 if something is wrong with them."""
    console.run(_run, arguments, places="--output_dir")


if __name__ == "__main__":
    console.define_help("experiments.metric_settings", "tools.image_score", "tools.dataset_flags")
    app.run(main)
