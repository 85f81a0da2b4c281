"""Parts of `results.json` that summarise or identify a study."""

import importlib.metadata
import platform

import jax
import numpy as np

from pirn_jax import __version__
from pirn_jax.protocol import metrics

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "jraph", "orbax-checkpoint", "numpy", "scipy", "pillow")


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
