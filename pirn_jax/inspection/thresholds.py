"""Thresholds from scores of good parts that a model had not learned from.

If a new good part and these parts are exchangeable, its score is as likely to have any rank among theirs as any other.
That is exact for parts held out from one model; parts left out one by one come close to it, see docs/deploy.md.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

_TAIL = 0.5
"""Share of the scores that a tail is fitted to (our choice)."""

_FEWEST = 4
"""Fewest scores in a tail that two numbers can be fitted to (our choice)."""

_DRAWS, _LEVEL = 1000, 0.9
"""Bootstrap draws of a fitted threshold, and share of cases that intervals and bounds are to hold (our choice)."""


class Threshold(NamedTuple):
    """A score above which a part is called defective.

    Attributes:
      value: the score; infinite where nothing can be promised.
      false_alarms: wished share of good parts above it.
      kind: "guaranteed", "extrapolated", or "none".
      interval: of an extrapolated value, what 90 % of bootstrap draws lie between; else None. Of few parts it holds the
        true quantile less often than that.
      text: what it promises, in words.
    """

    value: float
    false_alarms: float
    kind: str
    interval: tuple[float, float] | None
    text: str

    def as_json(self) -> dict[str, Any]:
        """The same as a dictionary, an infinite value as None."""
        return {**self._asdict(), "value": self.value if math.isfinite(self.value) else None}


def p_values(scores: Float[np.ndarray, " m"], good: Float[np.ndarray, " n"]) -> Float[np.ndarray, " m"]:
    """Conformal p-values: the share of good parts, the new one counted among them, that score as high or higher.

    Of good parts exchangeable with those given, no more than a share `p` has a p-value up to `p` (Vovk et al., 2005).
    """
    reached = len(good) - np.searchsorted(np.sort(good), scores, side="left")
    return (1.0 + reached) / (len(good) + 1.0)


def threshold(good: Float[np.ndarray, " n"], false_alarms: float) -> Threshold:
    """Score that good parts exceed with a wished probability.

    Where the wish is at least 1/(n+1) it is the conformal quantile, the score of rank `ceil((1 - rate)(n + 1))`. Below,
    a generalised Pareto distribution is fitted to the upper half by probability-weighted moments (Hosking and Wallis,
    1987), and its quantile is an extrapolation.

    Args:
      good: scores of good parts that the model had not learned from.
      false_alarms: wished share of false alarms, above 0 and below 1.

    Raises:
      ValueError: if the wish is no share.
    """
    if not 0 < false_alarms < 1:
        raise ValueError(f"false alarms must be a share above 0 and below 1, not {false_alarms}")
    count, percent = len(good), f"{100 * false_alarms:g} %"
    if not count:
        return Threshold(math.inf, false_alarms, "none", None, "no good part was left out, so nothing is promised")
    # A wish of exactly 1/(n+1) must not fail by rounding.
    rank = math.ceil((1.0 - false_alarms) * (count + 1) - 1e-9)
    if rank <= count:
        worst = stats.beta.ppf(_LEVEL, count + 1 - rank, rank)
        text = (
            f"on average at most {percent} of good parts score higher, with 90 % confidence no more than "
            f"{100 * worst:.2g} %, if new ones are like the {count} that it was set with"
        )
        return Threshold(float(np.sort(good)[rank - 1]), false_alarms, "guaranteed", None, text)
    least = f"{100 / (count + 1):.2g} %"
    if round(_TAIL * count) < _FEWEST or np.ptp(good) == 0:
        text = f"{count} good parts promise nothing below {least} of false alarms; give more, or wish for less"
        return Threshold(math.inf, false_alarms, "none", None, text)
    rng = np.random.default_rng(0)
    drawn = [_tail(rng.choice(good, count), false_alarms) for _ in range(_DRAWS)]
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    text = (
        f"extrapolated: {count} good parts promise {least} of false alarms at best; a fitted tail puts {percent} here, "
        f"and 90 % of bootstrap draws between {low:.4g} and {high:.4g}"
    )
    value = max(_tail(good, false_alarms), float(good.max()))
    return Threshold(value, false_alarms, "extrapolated", (float(low), float(high)), text)


def _tail(scores: Float[np.ndarray, " n"], rate: float) -> float:
    """Quantile of the generalised Pareto distribution fitted to the excesses over the upper share of scores."""
    ordered = np.sort(scores)
    count = round(_TAIL * len(ordered))
    start = ordered[-count - 1]
    excess = ordered[-count:] - start
    mean = excess.mean()
    if mean == 0:
        return float(start)
    weighted = np.mean((count - 1 - np.arange(count)) / max(count - 1, 1) * excess)
    # Heavier tails than this have no variance, shorter ones end; few scores tell neither.
    shape = np.clip(2 - mean / max(mean - 2 * weighted, 1e-12), -0.5, 0.5)
    scale = mean * (1 - shape)
    times = count / len(ordered) / rate
    return float(start + scale * (np.log(times) if abs(shape) < 1e-6 else (times**shape - 1) / shape))
