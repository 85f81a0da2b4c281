"""Description of a model in a few lines."""

import pathlib
from typing import Any

import numpy as np

from pirn_jax.inspection import bundle, thresholds


def text(path: pathlib.Path, settings: dict[str, Any], good: bundle.Good) -> str:
    """Description of a model and of its promise, for the terminal."""
    limit, count = thresholds.threshold(good.scores, settings["false_alarms"]), len(good.parts)
    lines = [
        f"{path}: {settings['method']} on {settings['encoder']}, {count} good part{'s' if count > 1 else ''} of "
        f"{good.size[1]}x{good.size[0]} pixels, {settings['members']} members, pirn_jax {settings['pirn_jax']}"
    ]
    if len(good.scores):
        low, middle, high = np.quantile(good.scores, [0, 0.5, 1])
        lines.append(f"left-out good parts score {low:.3f} to {high:.3f}, median {middle:.3f}")
    else:
        lines.append("of one or two parts none can be left out: give three or more for a threshold")
    shown = "none" if limit.kind == "none" else f"{limit.value:.4g}"
    return "\n".join([*lines, f"threshold {shown}: {limit.text}"])
