"""The content of `results.json`."""

import importlib.metadata
import json
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pirn_jax import __version__
from pirn_jax.data.problems import InputError
from pirn_jax.metrics import exact
from pirn_jax.study import symptoms
from pirn_jax.study.data import StudyData
from pirn_jax.study.groups import FinishedGroup
from pirn_jax.study.spec import Spec, shots_note, support_note, views_note
from pirn_jax.training.episodes import Run

SCHEMA = 1

Evaluated = Mapping[str, Any]
"""A run's evaluation, see `evaluation.Evaluation.as_json`."""

RESULTS = "results.json"
_KEYS = {"dataset", "method", "encoder", "settings", "results", "mean", "episodes", "timings", "versions"}

_OF_GROUPS = ("compile_s", "train_s", "score_s", "metrics_s", "symptoms_s")

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "orbax-checkpoint", "numpy", "scipy", "pillow")


def collect(spec: Spec, settings: dict[str, Any], data: StudyData, groups: Sequence[FinishedGroup]) -> dict[str, Any]:
    """The content of `results.json`.

    Args:
      spec: the study.
      settings: see `spec.describe`.
      data: its samples.
      groups: all of them.
    """
    splits, episodes = data.drawn.splits, data.drawn.episodes
    evaluated = {run: found for group in groups for run, found in zip(group.runs, group.evaluations, strict=True)}

    def per_category(value: Callable[[list[Run]], Any]) -> dict[str, dict[str, Any]]:
        return {
            str(shots): {c: value([r for r in evaluated if (r.category, r.shots) == (c, shots)]) for c in splits}
            for shots in spec.shots
        }

    def table(select: Callable[[list[Evaluated]], Any]) -> dict[str, dict[str, Any]]:
        return per_category(lambda runs: select([evaluated[run] for run in runs]))

    most = max(len(split.train) for split in splits.values())
    notes = spec.encoder.note, shots_note(spec), support_note(spec, most), views_note(spec)
    values = table(headline)
    trainings = {run: of for group in groups for run, of in zip(group.runs, group.trainings, strict=True)}
    ids = {category: [record.id for record in split.train] for category, split in splits.items()}
    return {
        "schema": SCHEMA,
        "dataset": spec.dataset,
        "method": spec.method,
        "encoder": spec.encoder.name,
        "settings": settings,
        "results": values,
        "more_results": table(more),
        "by_defect": table(by_defect),
        "by_size": table(by_size),
        "trainings": per_category(lambda runs: [trainings[run] for run in runs]),
        "good_parts": {run.category: found["good_parts"] for run, found in evaluated.items()},
        "undefined": undefined({run.category: found for run, found in evaluated.items()}),
        "mean": {shots: means(of_shots) for shots, of_shots in values.items()},
        "episodes": per_category(
            lambda runs: [[ids[run.category][i] for i in episodes[run][:: data.drawn.views]] for run in runs]
        ),
        **_validation(per_category, groups),
        "timings": _timings(data.seconds, groups),
        "versions": versions(),
        "notes": [note for note in (*notes, *data.notes, *symptoms.notes(trainings)) if note],
    }


def _validation(per_category: Callable, groups: Sequence[FinishedGroup]) -> dict[str, Any]:
    """Each run's loss on the validation split, where runs that learn from every good part were given one."""
    losses = {run: loss for group in groups for run, loss in zip(group.runs, group.validation, strict=False)}
    if not losses:
        return {}
    found = per_category(lambda runs: [losses[run] for run in runs if run in losses])
    return {"validation_loss": {shots: of_shots for shots, of_shots in found.items() if any(of_shots.values())}}


def _timings(data: Mapping[str, float], groups: Sequence[FinishedGroup]) -> dict[str, float]:
    """Seconds by name; those of groups count wherever they were trained, the rest is this process's."""
    seconds = {name: data.get(name, 0.0) for name in ("normals_s", "features_s")}
    seconds |= {name: sum(group.timings.get(name, 0.0) for group in groups) for name in _OF_GROUPS}
    return {name: round(value, 3) for name, value in {**seconds, "total_s": sum(seconds.values())}.items()}


def headline(runs: Sequence[Evaluated]) -> dict[str, list[float | None]]:
    """Headline metrics of a category, one value a run."""
    return {name: [run["all"]["values"][name] for run in runs] for name in exact.NAMES}


def more(runs: Sequence[Evaluated]) -> dict[str, list[float | None]]:
    """The other metrics."""
    return {name: values for name, values in _per_run([run["all"] for run in runs]).items() if name not in exact.NAMES}


def by_defect(runs: Sequence[Evaluated]) -> dict[str, dict[str, Any]]:
    """Of each kind of defect how many parts and regions there are, and its metrics, one value a run."""
    return _groups([run["defects"] for run in runs])


def by_size(runs: Sequence[Evaluated]) -> dict[str, dict[str, Any]]:
    """The same of regions of each size; empty where the category has no pixel metrics."""
    return _groups([run["sizes"] for run in runs])


def undefined(categories: Mapping[str, Evaluated]) -> dict[str, dict[str, str]]:
    """Why kinds of metrics, "image" or "pixel", are undefined; categories that lack none are left out."""
    return {name: reasons for name, run in categories.items() if (reasons := run["all"]["undefined"])}


def _groups(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    # What there is to find is the same in all runs of a category.
    return {
        name: {"parts": group["parts"], "regions": group["regions"], "metrics": _per_run([run[name] for run in runs])}
        for name, group in runs[0].items()
    }


def _per_run(groups: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    return {name: [group["values"][name] for group in groups] for name in groups[0]["values"]}


def means(categories: dict[str, dict[str, list[float | None]]]) -> dict[str, dict[str, float | None]]:
    """Mean over categories and seeds of every metric, and deviation over seeds of the mean over categories.

    Categories where a metric is undefined are left out of it; both are None where it is undefined everywhere.
    """
    return {name: _mean([values[name] for values in categories.values()]) for name in exact.NAMES}


def _mean(per_category: list[list[float | None]]) -> dict[str, float | None]:
    defined = [values for values in per_category if None not in values]
    if not defined:
        return {"mean": None, "std": None}
    per_seed = np.mean(np.array(defined, float), axis=0)
    return {"mean": float(per_seed.mean()), "std": float(per_seed.std())}


def versions() -> dict[str, str]:
    """Versions of what made the numbers, and the device."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    return {"pirn_jax": __version__, "python": platform.python_version(), "device": device.device_kind, **packages}


def read(directory: pathlib.Path) -> dict[str, Any]:
    """The content of `results.json` of a finished run.

    Raises:
      InputError: if the directory is no run, is unfinished or was written by a version with another schema.
    """
    path = directory / RESULTS
    if not path.is_file():
        if (directory / "settings.json").is_file():
            raise InputError(f"{directory}: unfinished; run the command of the study again, which continues it")
        raise InputError(f"{directory}: no run, it holds no results.json; give an --output_dir of experiments.fewshot")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run the command of the study again") from error
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: has schema {schema!r}, not {SCHEMA}; use the version of pirn_jax that wrote it")
    missing = sorted(_KEYS - set(results))
    if missing:
        raise InputError(f"{path}: lacks {', '.join(missing)}; run the command of the study again")
    return results
