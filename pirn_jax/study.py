"""A study: all runs of one call, from files to results. The one place that puts the rooms together."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pirn_jax import gathering, groups, pirn
from pirn_jax.data.sample import Splits
from pirn_jax.gathering import Gathered, Stage
from pirn_jax.groups import Group, Work
from pirn_jax.processes import Team
from pirn_jax.protocol.episodes import Run
from pirn_jax.report import archive, record
from pirn_jax.spec import Spec
from pirn_jax.stopwatch import Stopwatch

METHODS = {"pirn": pirn.pirn}
_OF_GROUPS = ("compile_s", "train_s", "score_s", "metrics_s")


def run(
    spec: Spec, splits: dict[str, Splits], output: pathlib.Path, stage: Stage, team: Team | None = None
) -> tuple[dict[str, Any], list[Group]]:
    """Runs or continues a study.

    Args:
      spec: what to do.
      splits: the parts of each category.
      output: directory that finished groups are kept in.
      stage: how to show progress.
      team: the processes that share the study; by default this one is alone.

    Returns:
      The content of `results.json`, and the groups.

    Raises:
      InputError: if a part cannot be used, there are too few, or the directory belongs to another study,
        or another process of the team has died.
      FloatingPointError: if a loss is not finite.
    """
    return next(run_all({output: spec}, splits, stage, team))


def run_all(
    specs: Mapping[pathlib.Path, Spec], splits: dict[str, Splits], stage: Stage, team: Team | None = None
) -> Iterator[tuple[dict[str, Any], list[Group]]]:
    """Runs or continues several studies of the same parts, which share features and compiled programs.

    Args:
      specs: by directory; they differ in config and recipe at most.
      splits: the parts of each category.
      stage: how to show progress.
      team: see `run`.

    Yields:
      What `run` returns, study by study.

    Raises:
      ValueError: if specs differ in more.
      InputError: see `run`; before anything is computed.
      FloatingPointError: if a loss is not finite.
    """
    first = next(iter(specs.values()))
    drawn = gathering.draw(first, splits, stage)
    settings = {output: drawn.describe(spec) for output, spec in specs.items()}
    free = dataclasses.asdict(first.config) | dataclasses.asdict(first.recipe)
    shared = {name: value for name, value in drawn.describe(first).items() if name not in free}
    for output, described in settings.items():
        other = [name for name, value in shared.items() if described[name] != value]
        if other:
            raise ValueError(f"studies that run together differ in {', '.join(other)}")
        archive.check(output, described)
    gathered = gathering.gather(list(specs.values()), drawn, stage)
    for output, spec in specs.items():
        with Stopwatch() as watch:
            mine = gathered.stored_in(spec.config.precision)
            method = METHODS[spec.method](spec.config)
            found = groups.run_all(Work(spec, method, settings[output], mine, output, stage, watch, team or Team()))
        yield _results(spec, settings[output], gathered, found), found


def _results(spec: Spec, settings: dict[str, Any], gathered: Gathered, done: list[Group]) -> dict[str, Any]:
    """The content of `results.json`."""
    drawn = gathered.drawn
    measured = {run: found for group in done for run, found in zip(group.runs, group.evaluations, strict=True)}

    def per_category(value: Callable[[list[Run]], Any]) -> dict[str, dict[str, Any]]:
        return {
            str(shots): {c: value([r for r in measured if (r.category, r.shots) == (c, shots)]) for c in drawn.splits}
            for shots in spec.shots
        }

    def table(select: Callable[[list[record.Measured]], Any]) -> dict[str, dict[str, Any]]:
        return per_category(lambda runs: select([measured[run] for run in runs]))

    headline = table(record.headline)
    ids = {category: [record.id for record in split.train] for category, split in drawn.splits.items()}
    return {
        "schema": 1,
        "dataset": spec.dataset,
        "method": spec.method,
        "encoder": spec.encoder.name,
        "settings": settings,
        "results": headline,
        "more_results": table(record.more),
        "by_defect": table(record.by_defect),
        "by_size": table(record.by_size),
        "undefined": record.undefined({run.category: found for run, found in measured.items()}),
        "mean": {shots: record.means(values) for shots, values in headline.items()},
        "episodes": per_category(lambda runs: [[ids[run.category][i] for i in drawn.episodes[run]] for run in runs]),
        "timings": _timings(gathered.seconds, done),
        "versions": record.versions(),
        "notes": [note for note in (spec.encoder.note, *gathered.notes) if note],
    }


def _timings(gathered: dict[str, float], done: list[Group]) -> dict[str, float]:
    """Seconds by name; what groups took counts wherever they were trained, the rest is this process's."""
    seconds = {name: gathered.get(name, 0.0) for name in ("normals_s", "features_s")}
    seconds |= {name: sum(group.timings.get(name, 0.0) for group in done) for name in _OF_GROUPS}
    return {name: round(value, 3) for name, value in {**seconds, "total_s": sum(seconds.values())}.items()}
