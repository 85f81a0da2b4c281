"""Few-shot inspection: learn from a few good parts, mark the defects of others.

    python -m experiments.fewshot --shots=10 --seeds=10
    python -m experiments.fewshot --method=patchcore --coreset=.1

Trains a method on every category for every seed and writes results.json, results.csv, report.html, anomaly maps and
trained parameters to --output_dir. Without a data set it generates the built-in parts. The same command continues an
interrupted study.
"""

import pathlib
import re

from absl import app, flags

from experiments import builtin_parts, metric_settings, processes
from experiments import plan as plan_text
from pirn_jax import cache
from pirn_jax.data import procedural
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Splits
from pirn_jax.report import finished, gallery, pictures, sweep, tables, tracking
from pirn_jax.study import data, grid, groups, memory, plan, results, run, storage
from pirn_jax.study.spec import Spec
from pirn_jax.training import cluster, compiled
from pirn_jax.training.episodes import ALL, Shots, most
from tools import console, dataset_flags, method_flags, study_flags

flags.DEFINE_list("shots", ["10"], "Numbers of good parts to learn from; all for every one of a category.")
flags.DEFINE_integer("seeds", 10, "How many random draws of the good parts.", lower_bound=1)
flags.DEFINE_integer(
    "support_parts",
    -1,
    "With --shots=all, good parts that memory banks, scales and calibration are made from; 0 for all, -1 for all only "
    "where a method keeps patches.",
    lower_bound=-1,
)
flags.DEFINE_float(
    "feature_memory",
    data.MEMORY_BYTES / memory.GIB,
    "GiB for features; with --shots=all those beyond are read from the cache as steps need them.",
    lower_bound=0.0,
)
flags.DEFINE_string("output_dir", None, "Where results go; by default outputs/ and what was asked for.")
flags.DEFINE_float("checkpoint_minutes", 2.0, "Least time between checkpoints within a group of runs.", lower_bound=0.0)
flags.DEFINE_enum("save_maps", "first", ("none", "first", "all"), "Seeds whose fused anomaly maps are written.")
flags.DEFINE_bool("tensorboard", False, "Also write event files of TensorBoard, to tensorboard/ in --output_dir.")
flags.DEFINE_bool("debug", False, "A study of under a minute: built-in parts, 2 shots, 2 seeds, 2 epochs.")
flags.DEFINE_bool("plan", False, "Print models, steps, bytes and minutes of the study on this machine, and end.")
flags.DEFINE_integer("cell", None, "Of a grid of hyperparameters, run this cell alone, from 0.", lower_bound=0)

FLAGS = flags.FLAGS
_OF_STUDY = ("tools.study_flags", "tools.dataset_flags", "tools.image_score", "tools.method_flags")
_OF_STUDY += ("experiments.metric_settings",)


def _apply_debug() -> None:
    """Shrinks the study; flags that were given keep their values."""
    smaller = {"shots": ["2"], "seeds": 2} | ({"epochs": (2,)} if method_flags.preset().recipe else {})
    for name, value in smaller.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value


def _shots() -> tuple[Shots, ...]:
    shots = [text if text == ALL else int(text) for text in FLAGS.shots if text == ALL or text.isdecimal()]
    if not shots or 0 in shots or len(set(shots)) < len(FLAGS.shots):
        raise ValueError(
            f"--shots={','.join(FLAGS.shots)}: give one or more different whole numbers above zero, or {ALL}"
        )
    if ALL not in shots and FLAGS.support_parts >= 0:
        raise ValueError(f"--support_parts={FLAGS.support_parts}: only of use with --shots={ALL}; leave it out")
    return tuple(shots)


def _specs() -> dict[str, Spec]:
    """Studies by the name of the cell; a single one is named ""."""
    preparation, cells, metrics = dataset_flags.preparation(), method_flags.cells(), metric_settings.read()
    try:
        before = FLAGS.dataset, _shots(), FLAGS.seeds, FLAGS.method
        fields = study_flags.fields() | {"preset": FLAGS.preset, "support_parts": FLAGS.support_parts}
        fields |= {"preparation": preparation, "options": dataset_flags.options(), "metrics": metrics}
        return {name: Spec(*before, config, recipe, **fields) for name, (config, recipe) in cells.items()}
    except ValueError as error:
        raise InputError(str(error)) from error


