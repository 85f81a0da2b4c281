"""Eq. 4's attention against PyTorch."""

import jax
import numpy as np
import pytest

from pirn_jax.pirn import communication

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

WIDTH = 32


@pytest.mark.parametrize(("patches", "prototypes"), [(49, 10), (7, 1)])
def test_the_attention_of_equation_4_agrees(patches, prototypes):
    rng = np.random.default_rng(1)
    z, p = (rng.normal(size=(count, WIDTH)).astype(np.float32) for count in (patches, prototypes))
    weights = {
        name: rng.normal(scale=WIDTH**-0.5, size=(WIDTH, WIDTH)).astype(np.float32)
        for name in ("query", "key", "value")
    }
    query, key, value = (
        torch.from_numpy(a @ weights[name])[None] for a, name in ((z, "query"), (p, "key"), (p, "value"))
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)[0].numpy()
    found = jax.jit(communication.cross_attention)(weights, z, p)
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()
