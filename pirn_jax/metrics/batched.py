"""Batched evaluation: metrics of many runs on one category, whose maps are all in memory."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from pirn_jax import scoring
from pirn_jax.metrics import evaluation, peer, pixels, ranking
from pirn_jax.metrics.evaluation import Evaluation
from pirn_jax.metrics.exact import Ranks
from pirn_jax.metrics.ground_truth import GroundTruth
from pirn_jax.metrics.pixels import Pixels
from pirn_jax.metrics.regions import Regions


def flatten(maps: Iterable[Float[np.ndarray, "_ _"]], truth: GroundTruth) -> Float[np.ndarray, " pixels"]:
    """The float32 scores of all pixels of a run.

    Args:
      maps: one for each sample, of its image's size.
      truth: ground truth.

    Raises:
      ValueError: if a score is NaN or infinite.
    """
    flat = np.empty(truth.pixels, np.float32)
    for i, (place, scores) in enumerate(zip(truth.places, maps, strict=True)):
        bad = scores.size - np.count_nonzero(np.isfinite(scores))
        if bad:
            raise ValueError(f"map of test part {i}: {bad} of {scores.size} scores are NaN or infinite")
        flat[place] = truth.fit(i, scores).ravel()
    return flat


def evaluate(scores: Float[np.ndarray, "runs pixels"], truth: GroundTruth) -> list[Evaluation]:
    """Evaluates runs together; the scores of each are those of `flatten`."""

    def evaluate(exponent: float) -> list[Evaluation]:
        if not exponent:
            return _evaluate(scores, truth)
        divided = [[evaluation.normalise(of_run[place], exponent) for place in truth.places] for of_run in scores]
        return _evaluate(np.stack([np.concatenate(of_run) for of_run in divided]), truth)

    return evaluation.normalised(evaluate, truth.settings)


def _evaluate(scores: Float[np.ndarray, "runs pixels"], truth: GroundTruth) -> list[Evaluation]:
    regions, top = truth.regions, truth.settings.top_share
    ranked = [regions] * len(scores) if isinstance(regions, str) else _rank(scores, truth, regions)
    found = []
    for of_run, of_pixels in zip(scores, ranked, strict=True):
        images = [scoring.image_score(of_run[place].reshape(1, -1), top) for place in truth.places]
        found.append(evaluation.report(np.array(images), truth.defects, of_pixels, truth.settings))
    return found


def _rank(scores: Float[np.ndarray, "runs pixels"], truth: GroundTruth, regions: Regions) -> list[Pixels]:
    positives = scores[:, truth.defective]
    order = pixels.falling(positives)
    levels = np.take_along_axis(positives, order, axis=1)
    # Below all levels, defective pixels are not counted; leaving them out would take longer.
    good = scores.copy()
    good[:, truth.defective] = -np.inf
    hidden = positives.shape[1]
    negatives = truth.pixels - hidden
    of_peers = truth.settings.form == "peer"
    places = hidden + peer.positions(negatives) if of_peers else np.zeros(0, np.int64)
    above, reached, chosen = ranking.count(levels, good, places)
    ranks = (Ranks(*of_run, negatives) for of_run in zip(levels, above, reached, strict=True))
    return [
        Pixels(regions, of_run, regions.of_pixel[by_score], thresholds if of_peers else None)
        for of_run, by_score, thresholds in zip(ranks, order, chosen, strict=True)
    ]
