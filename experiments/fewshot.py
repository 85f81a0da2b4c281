"""Few-shot inspection: learn from a few good parts, mark the defects of others.

    python -m experiments.fewshot --shots=10 --seeds=10

Trains PIRN on every category for every seed and writes results.json, results.csv, report.html, anomaly maps and
trained parameters to --output_dir. Without a data set it generates the built-in parts. The same command continues an
interrupted study.
"""

import math
import pathlib

from absl import app, flags

from experiments import console, hyperparameters, metric_settings, parts, processes
from pirn_jax import cache, study
from pirn_jax.data import procedural
from pirn_jax.data.problems import InputError
from pirn_jax.data.sample import Splits
from pirn_jax.encoders import pretrained
from pirn_jax.protocol import parallel
from pirn_jax.report import archive, finished, gallery, pictures, sweep, tables, tracking
from pirn_jax.spec import Spec

_DEBUG_COUNTS = procedural.Counts(train=4, validation=1, good=4, per_defect=1)

flags.DEFINE_list("shots", ["10"], "Numbers of good parts to learn from.")
flags.DEFINE_integer("seeds", 10, "How many random draws of the good parts.", lower_bound=1)
flags.DEFINE_enum("method", "pirn", list(study.METHODS), "Method.")
flags.DEFINE_string(
    "encoder", "builtin", f"Frozen encoder: {', '.join(pretrained.NAMES)}, or a file of tools/convert_dinov2.py."
)
flags.DEFINE_list("blocks", None, "Blocks of the encoder that are averaged, from 1; by default those its file names.")
flags.DEFINE_float("sigma", 4.0, "Gaussian on anomaly maps, in pixels of the encoder's input.", lower_bound=0.0)
flags.DEFINE_string("output_dir", None, "Where results go; by default outputs/ and the name of the study.")
flags.DEFINE_enum("save_maps", "first", ("none", "first", "all"), "Seeds whose fused anomaly maps are written.")
flags.DEFINE_bool("tensorboard", False, "Also write event files of TensorBoard, to tensorboard/ in --output_dir.")
flags.DEFINE_bool("debug", False, "A study of under a minute: built-in parts, 2 shots, 2 seeds, 2 epochs.")
flags.DEFINE_integer("cell", None, "Of a grid of hyperparameters, run this cell alone, from 0.", lower_bound=0)

FLAGS = flags.FLAGS


def _apply_debug() -> None:
    """Shrinks the study; flags that were given keep their values."""
    for name, value in {"shots": ["2"], "seeds": 2, "epochs": (2,)}.items():
        if not FLAGS[name].present:
            FLAGS[name].value = value


def _blocks() -> tuple[int, ...] | None:
    if FLAGS.blocks is None:
        return None
    if not all(text.isdecimal() for text in FLAGS.blocks):
        raise ValueError(f"--blocks={','.join(FLAGS.blocks)}: give numbers of blocks, from 1")
    return tuple(map(int, FLAGS.blocks))


def _specs() -> dict[str, Spec]:
    """What to do, by the name of the cell; a single one is named ""."""
    preparation, cells = parts.preparation(), hyperparameters.cells()
    try:
        shots = tuple(int(text) for text in FLAGS.shots if text.isdecimal() and int(text) > 0)
        if not shots or len(set(shots)) < len(FLAGS.shots):
            raise ValueError(f"--shots={','.join(FLAGS.shots)}: give one or more different whole numbers above zero")
        if not math.isfinite(FLAGS.sigma):
            raise ValueError(f"--sigma={FLAGS.sigma}: give a number of pixels, 0 for no smoothing")
        encoder = pretrained.load(FLAGS.encoder, _blocks())
        if FLAGS.input_size % encoder.config.patch:
            raise ValueError(
                f"--input_size={FLAGS.input_size} is no multiple of the patch, {encoder.config.patch} pixels"
            )
        for config, _ in cells.values():
            if encoder.config.width % config.heads:
                raise ValueError(
                    f"--heads={config.heads} does not divide the {encoder.config.width} channels of the encoder"
                )
    except ValueError as error:
        raise InputError(str(error)) from error
    before = FLAGS.dataset, shots, FLAGS.seeds, FLAGS.method
    after = encoder, preparation, FLAGS.sigma, parts.options(), metric_settings.read()
    return {name: Spec(*before, config, recipe, *after) for name, (config, recipe) in cells.items()}


