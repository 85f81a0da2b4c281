"""Groups of runs and their order: each is trained, scored, evaluated and saved, by one of the processes."""

import dataclasses
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from pirn_jax import scoring
from pirn_jax.data.problems import InputError
from pirn_jax.methods.base import Method
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study import storage, symptoms
from pirn_jax.study.data import StudyData
from pirn_jax.study.evaluate_group import evaluate_group
from pirn_jax.study.memory import require
from pirn_jax.study.score_group import score_group
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage, hidden
from pirn_jax.study.streaming import Reader
from pirn_jax.study.train_group import Group, host_params, train_group, validate_group
from pirn_jax.training import cluster, parallel, sizes, windows
from pirn_jax.training.episodes import ALL, Run, Shots, count_steps
from pirn_jax.training.programs import Programs, compile_programs

_WATCHED_STEPS = 20
"""Steps from which on a training is long enough to do harm (our choice)."""


class FinishedGroup(NamedTuple):
    """Results of a group.

    Attributes:
      runs: its runs.
      distances: each run's patch distances of its category's test samples, (samples, k, n).
      scales: by which each run's maps are divided before they are fused, (k,).
      evaluations: one dictionary a run, see `Evaluation.as_json`.
      trainings: what each run's training came to, see `symptoms.summarise`.
      timings: seconds by name, of the process that trained it.
      validation: each run's loss on the validation split; empty where it is not taken or there is none.
    """

    runs: list[Run]
    distances: list[np.ndarray]
    scales: list[np.ndarray]
    evaluations: list[dict[str, Any]]
    trainings: list[symptoms.Training]
    timings: dict[str, float]
    validation: list[float]


