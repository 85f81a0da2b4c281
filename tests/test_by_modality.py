"""Metrics by the modality that defects show in."""

import numpy as np
import pytest

from experiments import by_modality
from pirn_jax.data import procedural


def test_defects_are_averaged_by_the_modality_that_they_show_in():
    rng = np.random.default_rng(0)
    kinds = procedural.DEFECTS["coaster"]
    image = {name: rng.random(2).tolist() for name in kinds}
    metrics = {name: rng.random(2).tolist() for name in ("image_auroc", "pixel_auroc", "aupro_30")}
    results = {
        "results": {"10": {"coaster": metrics}},
        "by_defect": {"10": {"coaster": {name: {"metrics": {"image_auroc": image[name]}} for name in kinds}}},
    }
    found = by_modality.table(results)["coaster"]
    assert list(found) == list(by_modality.COLUMNS)
    assert found["pixel_auroc"] == metrics["pixel_auroc"]
    for modality in ("geometry", "colour", "both", "combination"):
        mine = [image[name] for name, kind in kinds.items() if kind.modality == modality]
        assert mine
        assert found[modality] == pytest.approx(np.mean(mine, axis=0))
