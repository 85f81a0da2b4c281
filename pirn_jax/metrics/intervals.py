"""Intervals of AUROCs of few test parts."""

import math

import scipy.optimize
import scipy.stats

CONFIDENCE = 0.95


def auroc_interval(auroc: float, defective: int, good: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of an AUROC (Newcombe, 2006, method 5), which is no point where the AUROC is 1.

    The AUROCs `t` from which the one found is no more than `z` standard errors away. With `m` defective and `n` good
    parts and `N = (m + n) / 2`, the variance is that of Hanley and McNeil (1982), both numbers evened out:
    `t (1 - t) (2 N - 1 - 3 (N - 1) / ((2 - t) (1 + t))) / (m n)`.

    Args:
      auroc: in [0, 1].
      defective: number of defective parts, at least 1.
      good: number of good parts, at least 1.
      confidence: of the interval, two-sided.
    """
    z, mean = float(scipy.stats.norm.ppf(0.5 + confidence / 2)), (defective + good) / 2

    def lower(found: float) -> float:
        if found <= 0:
            return 0.0

        def missing(t: float) -> float:
            shape = 2 * mean - 1 - 3 * (mean - 1) / ((2 - t) * (1 + t))
            return found - t - z * math.sqrt(t * (1 - t) * shape / (defective * good))

        return float(scipy.optimize.root_scalar(missing, bracket=(0.0, found * (1 - 1e-9))).root)

    return lower(auroc), 1.0 - lower(1.0 - auroc)
