"""Metrics of studies of the built-in parts, by the modality that defects show in."""

from typing import Any

import numpy as np

from pirn_jax.data import procedural
from pirn_jax.metrics import exact

COLUMNS = (*exact.NAMES, "geometry", "colour", "both", "combination")
"""Metrics of all defects, and the image AUROC of each kind by the modality that it shows in."""


def table(results: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Values of every seed by category and column, from the content of a study's `results.json`."""
    (shots,) = results["results"]
    found = {}
    for category, metrics in results["results"][shots].items():
        kinds: dict[str, list[list[float]]] = {}
        for name, group in results["by_defect"][shots][category].items():
            modality = procedural.DEFECTS[category][name].modality
            kinds.setdefault(modality, []).append(group["metrics"]["image_auroc"])
        by_modality = {modality: np.mean(values, axis=0).tolist() for modality, values in kinds.items()}
        found[category] = {column: {**metrics, **by_modality}[column] for column in COLUMNS}
    return found
