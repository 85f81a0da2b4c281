"""Tables and figures of the PIRN paper: ours beside the published numbers.

    python -m experiments.paper --table=2
    python -m experiments.paper --figure=1,4 --samples=gear/test/broken_tooth/000
    python -m experiments.paper --table=1,5 --preset=paper --dataset=mvtec3d --data_dir=DIR --seeds=10

Numbers of tables and figures are the paper's. Without a data set the built-in parts are taken, whose numbers cannot be
compared with the paper's and stand apart from them. Rows of several tables that are one study are run once for each
--output_dir, and the same command continues an interrupted one. Prints each table and writes it as CSV, each figure as
SVG and PDF, and paper.html with all that the --output_dir has so far.
"""

import dataclasses
import pathlib
from typing import Any

import jax
from absl import app, flags

from experiments import builtin_parts
from experiments.paper import figures, tables
from experiments.paper.studies import Setting
from pirn_jax import atomic, cache, methods, scoring
from pirn_jax.data import catalogue, procedural
from pirn_jax.data.problems import InputError
from pirn_jax.encoders import pretrained
from pirn_jax.features import BACKGROUNDS
from pirn_jax.methods.residuals import SCORES
from pirn_jax.metrics.evaluation import MetricSettings
from pirn_jax.report import plots, sheet
from pirn_jax.training import compiled
from tools import console, dataset_flags

flags.DEFINE_list("table", [], f"Tables by the paper's numbers: {', '.join(map(str, tables.TABLES))}.")
flags.DEFINE_list("figure", [], f"Figures by the paper's numbers: {', '.join(map(str, figures.FIGURES))}.")
flags.DEFINE_enum("preset", "default", ("default", "paper"), "Settings of PIRN; paper needs DINOv2 and Open3D.")
flags.DEFINE_list("shots", [], "Good parts in the places of Table 1's 5, 10 and 50; the first is that of the others.")
flags.DEFINE_integer(
    "seeds",
    None,
    "How many random draws of the good parts; by default 3, of Table 1 and Figure 1 one. The paper has 10.",
    lower_bound=1,
)
flags.DEFINE_string("encoder", pretrained.DEFAULT, "Frozen encoder, or several side by side.")
flags.DEFINE_integer("grid", 16, "Patches along a side; 0 for the finest of the encoders'.", lower_bound=0)
flags.DEFINE_enum("background", "ignore", BACKGROUNDS, "Whether patches off the part count.")
flags.DEFINE_enum("fusion", "maximum", scoring.FUSIONS, "Fusion of maps.")
flags.DEFINE_integer("resolution", None, "Longer side of resized maps and masks; by default the image's.")
flags.DEFINE_enum("score", None, SCORES, "Score of PIRN's patches; by default the preset's, cosine is the paper's.")
flags.DEFINE_integer("epochs", None, "Epochs of all methods; by default their presets'.", lower_bound=0)
flags.DEFINE_list("samples", [], "Test samples that figures show, as CATEGORY/ID such as gear/test/good/000.")
flags.DEFINE_string("output_dir", None, "Where all goes; by default outputs/paper- and the data set's name.")
flags.DEFINE_bool("debug", False, "Two categories of built-in parts, 4 shots, 1 seed, 2 epochs, 1 layer of PIRN, 8x8.")

FLAGS = flags.FLAGS
_DEBUG = {"seeds": 1, "grid": 8, "epochs": 2, "categories": ["gear", "knob"], "encoder": "chroma", "score": "cosine"}
_DEBUG["shots"] = [str(builtin_parts.DEBUG_COUNTS.train)]


def _numbers(name: str, known: tuple[int, ...]) -> list[int]:
    given = list(FLAGS[name].value or [])
    unknown = [text for text in given if text not in map(str, known)]
    if unknown:
        raise InputError(
            f"--{name}={','.join(unknown)}: the paper's {name}s that can be made are {', '.join(map(str, known))}"
        )
    return [int(text) for text in given]


def _apply(values: dict[str, Any]) -> None:
    """Gives flags that are here and not given these values."""
    for name, value in values.items():
        if name in FLAGS and not FLAGS[name].present:
            FLAGS[name].value = value


