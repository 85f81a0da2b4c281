"""Studies behind rows of tables: each is run once, beside those that it shares features and programs with."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pirn_jax import methods
from pirn_jax.data.sample import Splits
from pirn_jax.encoders import pretrained
from pirn_jax.encoders.pretrained import Encoder
from pirn_jax.report import tables
from pirn_jax.study import results, run, storage
from pirn_jax.study.groups import FinishedGroup
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage
from pirn_jax.training.episodes import ALL


class Study(NamedTuple):
    """A study, as a row of a table names it.

    Attributes:
      shots: a number of good parts, or `ALL`.
      method: name.
      changes: of the config and recipe of its preset, values by name.
      encoder: name; empty for the command's.
    """

    shots: int | str
    method: str = "pirn"
    changes: tuple[tuple[str, Any], ...] = ()
    encoder: str = ""

    @property
    def name(self) -> str:
        """Name of its folder, but for the number of seeds."""
        parts = [self.method, f"{self.shots}shots", *(f"{name}={value}" for name, value in self.changes)]
        return "-".join([*parts, *filter(None, [self.encoder])])


def changed(shots: int | str, **changes: Any) -> Study:
    """A study of PIRN with some settings changed."""
    return Study(shots, changes=tuple(changes.items()))


class Done(NamedTuple):
    """A finished study.

    Attributes:
      spec: its settings.
      directory: where it is kept.
      content: of its `results.json`.
      groups: its runs.
    """

    spec: Spec
    directory: pathlib.Path
    content: dict[str, Any]
    groups: list[FinishedGroup]


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings that all studies of a command have in common.

    Attributes:
      preset: of PIRN, "default" or "paper"; other methods take their default.
      config: changes to PIRN's config that hold for all rows.
      recipe: changes to every recipe.
      encoder: frozen encoder of studies that name none.
      seeds: draws of the good parts.
      spec: further arguments of `Spec`.
      splits: samples of each category.
      output: directory of the command.
      stage: shows progress.
    """

    preset: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    encoder: Encoder
    seeds: int
    spec: Mapping[str, Any]
    splits: dict[str, Splits]
    output: pathlib.Path
    stage: Stage


def all_shots(few: Sequence[int], setting: Setting) -> tuple[int | str, list[str]]:
    """`ALL`, or the one of the few shots that is every good part and trains alike; and what there is to say of it."""
    counts = {len(of.train) for of in setting.splits.values()}
    for count in few:
        if counts == {count} and setting.preset == "default":
            return count, [f"each category has {count} good parts, so all shots are these"]
    return ALL, []


def refusal(study: Study, splits: Mapping[str, Splits]) -> str:
    """A sentence where there are too few samples for a study; else empty."""
    if study.shots == ALL:
        return ""
    fewest = min(splits, key=lambda category: len(splits[category].train))
    count = len(splits[fewest].train)
    return f"{fewest} has {count} good parts, fewer than {study.shots}" if count < int(study.shots) else ""


def spec_of(study: Study, setting: Setting) -> Spec:
    """The study in full.

    Raises:
      ValueError: if its encoder is not there, or settings do not go together.
    """
    pirn, preset = study.method == "pirn", "default"
    if pirn:
        preset = "paper_all" if (setting.preset, study.shots) == ("paper", ALL) else setting.preset
    config, recipe, _ = methods.choose(study.method, preset)
    own = dict(study.changes)
    if recipe is not None:
        descent = {field.name: own.pop(field.name) for field in dataclasses.fields(recipe) if field.name in own}
        recipe = dataclasses.replace(recipe, **{**setting.recipe, **descent})
    config = dataclasses.replace(config, **{**(setting.config if pirn else {}), **own})
    encoder = pretrained.load(study.encoder) if study.encoder else setting.encoder
    given: dict[str, Any] = {**setting.spec, "preset": preset, "shots": (study.shots,)}
    if study.encoder:
        given["grid"] = 0
    return Spec(seeds=setting.seeds, method=study.method, config=config, recipe=recipe, encoder=encoder, **given)


def run_all(studies: Iterable[Study], setting: Setting) -> dict[Study, Done | str]:
    """Runs or continues studies; a sentence for those that cannot be run."""
    found: dict[Study, Done | str] = {}
    together: dict[tuple[Any, ...], dict[Study, Spec]] = {}
    for study in dict.fromkeys(studies):
        try:
            found[study] = refusal(study, setting.splits)
            if not found[study]:
                together.setdefault(study._replace(changes=()), {})[study] = spec_of(study, setting)
        except ValueError as error:
            found[study] = str(error)
    for group in together.values():
        places = {setting.output / f"{study.name}-{setting.seeds}seeds": spec for study, spec in group.items()}
        finished = run.run_all(places, setting.splits, setting.stage)
        for (study, spec), directory, (content, groups) in zip(group.items(), places, finished, strict=True):
            storage.write_json(directory / results.RESULTS, content)
            tables.write_csv(content, directory / "results.csv")
            found[study] = Done(spec, directory, content, groups)
    return found