def by_run(groups: Iterable[FinishedGroup]) -> dict[Run, tuple[np.ndarray, np.ndarray]]:
    """Patch distances and scales of each run."""
    return {
        run: (distances, scales)
        for group in groups
        for run, distances, scales in zip(group.runs, group.distances, group.scales, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A study's data and settings, ready for its groups.

    Attributes:
      spec: the study.
      method: its method.
      settings: stored with its results.
      data: samples and features.
      output: directory that finished groups are kept in.
      stage: shows progress.
      watch: measures time by stage.
      checkpoint_seconds: least time between two checkpoints within a group.
    """

    spec: Spec
    method: Method
    settings: dict[str, Any]
    data: StudyData
    output: pathlib.Path
    stage: Stage
    watch: Stopwatch
    checkpoint_seconds: float


class _Programs(NamedTuple):
    """Compiled programs of all groups: numbers of shots whose calls have one shape share them."""

    train: Programs
    score: parallel.Program
    support: parallel.Program | None


def run_all(schedule: Schedule) -> list[FinishedGroup]:
    """All groups of a study: finished ones are loaded, each process trains its turns and waits for the others'.

    Raises:
      InputError: if another process has ended, or a group cannot be saved.
      FloatingPointError: if a loss is not finite.
    """
    method, calibrated = schedule.method, schedule.spec.fusion != "sum"
    support = scoring.compile_support_program(method) if calibrated else None
    programs = _Programs(compile_programs(method), scoring.compile_program(method), support)
    index, count = cluster.process()
    groups = [group for shots in schedule.spec.shots for group in _cut(schedule, programs.train, shots, count)]
    finished = {group.name: found for group in groups[index::count] if (found := _load(schedule, group))}
    unfinished = [group for group in groups[index::count] if group.name not in finished]
    _require_memory(schedule, programs.train, [group for group in unfinished if group.runs[0].shots == ALL])
    finished |= {group.name: _run(schedule, programs, group) for group in unfinished}
    cluster.barrier("groups")
    if index == 0:
        storage.remove_groups(schedule.output, but={group.name for group in groups})
    for group in groups:
        if group.name not in finished:
            loaded = _load(schedule, group)
            if loaded is None:
                raise InputError(
                    f"{schedule.output}: group {group.name} of another process is not there; give all processes the "
                    "same --output_dir on a shared disk, and equal devices"
                )
            finished[group.name] = loaded
    return [finished[group.name] for group in groups]


def _cut(schedule: Schedule, programs: Programs, shots: Shots, processes: int) -> list[Group]:
    """Groups of the runs of a number of shots; of runs that take every good part, groups of one category each."""
    data, processes = schedule.data, -(-processes // len(schedule.spec.shots))
    runs = [run for run in data.drawn.episodes if run.shots == shots]
    if shots == ALL:
        return _cut_all(schedule, programs, runs, processes)
    taken = sum(leaf.nbytes for leaf in jax.tree.leaves(data.test.features))
    size = sizes.runs_at_once(
        len(runs),
        lambda some: sizes.bytes_needed(programs, some, data.train.features, int(shots), schedule.spec.recipe),
        taken=taken,
        processes=processes,
    )
    return [
        Group(
            f"{shots}-{start // size:03d}",
            some,
            size,
            f"{shots} shots, runs {start + 1}-{start + len(some)} of {len(runs)}",
        )
        for start in range(0, len(runs), size)
        for some in [runs[start : start + size]]
    ]


def _cut_all(schedule: Schedule, programs: Programs, runs: list[Run], processes: int) -> list[Group]:
    """A category's runs share its features, which are read as steps need them; no other category's are."""
    episodes = schedule.data.drawn.episodes
    largest = max(runs, key=lambda run: len(episodes[run]))
    size = sizes.runs_at_once(
        schedule.spec.seeds,
        lambda some: _bytes_needed(schedule, programs, largest, some),
        processes=-(-processes // len(schedule.data.drawn.splits)),
    )
    return [
        Group(f"{ALL}-{number:03d}", some, size, f"all {len(episodes[some[0]])} good parts of {some[0].category}{of}")
        for number, (some, of) in enumerate(_by_category(runs, size))
    ]


def _bytes_needed(schedule: Schedule, programs: Programs, run: Run, count: int) -> int:
    """Bytes that each device needs for so many runs like this one, which takes every good part."""
    parts, support = len(schedule.data.drawn.episodes[run]), schedule.spec.support(ALL)
    source = _of(schedule, run).train.features
    return sizes.bytes_needed(programs, count, source, parts, schedule.spec.recipe, support)


def _require_memory(schedule: Schedule, programs: Programs, groups: list[Group]) -> None:
    """Raises InputError, with the flags that help, if the largest of some groups exceeds the memory.

    Each is of runs that take every good part of a category.
    """
    if not groups:
        return
    episodes = schedule.data.drawn.episodes
    largest = max(groups, key=lambda group: len(episodes[group.runs[0]]))
    run, source = largest.runs[0], _of(schedule, largest.runs[0]).train.features
    assert isinstance(source, Reader)
    parts = len(episodes[run])
    host = min(parts, source.room) * source.sample_bytes + 2 * windows.WINDOW_BYTES
    device = _bytes_needed(schedule, programs, run, largest.size) if jax.default_backend() == "cpu" else 0
    require(
        host + device,
        f"{largest.size} runs on {parts} parts of {run.category}, each {source.sample_bytes / 2**20:.2f} MiB,",
        "lower --feature_memory, --seeds, --batch_size or --grid"
        + (", or --support_parts" if schedule.spec.support(ALL) is None else ""),
    )


def _by_category(runs: list[Run], size: int) -> Iterator[tuple[list[Run], str]]:
    """Runs of one category each, so many at most, and which of the category's they are."""
    for category in dict.fromkeys(run.category for run in runs):
        own = [run for run in runs if run.category == category]
        for start in range(0, len(own), size):
            some = own[start : start + size]
            yield some, f", runs {start + 1}-{start + len(some)} of {len(own)}" if len(own) > size else ""


def _of(schedule: Schedule, run: Run) -> StudyData:
    return schedule.data.of(run, schedule.method.precision)


def _load(schedule: Schedule, group: Group) -> FinishedGroup | None:
    """The group if it is finished."""
    stored = storage.load_group(schedule.output, group.name, schedule.settings)
    if stored is None or stored[1]["runs"] != [list(run) for run in group.runs]:
        return None
    arrays, facts = stored
    distances = schedule.data.unpad(group.runs, arrays["distances"])
    told = facts["evaluations"], facts.get("trainings", [{}] * len(group.runs)), facts["timings"]
    return FinishedGroup(group.runs, distances, list(arrays["scales"]), *told, facts.get("validation", []))


def _run(schedule: Schedule, programs: _Programs, group: Group) -> FinishedGroup:
    """Trains, scores, evaluates and saves a group."""
    spec, stage, watch = schedule.spec, schedule.stage, schedule.watch
    data, support = _of(schedule, group.runs[0]), spec.support(group.runs[0].shots)
    before = dict(watch.seconds)
    settings = {**schedule.settings, "runs": group.runs}
    checkpoint = storage.GroupCheckpoint(schedule.output, group.name, settings, schedule.checkpoint_seconds)
    with watch.stage("symptoms_s"):
        untrained = _evaluate_untrained(schedule, programs, group, data)
    with watch.stage("train_s"):
        trained, history = train_group(group, data, programs.train, spec.recipe, stage, checkpoint, support)
        validation = validate_group(group, trained, data, schedule.method)
    with watch.stage("score_s"):
        scored = score_group(group, trained, data, programs.score, programs.support, spec.maps, stage, support)
    distances = data.unpad(group.runs, scored.distances)
    with watch.stage("metrics_s"):
        evaluations = evaluate_group(
            group.runs, group.title, distances, list(scored.scales), data, spec.maps, spec.metrics, stage
        )
    trained_aurocs = [found["all"]["values"]["image_auroc"] for found in evaluations]
    trainings = symptoms.summarise(history, trained_aurocs, untrained)
    timings = {key: value - before.get(key, 0.0) for key, value in watch.seconds.items()}
    facts = {
        "runs": group.runs,
        "metrics": [found["all"]["values"] for found in evaluations],
        "evaluations": evaluations,
        "trainings": trainings,
        "timings": timings,
        "validation": validation,
    }
    history = {f"train_{name}": values for name, values in history.items()}
    arrays = {"distances": scored.distances, "scales": scored.scales, **history}
    storage.save_group(schedule.output, group.name, schedule.settings, host_params(group, trained), arrays, facts)
    checkpoint.remove()
    return FinishedGroup(group.runs, distances, list(scored.scales), evaluations, trainings, timings, validation)


def _evaluate_untrained(
    schedule: Schedule, programs: _Programs, group: Group, data: StudyData
) -> dict[int, float | None]:
    """Image AUROC before a long training of the first runs of a number of shots, by index; else nothing.

    They are as many as one call of the programs takes, which then compiles nothing of its own.
    """
    spec, shots, episodes = schedule.spec, group.runs[0].shots, data.drawn.episodes
    first, support = next(run for run in episodes if run.shots == shots), spec.support(shots)
    if spec.recipe is None or group.runs[0] != first:
        return {}
    if count_steps(len(episodes[first]), spec.recipe.epochs, spec.recipe.batch_size) < _WATCHED_STEPS:
        return {}
    size = parallel.shares(group.size)[0].stop
    runs = group.runs[:size]
    before = group._replace(runs=runs, size=size)
    with schedule.stage(f"detection untrained {group.title}", 1) as advance:
        recipe = dataclasses.replace(spec.recipe, epochs=0)
        trained, _ = train_group(before, data, programs.train, recipe, hidden, support=support)
        scored = score_group(before, trained, data, programs.score, programs.support, spec.maps, hidden, support)
        distances, scales = data.unpad(runs, scored.distances), list(scored.scales)
        found = evaluate_group(runs, group.title, distances, scales, data, spec.maps, spec.metrics, hidden)
        advance(1)
    return {i: of_run["all"]["values"]["image_auroc"] for i, of_run in enumerate(found)}
