"""Inspection by nearest-neighbour patches, and what is reported of it."""

import numpy as np
import pytest

from experiments import nearest
from pirn_jax.data import mvtec3d, procedural


@pytest.mark.parametrize("standardise", [False, True])
def test_a_patch_is_as_far_as_its_nearest_neighbour(standardise):
    rng = np.random.default_rng(0)
    memory, tokens = rng.standard_normal((3, 4, 5)), rng.standard_normal((2, 4, 5))
    tokens[1, 2] = 7 * memory[2, 3]
    flat = memory.reshape(-1, 5)
    mean, deviation = (flat.mean(0), flat.std(0) + 1e-6) if standardise else (0.0, 1.0)

    def unit(x):
        x = (x - mean) / deviation
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    expected = 1 - np.einsum("pnc,kc->pnk", unit(tokens), unit(flat)).max(-1)
    found = nearest.nearest(memory.astype(np.float32), tokens.astype(np.float32), standardise)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert standardise or found[1, 2] < 1e-6


def test_colour_defects_are_found_by_colours_alone(tmp_path):
    counts = procedural.Counts(train=4, validation=0, good=4, per_defect=4)
    procedural.write(tmp_path, categories=("coaster",), counts=counts)
    splits = mvtec3d.read(tmp_path, ["coaster"])["coaster"]

    same = np.random.default_rng(0).random((16, 16, 3))  # in place of every normal map

    def colours(inputs):
        patches = 1 + inputs.reshape(*inputs.shape[:2], 16, 14, 16, 14, 3).mean((3, 5), dtype=np.float32)
        patches[:, 1] = same
        return patches.reshape(*patches.shape[:2], 256, 3)

    def scaled(inputs):
        return colours(inputs) * np.array([1, 10, 100], np.float32)

    extractors = {
        "colours": nearest.Extractor(colours),
        "standardised": nearest.Extractor(colours, standardise=True),
        "scaled": nearest.Extractor(scaled, standardise=True),
    }
    judged = nearest.judge(extractors, "coaster", splits, 3, 2, lambda parts: None)
    for found in judged.values():
        assert set(found) == set(nearest.COLUMNS)
        assert all(len(values) == 2 and np.all(np.array(values) <= 1) for values in found.values())
    assert np.mean(judged["colours"]["colour"]) > np.mean(judged["colours"]["geometry"])
    for column in nearest.COLUMNS:
        np.testing.assert_allclose(judged["scaled"][column], judged["standardised"][column], atol=1e-3)
    assert judged["standardised"] != judged["colours"]
