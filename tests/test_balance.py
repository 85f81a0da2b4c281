"""Encoders side by side with equal weight, for methods that know nothing of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import balance, patchcore, pirn
from pirn_jax.methods.base import Features

WIDTHS, SHOTS = (5, 3), 3
BOTH = ("rgb", "normals")


def features(seed: int, samples: int, factors=(1.0, 1.0)) -> Features:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(samples, 2, 1, 9, 8)).astype(np.float32)
    values[..., :5] *= factors[0]
    values[..., 5:] *= factors[1]
    mask = np.ones((samples, 9), bool)
    mask[:, :3] = False
    return Features(jnp.asarray(values), jnp.asarray(mask))


def test_each_encoders_vectors_have_unit_mean_square_over_the_part():
    support = features(0, SHOTS, (7.0, 0.1))
    scale = balance.mean_length(support, WIDTHS)
    scaled = np.asarray(support.values / scale[:, None, None])[:, :, 0, 3:]
    for part in np.split(scaled, [5], axis=-1):
        np.testing.assert_allclose(np.square(part).sum(-1).mean((0, 2)), 1.0, rtol=1e-5)


METHODS = {
    "patchcore": patchcore.build(patchcore.Config(), BOTH),
    "pirn": pirn.build(pirn.Config(num_prototypes=3, num_layers=1, heads=2), BOTH),
}


def program(method):
    """From good parts and a part: its distances where it is shown, and the loss if there is one, before training."""

    def results(support: Features, part: Features):
        learned, fixed = method.start(jax.random.key(0), support)
        distances = method.score(method.finalize(learned, fixed, support), part)[:, 3:].ravel()
        if method.loss is None:
            return distances
        return jnp.append(distances, method.loss(learned, fixed, support, jax.random.key(0))[0])

    return jax.jit(results)


@pytest.mark.parametrize("name", METHODS)
def test_the_units_of_an_encoder_do_not_matter(name):
    balanced, alone = program(balance.balanced(METHODS[name], WIDTHS)), program(METHODS[name])
    plain, scaled = (
        (features(0, SHOTS, factors), jax.tree.map(lambda x: x[0], features(1, 1, factors)))
        for factors in ((1.0, 1.0), (30.0, 0.02))
    )
    np.testing.assert_allclose(balanced(*scaled), balanced(*plain), rtol=2e-3, atol=1e-5)
    assert np.abs(alone(*scaled) - alone(*plain)).max() > 1e-2


def test_equal_methods_and_widths_share_functions():
    one, other = (balance.balanced(patchcore.build(patchcore.Config(), BOTH), WIDTHS) for _ in range(2))
    assert one.score is other.score
    assert one.finalize is other.finalize
