"""Realised false alarms of thresholds that are set from good parts alone, beside the wished ones.

    python -m experiments.false_alarms --parts=9,19 --false_alarms=.1 --draws=20

For each draw a model is fitted to some good built-in parts as `pirn fit` does; all other good parts of the category are
new to it. Rates are means over categories and draws; beside them stands what scores of the learned parts would give.
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from experiments import builtin_parts
from pirn_jax import cache, features, inputs, methods, scoring
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.encoders import pretrained
from pirn_jax.inspection import fitting, thresholds
from pirn_jax.inspection.fitting import Fitted
from pirn_jax.stopwatch import Stopwatch
from pirn_jax.study.placement import Placed, place_all
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import hidden
from pirn_jax.training import compiled, parallel
from tools import console

_METHOD = flags.DEFINE_enum("method", "gaussian", list(methods.METHODS), "Method.")
_PARTS = flags.DEFINE_list("parts", ["9", "19"], "Numbers of good parts to learn from.")
_WISH = flags.DEFINE_float("false_alarms", 0.1, "Wished share of good parts that are called defective.")
_DRAWS = flags.DEFINE_integer("draws", 20, "Draws for each category.", lower_bound=1)
_MEMBERS = flags.DEFINE_integer("members", 1, "Members of the ensemble.", lower_bound=1)
_GRID = flags.DEFINE_integer("grid", 16, "Patches along a side.", lower_bound=1)
_CATEGORIES = flags.DEFINE_list("categories", [], "Built-in categories; all by default.")


class Rates(NamedTuple):
    """False alarms of one draw.

    Attributes:
      honest: share of the new parts above the threshold of left-out scores.
      learned: share above the threshold of the scores of parts that were learned from.
    """

    honest: float
    learned: float


def _good(spec: Spec, category: str) -> tuple[Placed, list[tuple[int, int]]]:
    """Features and image sizes of all good parts of a category."""
    home, problems = cache.cache_directory(), Problems()
    split = builtin_parts.read(home, [category], 0)[category]
    records = [*split.train, *split.validation, *(record for record in split.test if not record.defective)]
    names = inputs.identify(records, spec.preparation, problems)
    problems.check()
    with console.stage(f"features of {category}", len(records)) as advance, Stopwatch() as watch:
        given = records, names, spec.encoder, spec.grid, spec.preparation, home
        found = features.extract(*given, watch, advance)
    return place_all(spec, found), [record.source.size() for record in records]


def _scores(spec: Spec, fitted: Fitted, placed: Placed, sizes: list[tuple[int, int]]) -> np.ndarray:
    """Image scores of all parts under an ensemble."""
    members = len(fitted.scales)
    program = scoring.compile_program(spec.build())
    pieces = [jax.tree.map(lambda leaf, share=share: leaf[share], fitted.params) for share in parallel.shares(members)]
    distances = scoring.score(program, pieces, placed.whole, np.zeros(members, int))
    spread = placed.spread(distances, np.zeros((members, 1), int), np.arange(len(sizes))[None])
    scores = []
    for i, size in enumerate(sizes):
        maps = [spec.maps.fused(of[i], scale, size) for of, scale in zip(spread, fitted.scales, strict=True)]
        scores.append(float(scoring.image_score(np.mean(maps, axis=0), spec.metrics.top_share)))
    return np.array(scores)


def _draw(spec: Spec, placed: Placed, sizes: list[tuple[int, int]], chosen: np.ndarray) -> Rates:
    kept = placed._replace(
        features=jax.tree.map(lambda leaf: leaf[:, chosen], placed.features), kept=placed.kept[:, chosen]
    )
    fitted = fitting.fit(spec, kept, [sizes[i] for i in chosen], _MEMBERS.value, hidden)
    scores = _scores(spec, fitted, placed, sizes)
    new = np.delete(scores, chosen)
    limits = [thresholds.threshold(of, _WISH.value).value for of in (fitted.scores, scores[chosen])]
    return Rates(*(float((new > limit).mean()) for limit in limits))


def _run() -> None:
    compiled.keep(cache.cache_directory() / "xla")
    if not all(text.isdecimal() and int(text) > 1 for text in _PARTS.value):
        raise InputError(f"--parts={','.join(_PARTS.value)}: give whole numbers above one")
    preset, encoder = methods.METHODS[_METHOD.value].presets["default"], pretrained.load(pretrained.DEFAULT)
    preparation, counts = builtin_parts.preparation(), [int(text) for text in _PARTS.value]
    study = "procedural", tuple(counts), 1, _METHOD.value, preset.config, preset.recipe, encoder, preparation
    spec, rng = Spec(*study, grid=_GRID.value), np.random.default_rng(0)
    found: dict[int, list[Rates]] = {count: [] for count in counts}
    for category in _CATEGORIES.value or builtin_parts.procedural.CATEGORIES:
        placed, sizes = _good(spec, category)
        if max(counts) >= len(sizes):
            raise InputError(f"--parts={max(counts)}: {category} has {len(sizes)} good parts, and some must be new")
        for count in counts:
            with console.stage(f"{category}, {count} parts", _DRAWS.value) as advance:
                for _ in range(_DRAWS.value):
                    found[count].append(_draw(spec, placed, sizes, np.sort(rng.permutation(len(sizes))[:count])))
                    advance(1)
    print(f"{_METHOD.value}, wished {_WISH.value:g}, {_DRAWS.value} draws of each category")
    print(f"{'good parts':>10s}  {'false alarms':>15s}  {'of learned scores':>17s}")
    for count, rates in found.items():
        honest, learned = (np.array(of) for of in zip(*rates, strict=True))
        error = honest.std() / np.sqrt(len(honest))
        print(f"{count:10d}  {honest.mean():.3f} ± {error:.3f}    {learned.mean():17.3f}")


def main(arguments: list[str]) -> None:
    """Prints the table."""
    console.run(_run, arguments, places="PIRN_CACHE", refusals=(ValueError,))


if __name__ == "__main__":
    app.run(main)
