"""UIP-AD against a plain reference: network, losses, score; its switches, masks and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import base, losses, uip_ad
from pirn_jax.methods.uip_ad import Config, method
from tests import grouped
from tests import reference_uip_ad as reference
from tests.grouped import GROUPS, PARTS, C, N, parts, quick

BOTH = ("rgb", "depth")
SMALL = Config(num_prototypes=4, heads=2, mining_exponent=0.0, score="cosine")
SWITCHES = {
    "default": {},
    "paper's residual": {"residual": True, "num_blocks": 4, "mlp_ratio": 2.0},
    "A of Table 5": {"ucp": False},
    "B of Table 5": {"cpg": False},
    "separate": {"separate": True},
}


def started(config):
    return grouped.started(uip_ad.build(config, BOTH))


def sample(fixed, i):
    """Input of the network of a part."""
    return np.asarray(parts().values[i], np.float64) / np.asarray(fixed["scale"])[:, None, None, None]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SWITCHES)
def test_loss_and_score_are_the_reference(name):
    config = dataclasses.replace(SMALL, **SWITCHES[name])
    built, learned, fixed = started(config)
    loss, told = quick(built.loss)(learned, fixed, parts(), jax.random.key(0))
    expected = np.mean([reference.total_loss(learned, sample(fixed, i), config) for i in range(PARTS)])
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    maps, rebuilt, unified, p = reference.network(learned, sample(fixed, 0), config)
    distance = np.mean(
        [1 - np.sum(reference.unit(a) * reference.unit(b), -1) for a, b in zip(maps, rebuilt, strict=True)], axis=0
    )
    found = quick(built.score)((learned, fixed), base.take(parts(), 0))
    np.testing.assert_allclose(found[0], distance, atol=1e-7)
    literal = [
        reference.literal_losses(sample(fixed, i).mean(1), *reference.network(learned, sample(fixed, i), config)[2:])
        for i in range(PARTS)
    ]
    np.testing.assert_allclose(
        [told["assignment_literal"], told["entropy_literal"]], np.mean(literal, axis=0), atol=1e-6
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("score", ["cosine", "nearest", "both"])
def test_patches_off_the_part_change_nothing_on_it(score):
    mask = np.arange(N) < np.array([[6], [8]])
    built, learned, fixed = started(dataclasses.replace(SMALL, score=score, mining_exponent=3.0))

    def run(batch):
        params = built.finalize(learned, fixed, batch)
        return built.loss(learned, fixed, batch, jax.random.key(0))[0], built.score(params, base.take(batch, 1))[:, :8]

    batch, program = parts(mask), quick(run)
    spoiled = batch._replace(values=jnp.where(batch.mask[:, None, None, :, None], batch.values, 9.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), program(spoiled), program(batch))
    assert abs(program(spoiled._replace(mask=jnp.ones_like(batch.mask)))[0] - program(batch)[0]) > 1e-4


def test_every_weight_has_a_gradient():
    built, learned, fixed = started(dataclasses.replace(SMALL, mining_exponent=3.0))
    gradient = quick(jax.grad(lambda p: built.loss(p, fixed, parts(), jax.random.key(0))[0]))(learned)
    # The last block's prototypes guide nothing any more.
    last = gradient[f"block_{SMALL.num_blocks - 1}"]
    for name in ("refine", "of_prototypes"):
        last.pop(name)
    flat = jax.tree_util.tree_leaves_with_path(gradient)
    dead = [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).max() > 0]
    # A bias of the keys moves all logits alike; norms of what was taken out have none.
    assert all("key" in name or "LayerNorm" in name for name in dead), dead


def test_own_parts_are_forgotten():
    built, learned, fixed = started(dataclasses.replace(SMALL, score="nearest"))
    params = quick(built.finalize)(learned, fixed, parts())
    score, part = quick(built.score), base.take(parts(), 1)
    assert np.max(score(params, part)) < 1e-4 < np.max(score(built.forget(params, jnp.asarray(1)), part))


def test_losses_by_hand():
    p = jnp.eye(3)
    x = jnp.array([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]]])
    mask = jnp.array([True, True])
    soft, hard = method.assignment_loss(x, p, mask, 0.01)
    np.testing.assert_allclose([soft, hard], 1.0, atol=1e-6)
    soft, hard = method.entropy_loss(x[0], p, mask, 0.01)
    np.testing.assert_allclose([soft, hard], -np.log(2), atol=1e-6)
    np.testing.assert_allclose(losses.gather(x, p, mask), 0.0, atol=1e-6)
    np.testing.assert_allclose(method.target(x[0], p, 0.01), x[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_prototypes": 0}, "num_prototypes"),
        ({"temperature": 0.0}, "temperature"),
        ({"score": "l2"}, "score"),
        ({"gather_weight": -1.0}, "gather_weight"),
    ],
)
def test_config_refuses_what_cannot_work(changes, match):
    with pytest.raises(ValueError, match=match):
        Config(**changes)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"heads": 3}, "8 channels cannot be divided among 3 heads"),
        ({"num_blocks": 3}, "3 blocks cannot be divided among 2 layer groups"),
    ],
)
def test_features_that_do_not_fit_are_refused(changes, match):
    built = uip_ad.build(dataclasses.replace(SMALL, **changes), BOTH)
    with pytest.raises(ValueError, match=match):
        base.check(built, base.shapes(PARTS, 2, GROUPS, N, C))


def test_one_modality_is_refused():
    with pytest.raises(ValueError, match="uip_ad unifies two modalities, got rgb"):
        uip_ad.build(SMALL, ("rgb",))