def _output_directory(spec: Spec) -> pathlib.Path:
    if FLAGS.output_dir is not None:
        return pathlib.Path(FLAGS.output_dir)
    name = f"{spec.dataset.replace(':', '-').replace('/', '-')}-{'-'.join(map(str, spec.shots))}shots-{spec.seeds}seeds"
    return pathlib.Path("outputs") / "-".join([name, *hyperparameters.grid(), *["debug"] * FLAGS.debug])


def _chosen(specs: dict[str, Spec]) -> dict[str, Spec]:
    """All cells, or the one that --cell names."""
    if FLAGS.cell is None:
        return specs
    if FLAGS.cell >= len(specs):
        raise InputError(f"--cell={FLAGS.cell}: the grid has {len(specs)} cells, the last is {len(specs) - 1}")
    name = list(specs)[FLAGS.cell]
    return {name: specs[name]}


def _write_outputs(spec: Spec, splits: dict[str, Splits], output: pathlib.Path, results, groups) -> None:
    scored = {run: part for group in groups for run, part in zip(group.runs, group.distances, strict=True)}
    tests = {category: split.test for category, split in splits.items()}
    first = [run for run in scored if run.seed == 0]
    wanted = {"none": [], "first": first, "all": list(scored)}[FLAGS.save_maps]
    with console.stage("anomaly maps", len(wanted)) as advance:
        for run in wanted:
            archive.save_maps(output, run, tests[run.category], scored[run], spec.maps)
            advance(1)
    with console.stage("report", len(splits)) as advance:
        galleries = []
        for run in first:
            if run.shots == max(spec.shots):
                galleries.append(gallery.build(run, tests[run.category], scored[run], spec.maps, spec.preparation))
                advance(1)
        pictures.save(output / finished.GALLERY, galleries)
    tables.write_csv(results, output / "results.csv")
    archive.write_json(output / "results.json", results)
    finished.write_page(output)
    tracking.write_lines(output, results["settings"])
    if FLAGS.tensorboard:
        tracking.write_events(output, results["settings"], galleries)


def _run() -> None:
    if FLAGS.debug:
        _apply_debug()
    parallel.keep_compiled(cache.cache_directory() / "xla")
    if FLAGS.tensorboard:
        tracking.require()
    specs = _specs()
    output = _output_directory(next(iter(specs.values())))
    chosen = {output / name: spec for name, spec in _chosen(specs).items()}
    splits = parts.read(_DEBUG_COUNTS if FLAGS.debug else procedural.DEFAULT_COUNTS)
    team = processes.team(output)
    grid = hyperparameters.grid()
    if grid and team.index == 0:
        sweep.write_plan(output, grid)
    results = {}
    with team.at_work():
        for (path, spec), (results, groups) in zip(
            chosen.items(), study.run_all(chosen, splits, console.stage, team), strict=True
        ):
            if team.index == 0:
                _write_outputs(spec, splits, path, results, groups)
                if grid:
                    sweep.write(output)
    if team.index == 0:
        table = sweep.format_table(sweep.read(output)) if grid else tables.format_table(results)
        print(f"{table}\n\n{output / (sweep.PAGE if grid else 'report.html')} shows it.")


def main(arguments: list[str]) -> None:
    """Runs the study; exits with status 1 and one sentence if something is wrong with what the user gave."""
    console.run(
        _run,
        arguments,
        places="--output_dir and PIRN_CACHE",
        interrupted="interrupted; the same command continues after the last finished group of runs",
        refusals=(InputError, FloatingPointError),
    )


if __name__ == "__main__":
    app.run(main)
