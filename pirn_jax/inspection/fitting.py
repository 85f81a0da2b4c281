"""Models of good parts alone: trained on all of them, and judged by parts that each was trained without.

`n` good parts, `e` members of the ensemble, `k` maps of the method, `f` parts left out at once. Models learn from all
views of a part, one behind the other in what is placed, and are judged by the part as it was seen.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from pirn_jax import scoring
from pirn_jax.methods import base
from pirn_jax.methods.base import Method
from pirn_jax.study.placement import Placed
from pirn_jax.study.spec import Spec
from pirn_jax.study.stages import Stage
from pirn_jax.training import parallel, sizes, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

LEFT_OUT_ONE_BY_ONE = 30
"""Up to so many good parts each is left out alone; of more, a tenth at a time (our choice)."""


class Fitted(NamedTuple):
    """An ensemble, and what the good parts score under ensembles that did not learn from them.

    Attributes:
      params: parameters of the members, that axis first.
      scales: by which their maps are divided.
      scores: image score of each good part; none where there are fewer than three.
      highest: maximum of each one's map; likewise.
    """

    params: Any
    scales: Float[np.ndarray, "e k"]
    scores: Float[np.ndarray, " n"]
    highest: Float[np.ndarray, " n"]


class _Runs(NamedTuple):
    """Runs with equal numbers of good parts.

    Attributes:
      runs: the runs.
      chosen: good parts that each learns from.
      left: good parts that each is judged by.
    """

    runs: list[Run]
    chosen: Int[np.ndarray, "r s"]
    left: Int[np.ndarray, "r f"]


def folds(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of parts to learn from and parts that are left out, equally many in all pairs, from 0.

    Each part is left out; where parts cannot be cut evenly some are left out twice. Of two parts none is left out: what
    is learned from a single one has no scale, and its scores are in other units than those of both.
    """
    size = 1 if count <= LEFT_OUT_ONE_BY_ONE else -(-count // 10)
    starts = [min(start, count - size) for start in range(0, count, size)] if count > 2 else []
    parts = np.arange(count)
    return [(np.delete(parts, slice(s, s + size)), parts[s : s + size]) for s in starts]


def fit(spec: Spec, placed: Placed, images: Sequence[tuple[int, int]], members: int, stage: Stage) -> Fitted:
    """Trains an ensemble on all good parts, and one for each part that is left out; these train together.

    Args:
      spec: method, encoder and how scores are taken; its shots and seeds are not used.
      placed: features of the good parts in all their views, as those of a single category.
      images: height and width of each one's.
      members: of the ensemble, differing in their seed.
      stage: shows progress.
    """
    method, maps, count = spec.build(), spec.maps, len(images)
    pairs = folds(count)
    params, scales = _ensemble(spec, method, placed, np.arange(count), members, stage)
    values: list[list[np.ndarray]] = [[] for _ in images]
    if pairs:
        runs = [Run("parts", len(pairs[0][0]), seed) for _ in pairs for seed in range(members)]
        chosen, left = (np.repeat(np.stack(of), members, axis=0) for of in zip(*pairs, strict=True))
        for _, distances, scaled, parts in _trained(spec, method, placed, _Runs(runs, chosen, left), "left-out", stage):
            for of_run, scale, some in zip(distances, scaled, parts, strict=True):
                for one, part in zip(of_run, some, strict=True):
                    values[part].append(scoring.fuse(one, scale, maps.fusion, maps.judges))
    scores, highest = [], []
    for of_part, size in zip(values, images, strict=True):
        if of_part:
            # The mean of maps is the map of the mean.
            map_ = maps.upsample(np.mean(of_part, axis=0), size)
            scores.append(float(scoring.image_score(map_, spec.metrics.top_share)))
            highest.append(float(map_.max()))
    return Fitted(params, scales, np.array(scores), np.array(highest))


def _ensemble(
    spec: Spec, method: Method, placed: Placed, parts: np.ndarray, members: int, stage: Stage
) -> tuple[Any, Float[np.ndarray, "e k"]]:
    runs = [Run("parts", len(parts), seed) for seed in range(members)]
    chosen = np.repeat(parts[None], members, axis=0)
    found = list(_trained(spec, method, placed, _Runs(runs, chosen, chosen[:, :1]), "all", stage))
    stacked = [parallel.collect(trained.params) for trained, *_ in found]
    params = jax.tree.map(lambda *of: np.concatenate(of)[:members], *stacked)
    return params, np.concatenate([scales for _, _, scales, _ in found])


def _trained(
    spec: Spec, method: Method, placed: Placed, given: _Runs, title: str, stage: Stage
) -> Iterator[tuple[train.Trained, np.ndarray, np.ndarray, np.ndarray]]:
    """Group by group trained runs, distances (r, f, k, n) of the parts that they are judged by, scales, those parts."""
    programs = compile_programs(method)
    support = scoring.compile_support_program(method)
    judge = scoring.compile_support_program(method._replace(forget=base.forget_nothing))
    count, views, maps = len(given.runs), len(spec.views), spec.maps
    parts = views * given.chosen.shape[1]
    size = sizes.runs_at_once(count, lambda some: sizes.bytes_needed(programs, some, placed.whole, parts, spec.recipe))
    with stage(f"models of {title} parts", count) as advance:
        for start in range(0, count, size):
            index = np.minimum(np.arange(start, start + size), count - 1)
            some, kept = [given.runs[i] for i in index], min(size, count - start)
            category = np.zeros(size, int)
            chosen, left = views * given.chosen[index], views * given.left[index]
            learned = (chosen[..., None] + np.arange(views)).reshape(size, -1)
            trained, _ = train.train(programs, some, placed.whole, category, learned, spec.recipe)

            def distances(program: Any, parts: np.ndarray, trained=trained, category=category) -> np.ndarray:
                found = scoring.score_support(program, trained.params, placed.whole, category, parts)
                return placed.spread(found, category[:, None], parts)

            judged = distances(judge, left)
            scales = np.ones((size, len(method.maps)), np.float32)
            if spec.fusion != "sum":
                scales = np.stack([scoring.calibrate(of_run, maps) for of_run in distances(support, chosen)])
            advance(kept)
            yield trained, judged[:kept], scales[:kept], given.left[index][:kept]
