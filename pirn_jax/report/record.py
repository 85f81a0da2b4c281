"""Parts of `results.json` that summarise or identify a study."""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pirn_jax import __version__
from pirn_jax.protocol import metrics

Measured = Mapping[str, Any]
"""What was found in a run, the dictionary of `evaluation.Evaluation.as_json`."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "orbax-checkpoint", "numpy", "scipy", "pillow")


def headline(runs: Sequence[Measured]) -> dict[str, list[float | None]]:
    """Headline metrics of a category, one value a run."""
    return {name: [run["all"]["values"][name] for run in runs] for name in metrics.NAMES}


def more(runs: Sequence[Measured]) -> dict[str, list[float | None]]:
    """The other metrics."""
    return {
        name: values for name, values in _per_run([run["all"] for run in runs]).items() if name not in metrics.NAMES
    }


def by_defect(runs: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Of each kind of defect how many parts and regions there are, and its metrics, one value a run."""
    return _groups([run["defects"] for run in runs])


def by_size(runs: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """The same of regions of each size; empty where the category has no pixel metrics."""
    return _groups([run["sizes"] for run in runs])


def undefined(categories: Mapping[str, Measured]) -> dict[str, dict[str, str]]:
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
    return {name: _mean([values[name] for values in categories.values()]) for name in metrics.NAMES}


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
