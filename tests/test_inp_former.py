"""INP-Former against a plain reference: streams, losses, score; its optimiser, masks and what it refuses."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import base, inp_former
from pirn_jax.methods.inp_former import Config
from pirn_jax.methods.inp_former.optimizer import STABLE_ADAMW
from tests import grouped
from tests import reference_uip_ad as reference
from tests.grouped import GROUPS, PARTS, C, N, parts, quick

BOTH = ("rgb", "normals")
SMALL = Config(num_prototypes=4, heads=2, mining_exponent=0.0, score="cosine")


def started(config):
    return grouped.started(inp_former.build(config, BOTH))


def stream(weights, x, config):
    """Rebuilt maps and prototypes of one modality (g, n, c), in plain NumPy."""
    mean, own = x.mean(0), weights["prototypes"]
    asked, given = (reference.norm(own["norm"], of) for of in (own["queries"], mean))
    p = own["queries"] + reference.attention(own["Attention_0"], asked, given, "softmax")
    p = p + reference.mlp(own["MLP_0"], reference.norm(own["LayerNorm_0"], p))
    y, outputs = reference.mlp(weights["bottleneck"], mean), []
    for i in range(config.num_blocks):
        patches = reference.norm(weights[f"norm_{i}"], y)
        rows = reference.norm(weights[f"norm_of_prototypes_{i}"], p)
        y = reference.attention(weights[f"attention_{i}"], patches, rows, "relu")
        y = y + reference.mlp(weights[f"mlp_{i}"], reference.norm(weights[f"norm_of_mlp_{i}"], y))
        outputs.append(y)
    return np.stack(outputs[::-1]).reshape(len(x), -1, *y.shape).mean(1), p


def distances(a, b):
    return 1 - np.sum(reference.unit(a) * reference.unit(b), -1)


@pytest.mark.usefixtures("x64")
def test_loss_and_score_are_the_reference():
    config = dataclasses.replace(SMALL, num_blocks=4)
    built, learned, fixed = started(config)
    scaled = np.asarray(parts().values, np.float64) / np.asarray(fixed["scale"])[:, None, None, None]
    expected, maps = 0.0, []
    for m in range(2):
        found = [stream(reference.pick(learned, m), of[m], config) for of in scaled]
        for x, (rebuilt, p) in zip(scaled[:, m], found, strict=True):
            # INP-Former compares whole maps, each flattened to one vector.
            whole = [distances(a.ravel(), b.ravel()) for a, b in zip(x, rebuilt, strict=True)]
            tied = (1 - reference.unit(x.mean(0)) @ reference.unit(p).T).min(1).mean()
            expected += (np.mean(whole) + config.gather_weight * tied) / PARTS
        maps.append(distances(scaled[0, m], found[0][0]).mean(0))
    np.testing.assert_allclose(quick(built.loss)(learned, fixed, parts(), jax.random.key(0))[0], expected, rtol=1e-6)
    # Features count as float32, rounded.
    np.testing.assert_allclose(quick(built.score)((learned, fixed), base.take(parts(), 0)), maps, atol=1e-5)


def test_modalities_share_nothing():
    built, learned, fixed = started(SMALL)
    score = quick(built.score)
    before = score((learned, fixed), base.take(parts(), 0))
    other = jax.tree.map(lambda x: x.at[1].add(0.3), learned)
    after = score((other, fixed), base.take(parts(), 0))
    np.testing.assert_array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-3


@pytest.mark.usefixtures("x64")
def test_patches_off_the_part_change_nothing_on_it():
    mask = np.arange(N) < np.array([[6], [8]])
    built, learned, fixed = started(dataclasses.replace(SMALL, score="nearest", mining_exponent=3.0))

    def run(batch):
        params = built.finalize(learned, fixed, batch)
        return built.loss(learned, fixed, batch, jax.random.key(0))[0], built.score(params, base.take(batch, 1))[:, :8]

    batch, program = parts(mask), quick(run)
    spoiled = batch._replace(values=jnp.where(batch.mask[:, None, None, :, None], batch.values, 9.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), program(spoiled), program(batch))
    assert abs(program(spoiled._replace(mask=jnp.ones_like(batch.mask)))[0] - program(batch)[0]) > 1e-4


def test_stable_adamw_by_hand():
    params, gradients = {"x": jnp.array([1.0, -2.0])}, [np.array([0.03, 0.04]), np.array([-0.6, 0.8]), np.zeros(2)]
    state, first, second, largest = STABLE_ADAMW.init(params), np.zeros(2), np.zeros(2), np.zeros(2)
    for step, gradient in enumerate(gradients, 1):
        direction, state = STABLE_ADAMW.update({"x": jnp.asarray(gradient, jnp.float32)}, state, params)
        # The second gradient, of length 1, is cut to .1, and is more than the second moment expects.
        cut = gradient * min(1.0, 0.1 / max(np.linalg.norm(gradient), 1e-9))
        first, second = 0.9 * first + 0.1 * cut, 0.999 * second + 0.001 * cut**2
        largest = np.maximum(largest, second / (1 - 0.999**step))
        calm = max(1.0, np.sqrt(np.mean(cut**2 / largest)))
        expected = first / (1 - 0.9**step) / np.sqrt(largest) / calm + 1e-4 * np.asarray(params["x"])
        np.testing.assert_allclose(direction["x"], expected, rtol=1e-4)
        assert (calm > 1.05) == (step == 2)


def test_one_modality_is_enough():
    built = inp_former.build(SMALL, BOTH[:1])
    base.check(built, base.shapes(PARTS, 1, GROUPS, N, C))
    assert built.maps == ("rgb",)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"num_prototypes": 0}, "num_prototypes"), ({"gather_weight": -1.0}, "gather_weight"), ({"score": "l2"}, "score")],
)
def test_config_refuses_what_cannot_work(changes, match):
    with pytest.raises(ValueError, match=match):
        Config(**changes)