def _output_directory(spec: Spec) -> pathlib.Path:
    if FLAGS.output_dir is not None:
        return pathlib.Path(FLAGS.output_dir)
    name = f"{spec.dataset}-{'-'.join(map(str, spec.shots))}shots-{spec.seeds}seeds"
    # The default method's and preset's names go without saying.
    chosen = [
        value for value, flag in ((spec.method, "method"), (spec.preset, "preset")) if value != FLAGS[flag].default
    ]
    words = [name, *chosen, *method_flags.grid(), *_told(), *["debug"] * FLAGS.debug]
    return pathlib.Path("outputs") / re.sub(r"[^\w.,=+-]", "-", "-".join(words))


def _told() -> list[str]:
    """Flags that were given and tell studies apart, as NAME=VALUE, but for those with a place of their own."""
    known, modules = {"dataset", "data_dir", "method", "preset", *method_flags.grid()}, FLAGS.flags_by_module_dict()
    given = [flag for module in (*_OF_STUDY, *method_flags.help_groups()) for flag in modules[module] if flag.present]
    values = {flag.name: flag.value for flag in given if flag.name not in known}
    return sorted(
        f"{name}={','.join(map(str, of)) if isinstance(of, (list, tuple)) else of}" for name, of in values.items()
    )


def _chosen(specs: dict[str, Spec]) -> dict[str, Spec]:
    """All cells, or the one that --cell names."""
    if FLAGS.cell is None:
        return specs
    if FLAGS.cell >= len(specs):
        raise InputError(f"--cell={FLAGS.cell}: the grid has {len(specs)} cells, the last is {len(specs) - 1}")
    name = list(specs)[FLAGS.cell]
    return {name: specs[name]}


def _write_outputs(spec: Spec, splits: dict[str, Splits], output: pathlib.Path, content, finished_groups) -> None:
    scored = groups.by_run(finished_groups)
    tests = {category: split.test for category, split in splits.items()}
    first = [run for run in scored if run.seed == 0]
    wanted = {"none": [], "first": first, "all": list(scored)}[FLAGS.save_maps]
    with console.stage("anomaly maps", len(wanted)) as advance:
        for run in wanted:
            storage.save_maps(output, run, tests[run.category], *scored[run], spec.maps)
            advance(1)
    with console.stage("report", len(splits)) as advance:
        galleries = []
        for run in first:
            if run.shots == most(spec.shots):
                galleries.append(gallery.build(run, tests[run.category], *scored[run], spec))
                advance(1)
        pictures.save(output / finished.GALLERY, galleries)
    tables.write_csv(content, output / "results.csv")
    storage.write_json(output / results.RESULTS, content)
    finished.write_page(output)
    tracking.write_lines(output, content["settings"])
    if FLAGS.tensorboard:
        tracking.write_events(output, content["settings"], galleries)


def _run() -> None:
    method_flags.apply_preset()
    if FLAGS.debug:
        _apply_debug()
    if FLAGS.tensorboard:
        tracking.require()
    processes.connect()
    compiled.keep(cache.cache_directory() / "xla")
    specs = _specs()
    output = _output_directory(next(iter(specs.values())))
    chosen = {output / name: spec for name, spec in _chosen(specs).items()}
    splits = dataset_flags.read(builtin_parts.DEBUG_COUNTS if FLAGS.debug else procedural.DEFAULT_COUNTS)
    room = int(FLAGS.feature_memory * memory.GIB)
    if FLAGS.plan:
        print(plan_text.text(plan.make(next(iter(chosen.values())), splits, console.stage, room), len(chosen)))
        return
    parameters, writes = method_flags.grid(), cluster.process()[0] == 0
    if parameters and writes:
        grid.write_plan(output, parameters)
    content = {}
    studies = run.run_all(chosen, splits, console.stage, 60 * FLAGS.checkpoint_minutes, room)
    for (path, spec), (content, finished_groups) in zip(chosen.items(), studies, strict=True):
        if writes:
            _write_outputs(spec, splits, path, content, finished_groups)
            if parameters:
                sweep.write(output)
    if writes:
        table = sweep.format_table(grid.read(output)) if parameters else tables.format_table(content)
        print(f"{table}\n\n{output / (sweep.PAGE if parameters else 'report.html')} shows it.")


def main(arguments: list[str]) -> None:
    """Runs the study; exits with status 1 and one sentence if something is wrong with what the user gave."""
    console.run(
        _run,
        arguments,
        places="--output_dir and PIRN_CACHE",
        interrupted="interrupted; the same command continues after the last checkpoint",
        refusals=(InputError, FloatingPointError),
    )


if __name__ == "__main__":
    console.define_help(*_OF_STUDY, "experiments.processes", *method_flags.help_groups())
    app.run(main)
