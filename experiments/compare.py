"""All methods on the same parts, episodes, features and metrics: one table, and one page with paired differences.

    python -m experiments.compare --shots=10 --seeds=3
    python -m experiments.compare --methods=pirn,patchcore --shots=1,5,10 --dataset=mvtec3d --data_dir=DIR

Each method runs with its default preset and keeps its study under --output_dir; the same command continues an
interrupted comparison.
"""

import dataclasses
import math
import pathlib
from typing import Any

import jax
from absl import app, flags

from experiments import builtin_parts, by_modality
from pirn_jax import cache
from pirn_jax.data import catalogue, procedural
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Splits
from pirn_jax.encoders import pretrained
from pirn_jax.methods import METHODS, base
from pirn_jax.report import comparison, gallery, page, tables
from pirn_jax.study import groups, results, run, storage
from pirn_jax.study.spec import Spec
from pirn_jax.training import compiled
from pirn_jax.training.episodes import Run
from tools import console, dataset_flags

_METHODS = flags.DEFINE_list("methods", ["all"], f"Methods: {', '.join(METHODS)}; or all.")
_SHOTS = flags.DEFINE_list("shots", ["10"], "Numbers of good parts to learn from.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "How many random draws of the good parts.", lower_bound=1)
_ENCODER = flags.DEFINE_string("encoder", pretrained.DEFAULT, "Frozen encoder, or several side by side.")
_GRID = flags.DEFINE_integer("grid", 0, "Patches along a side; by default the finest of the encoders'.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output_dir", "outputs/compare", "Where the studies and the page go.")
_DEBUG = flags.DEFINE_bool(
    "debug", False, "Two categories of the built-in parts, 2 shots, 2 seeds, 2 epochs, a small grid."
)

_PAGE = "compare.html"
_KINDS = ("combination", "geometry", "colour", "both")


def _specs() -> dict[str, Spec]:
    names = list(METHODS) if _METHODS.value == ["all"] else _METHODS.value
    shots = tuple(int(text) for text in _SHOTS.value if text.isdecimal() and int(text) > 0)
    if len(set(shots)) < len(_SHOTS.value) or not shots:
        raise InputError(f"--shots={','.join(_SHOTS.value)}: give one or more different whole numbers above zero")
    if not names or len(set(names)) < len(names):
        raise InputError(f"--methods={','.join(names)}: give one or more different methods, or all")
    preparation, found = dataset_flags.preparation(), {}
    try:
        encoder = pretrained.load(_ENCODER.value)
        for name in names:
            if name not in METHODS:
                raise InputError(f"--methods={name}: unknown; choose from {', '.join(METHODS)}, or all")
            config, recipe, _ = METHODS[name].presets["default"]
            if _DEBUG.value and recipe:
                recipe = dataclasses.replace(recipe, epochs=2)
            given = flags.FLAGS.dataset, shots, _SEEDS.value, name, config, recipe, encoder, preparation
            found[name] = Spec(*given, grid=_GRID.value, options=dataset_flags.options())
    except ValueError as error:
        raise InputError(str(error)) from error
    return found


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _costs(spec: Spec, content: dict[str, Any], splits: dict[str, Splits]) -> list[str]:
    """Seconds to train a model, milliseconds to score a part, weights, and numbers kept in all, in millions."""
    models = len(splits) * spec.seeds * len(spec.shots)
    parts = sum(len(of.test) for of in splits.values()) * spec.seeds * len(spec.shots)
    method, encoder = spec.build(), spec.encoder
    shown = len(spec.modalities), len(encoder.groups), spec.grid**2, encoder.config.width
    support = base.shapes(max(map(int, spec.shots)), *shown)
    key = jax.eval_shape(lambda: jax.random.key(0))
    learned = _size(jax.eval_shape(method.start, key, support)[0])
    kept = _size(base.params_shapes(method, support))
    seconds = content["timings"]
    return [
        f"{seconds['train_s'] / models:.2f}",
        f"{1000 * seconds['score_s'] / parts:.1f}",
        f"{learned / 1e6:.2f}",
        f"{kept / 1e6:.1f}",
    ]


def _rows(specs: dict[str, Spec], found: dict[str, dict[str, Any]], splits: dict[str, Splits], shots: str) -> list:
    """Of each method its name, and a text for each column."""
    rows = []
    for name, content in found.items():
        cells = []
        if specs[name].dataset == catalogue.BUILT_IN:
            one = {**content, "results": {shots: content["results"][shots]}}
            table = by_modality.table(one).values()
            cells = [tables.mean_text([row[kind] for row in table]) for kind in _KINDS]
        cells += tables.mean_row(content, shots)
        rows.append((name, [*cells, *_costs(specs[name], content, splits)]))
        rows += [
            (
                f"{row.source}",
                [
                    *[""] * (len(cells) - 3),
                    *(tables.score_text(getattr(row, m), None) for m in tables.METRICS),
                    *[""] * 4,
                ],
            )
            for row in page.published(content, shots)
        ]
    return rows


def _parts(specs: dict[str, Spec], scored: dict[str, dict[Run, tuple]], splits: dict[str, Splits]) -> list:
    """Of each category a defect of a combination, or any, as every method sees it after the most shots, seed 0."""
    found = []
    for category, split in splits.items():
        defects = [i for i, record in enumerate(split.test) if record.defective]
        told = procedural.DEFECTS.get(category, {}) if flags.FLAGS.dataset == catalogue.BUILT_IN else {}
        combined = [i for i in defects if told and told[split.test[i].defect].modality == "combination"]
        if not defects:
            continue
        shown = (combined or defects)[0]
        of_methods = {name: (spec, *scored[name][Run(category, max(spec.shots), 0)]) for name, spec in specs.items()}
        record = split.test[shown]
        title = f"{category}, {record.defect}, {record.id}"
        found.append(gallery.side_by_side(title, split.test, shown, of_methods))
    return found


def _columns(dataset: str) -> list[str]:
    kinds = [f"image AUROC, {kind}" for kind in _KINDS] if dataset == catalogue.BUILT_IN else []
    costs = ["s / model", "ms / part", "weights, M", "kept, M"]
    return [*kinds, *tables.METRICS.values(), *costs]


def _run() -> None:
    if _DEBUG.value:
        smaller = {"shots": ["2"], "seeds": 2, "grid": 8}
        if flags.FLAGS.dataset == catalogue.BUILT_IN:
            smaller["categories"] = ["gear", "knob"]
        for name, value in smaller.items():
            if not flags.FLAGS[name].present:
                flags.FLAGS[name].value = value
    output = pathlib.Path(_OUTPUT.value)
    compiled.keep(cache.cache_directory() / "xla")
    specs = _specs()
    splits = dataset_flags.read(builtin_parts.DEBUG_COUNTS if _DEBUG.value else procedural.DEFAULT_COUNTS)
    found, scored = {}, {}
    for name, spec in specs.items():
        content, finished = run.run(spec, splits, output / name, console.stage)
        scored[name] = groups.by_run(finished)
        storage.write_json(output / name / results.RESULTS, content)
        tables.write_csv(content, output / name / "results.csv")
        found[name] = content
    columns, shots = _columns(flags.FLAGS.dataset), tables.shots_in_order(next(iter(found.values())))
    overview = {tables.shots_label(some): _rows(specs, found, splits, some) for some in shots}
    storage.write_json(output / "compare.json", {"columns": columns, "rows": overview})
    comparison.write_page(output / _PAGE, found, columns, overview, _parts(specs, scored, splits))
    for title, rows in overview.items():
        print(f"\n{title}, {tables.seeds_label(_SEEDS.value)}\n{'':34s}" + " ".join(f"{name:>24s}" for name in columns))
        for name, cells in rows:
            print(f"{name:34s}" + " ".join(f"{cell:>24s}" for cell in cells))
    print(f"\n{output / _PAGE} shows it.")


def main(arguments: list[str]) -> None:
    """Runs the comparison; exits with status 1 and one sentence if something is wrong with what the user gave."""
    refusals = InputError, FloatingPointError
    console.run(_run, arguments, places="--output_dir, --data_dir and PIRN_CACHE", refusals=refusals)


if __name__ == "__main__":
    console.define_help("tools.dataset_flags")
    app.run(main)