def _shots(default: list[int]) -> list[int]:
    """Numbers of good parts, by default those of the paper."""
    if not all(text.isdecimal() and int(text) > 0 for text in FLAGS.shots):
        raise InputError(f"--shots={','.join(FLAGS.shots)}: give whole numbers above zero")
    return [int(text) for text in FLAGS.shots] or default


def _preset(name: str) -> dict[str, Any]:
    """Flags that a preset of PIRN sets."""
    return dict(methods.choose("pirn", name).flags)


def _setting(output: pathlib.Path) -> Setting:
    try:
        papers = FLAGS.preset == "paper" and FLAGS.encoder == _preset("paper")["encoder"]
        encoder = pretrained.load(FLAGS.encoder, [((*range(2, 11),),)] if papers else None)
        metrics = MetricSettings(resolution=FLAGS.resolution)
    except ValueError as error:
        raise InputError(str(error)) from error
    given: dict[str, Any] = {"dataset": FLAGS.dataset, "preparation": dataset_flags.preparation()}
    given |= {name: FLAGS[name].value for name in ("grid", "background", "fusion")}
    given |= {"options": dataset_flags.options(), "metrics": metrics}
    counts = builtin_parts.DEBUG_COUNTS if FLAGS.debug else procedural.DEFAULT_COUNTS
    config = {} if FLAGS.score is None else {"score": FLAGS.score}
    return Setting(
        FLAGS.preset,
        {**config, "num_layers": 1} if FLAGS.debug else config,
        {} if FLAGS.epochs is None else {"epochs": FLAGS.epochs},
        encoder,
        FLAGS.seeds or 3,
        given,
        dataset_flags.read(counts),
        output,
        console.stage,
    )


def _of_number(setting: Setting, number: int) -> Setting:
    """The setting of a table or figure: Table 1 and Figure 1, of many studies, have one seed unless told otherwise."""
    return dataclasses.replace(setting, seeds=1) if number == 1 and FLAGS.seeds is None else setting


def _run() -> None:
    asked = {name: _numbers(name, known) for name, known in (("table", tables.TABLES), ("figure", figures.FIGURES))}
    if not any(asked.values()):
        raise InputError("give --table or --figure, one number or several separated by commas")
    if asked["figure"]:
        plots.require()
    _apply(_preset(FLAGS.preset))
    if FLAGS.debug:
        # To optimise programs that run a few times takes longer than it saves.
        jax.config.update("jax_disable_most_optimizations", True)
        _apply(_DEBUG if FLAGS.dataset == catalogue.BUILT_IN else {**_DEBUG, "categories": []})
    compiled.keep(cache.cache_directory() / "xla")
    name = FLAGS.dataset.replace(":", "-").replace("/", "-")
    suffix = [*["paper"] * (FLAGS.preset == "paper"), *["debug"] * FLAGS.debug]
    output = pathlib.Path(FLAGS.output_dir or f"outputs/{'-'.join(['paper', name, *suffix])}")
    setting = _setting(output)
    samples = figures.find(FLAGS.samples, setting.splits)
    for number in asked["table"]:
        own = _of_number(setting, number)
        made = tables.make(number, _shots(tables.SHOTS.get(number, [10])), FLAGS.dataset, own)
        atomic.write_csv(output / f"table-{number}.csv", [tables.CSV_HEADER, *made.numbers])
        _show(output, made.section)
    for number in asked["figure"]:
        own = _of_number(setting, number)
        _show(output, figures.make(number, _shots(figures.SHOTS.get(number, [10])), FLAGS.dataset, samples, own))
    facts = {"data set": tables.title(FLAGS.dataset), "preset": FLAGS.preset, "encoder": setting.encoder.name}
    facts["grid"] = str(FLAGS.grid)
    print(f"{sheet.write_page(output, 'PIRN: tables and figures', facts)} shows it.")


def _show(output: pathlib.Path, section: sheet.Section) -> None:
    sheet.save(output, section)
    print(f"{sheet.text(section)}\n", flush=True)


def main(arguments: list[str]) -> None:
    """Makes tables and figures; exits with status 1 and one sentence if something is wrong with what the user gave."""
    console.run(
        _run,
        arguments,
        places="--output_dir, --data_dir and PIRN_CACHE",
        interrupted="interrupted; the same command continues",
        refusals=(InputError, FloatingPointError),
    )


if __name__ == "__main__":
    console.define_help("tools.dataset_flags")
    app.run(main)
