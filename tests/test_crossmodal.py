"""CFM and CFR against plain references: predictions, losses, banks, retrieval, replacement; masks and own parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax.methods import base, cfm, cfr
from pirn_jax.methods.base import Features
from tests import reference_crossmodal as reference

BOTH = ("rgb", "normals")
PARTS, N, C = 3, 10, 6
MASK = np.arange(N) < np.array([[10], [7], [9]])
SMALL = cfr.Config(width=4)
METHODS = {
    "cfm": cfm.build(cfm.Config(), BOTH),
    "cfm, sum": cfm.build(cfm.Config(hidden=5, combine="sum"), BOTH),
    "cfr": cfr.build(SMALL, BOTH),
    "cfr, no attention": cfr.build(dataclasses.replace(SMALL, retrieval=False, threshold=0.2), BOTH),
    "cfr, no replacement": cfr.build(dataclasses.replace(SMALL, replacement=False, cycle=False), BOTH),
    "cfr, coreset": cfr.build(dataclasses.replace(SMALL, coreset=0.5), BOTH),
}


def good_parts(dtype=float):
    values = np.random.default_rng(0).normal(size=(PARTS, 2, 1, N, C)) * np.array([3.0, 0.5])[:, None, None, None]
    return Features(jnp.asarray(values, dtype), jnp.asarray(MASK))


def new_part(dtype=float):
    return Features(jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, N, C)), dtype), jnp.arange(N) < 8)


def fitted(method, support):
    learned, fixed = jax.jit(method.start)(jax.random.key(0), support)
    # Biases start at zero and would hide a missing one.
    rng = np.random.default_rng(2)
    learned = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype), learned)
    return learned, fixed, jax.jit(method.finalize)(learned, fixed, support)


def scaled(features, fixed):
    return np.asarray(features.values[..., 0, :, :], np.float64) / np.asarray(fixed["scale"])[:, None, None]


@pytest.mark.parametrize("name", ["cfm", "cfm, sum"])
def test_cfm_is_the_reference(name):
    method, support, part = METHODS[name], good_parts(np.float32), new_part(np.float32)
    learned, fixed, params = fitted(method, support)
    x = scaled(part, fixed)
    found = reference.predicted(learned, x)
    expected = reference.product(found, x)
    if name == "cfm, sum":
        expected = sum(
            np.linalg.norm(reference.unit(a) - reference.unit(b), axis=-1) for a, b in zip(found, x, strict=True)
        )
    np.testing.assert_allclose(jax.jit(method.score)(params, part)[0], expected, rtol=2e-3, atol=1e-5)
    terms = np.zeros(2)
    for sample, mask in zip(scaled(support, fixed), MASK, strict=True):
        predicted = reference.predicted(learned, sample)
        terms += [reference.disagreement(a, b, mask) for a, b in zip(predicted, sample, strict=True)]
    loss, told = jax.jit(method.loss)(learned, fixed, support, jax.random.key(0))
    np.testing.assert_allclose([told["loss_rgb"], told["loss_normals"]], terms / PARTS, rtol=1e-4)
    np.testing.assert_allclose(loss, terms.sum() / PARTS, rtol=1e-4)


def banks(support, fixed):
    """RGB rows and their keys, on the part."""
    rows = np.moveaxis(scaled(support, fixed), 1, 0)[:, MASK]
    return rows[0], rows[1]


def test_the_loss_of_cfr_is_the_reference():
    method, support = METHODS["cfr"], good_parts(np.float32)
    learned, fixed, _ = fitted(method, support)
    values, keys = banks(support, fixed)
    expected = {"loss_rgb": 0.0, "loss_normals": 0.0, "cycle": 0.0, "retrieval": 0.0}
    for x, mask in zip(scaled(support, fixed), MASK, strict=True):
        found = reference.predicted(learned["mappers"], x)
        back = reference.predicted(learned["mappers"], found)
        told = reference.retrieved(learned["retriever"], x[1], keys, values, 3, own=True)
        each = [reference.disagreement(a, b, mask) for a, b in zip((*found, *back, told), (*x, *x, x[0]), strict=True)]
        for name, value in zip(expected, (each[0], each[1], each[2] + each[3], each[4]), strict=True):
            expected[name] += value / PARTS
    loss, told = jax.jit(method.loss)(learned, fixed, support, jax.random.key(0))
    for name, value in expected.items():
        np.testing.assert_allclose(told[name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(loss, sum(expected.values()), rtol=1e-3)


@pytest.mark.parametrize("name", ["cfr", "cfr, no attention", "cfr, no replacement"])
def test_scores_of_cfr_are_the_reference(name):
    method, support, part = METHODS[name], good_parts(np.float32), new_part(np.float32)
    learned, fixed, params = fitted(method, support)
    (values, keys), x = banks(support, fixed), scaled(part, fixed)
    rgb, geometry = reference.predicted(learned["mappers"], x)
    threshold = 0.2
    if name == "cfr":
        of_parts = []
        for i, sample in enumerate(scaled(support, fixed)):
            others = np.concatenate(
                [s[0][m] for j, (s, m) in enumerate(zip(scaled(support, fixed), MASK, strict=True)) if j != i]
            )
            of_parts.append(reference.doubt(reference.predicted(learned["mappers"], sample)[0][MASK[i]], others))
        threshold = np.quantile(np.concatenate(of_parts), 0.95)
        np.testing.assert_allclose(params["threshold"], threshold, rtol=1e-3)
    unreliable = reference.doubt(rgb, values) >= threshold
    if name == "cfr":
        better = reference.retrieved(learned["retriever"], x[1], keys, values, 3, own=False)
        unreliable[:2] = True
        params = {**params, "threshold": jnp.zeros(())}
        unreliable[:] = True
    elif name == "cfr, no attention":
        better = values[(reference.unit(x[0]) @ reference.unit(values).T).argmax(1)]
        assert unreliable.any()
    else:
        better, unreliable = rgb, np.zeros(N, bool)
    rgb = np.where(unreliable[:, None], better, rgb)
    found = jax.jit(method.score)(params, part)[0]
    np.testing.assert_allclose(found, reference.product((rgb, geometry), x), rtol=3e-3, atol=1e-4)


def test_patches_of_few_doubts_keep_their_prediction():
    method, support, part = METHODS["cfr"], good_parts(np.float32), new_part(np.float32)
    _, _, params = fitted(method, support)
    found = [jax.jit(method.score)({**params, "threshold": jnp.asarray(t)}, part) for t in (0.0, 0.3, 2.1)]
    plain = fitted(METHODS["cfr, no replacement"], support)[2]
    plain = {**plain, "learned": params["learned"]}
    np.testing.assert_allclose(found[2], jax.jit(METHODS["cfr, no replacement"].score)(plain, part), atol=1e-6)
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("name", METHODS)
def test_patches_off_the_part_do_not_matter(name):
    method, support, part = METHODS[name], good_parts(np.float32), new_part(np.float32)

    def run(support, part):
        learned, fixed = method.start(jax.random.key(0), support)
        loss = method.loss(learned, fixed, support, jax.random.key(0))[0]
        return loss, method.score(method.finalize(learned, fixed, support), part)[:, :8]

    program = jax.jit(run)
    spoiled = [f._replace(values=jnp.where(f.mask[..., None, None, :, None], f.values, 30.0)) for f in (support, part)]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), program(*spoiled), program(support, part)
    )


def test_a_bank_forgets_a_part():
    method, support = METHODS["cfr"], good_parts(np.float32)
    params = {**fitted(method, support)[2], "threshold": jnp.zeros(())}
    left = method.forget(params, jnp.asarray(1))
    assert (np.asarray(left["counted"]).sum(1) == MASK[[0, 2]].sum()).all()
    part = base.take(support, 1)
    assert (jax.jit(method.score)(left, part) != jax.jit(method.score)(params, part)).any()


def test_retrieval_does_not_take_the_patch_itself_in_training():
    keys = np.eye(4, 6) + 0.1
    given = jnp.asarray(keys), jnp.asarray(keys), jnp.ones(4, bool)
    chosen, known = cfr.closest(*given, 4, own=True)
    assert (np.asarray(chosen)[:, :3] != np.arange(4)[:, None]).all()
    assert np.asarray(known).tolist() == [[True, True, True, False]] * 4
    assert np.asarray(cfr.closest(*given, 1, own=False)[0])[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("module", [cfm, cfr])
def test_one_modality_is_refused(module):
    with pytest.raises(ValueError, match="predicts each of two modalities from the other, got rgb"):
        module.build(module.Config(), ("rgb",))


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (cfm.Config, {"hidden": -1}),
        (cfm.Config, {"combine": "max"}),
        (cfr.Config, {"coreset": 0.0}),
        (cfr.Config, {"candidates": 0}),
    ],
)
def test_configs_refuse_what_cannot_work(config, changes):
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        config(**changes)


def test_more_candidates_than_rows_are_refused():
    method = cfr.build(cfr.Config(candidates=40), BOTH)
    with pytest.raises(ValueError, match="candidates=40 exceeds the 30 rows of a bank"):
        base.check(method, base.shapes(PARTS, 2, 1, N, C))
