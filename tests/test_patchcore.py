"""PatchCore against a plain reference: coreset, nearest rows, image weight; masks, tiles, many runs, own good parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax import scoring
from pirn_jax.methods import base, nearest, patchcore
from pirn_jax.methods.base import Features
from pirn_jax.training import episodes, parallel, train
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs
from tests import reference

BOTH = ("rgb", "normals")
PARTS, GROUPS, N, C = 4, 2, 12, 3
CONFIGS = {
    "default": patchcore.Config(),
    "neighbours": patchcore.Config(banks="each", neighbours=3, reach=False),
    "joint": patchcore.Config(banks="joint"),
    "paper": patchcore.Config(banks="each", coreset=0.25, distance="euclidean", reach=False, reweight=3),
    "thin": patchcore.Config(coreset=0.4, neighbours=2, distance="euclidean", reweight=2),
}
# 40 patches of the part in all.
MASK = np.arange(N) < np.array([[12], [7], [12], [9]])
RUNS = [Run("a", 3, seed) for seed in range(3)]


def good_parts():
    return Features(jax.random.normal(jax.random.key(0), (PARTS, 2, GROUPS, N, C)), jnp.asarray(MASK))


def new_part():
    return Features(jax.random.normal(jax.random.key(1), (2, GROUPS, N, C)), jnp.arange(N) < 10)


def fitted(config, support):
    method = patchcore.build(config, BOTH)
    return method, method.finalize(*method.start(jax.random.key(0), support), support)


def distances(config, support, part):
    method, params = fitted(config, support)
    return jax.jit(lambda *given: method.score(*given))(params, part)


def rows_of(features, m):
    """Patches (..., n, g c) of a modality, layer groups side by side."""
    return np.concatenate(np.moveaxis(np.asarray(features.values)[..., m, :, :, :], -3, 0), axis=-1)


def expected(config, support, part):
    found, mask = [], np.asarray(support.mask)
    maps = [(rows_of(support, m)[mask], rows_of(part, m)) for m in range(2)]
    if config.distance == "cosine":
        maps = [[of / np.linalg.norm(of, axis=-1, keepdims=True) for of in pair] for pair in maps]
    joint = [np.concatenate(pair, axis=-1) / 2**0.5 for pair in zip(*maps, strict=True)]
    for good, x in {"each": maps, "joint": [joint], "all": [*maps, joint]}[config.banks]:
        thinned = good if config.banks == "each" else joint[0]
        kept = reference.coreset(thinned, config.coreset) if config.coreset < 1 else np.arange(len(good))
        samples, bank = np.nonzero(np.asarray(support.mask))[0], good[kept]
        reach = reference.reaches(good, samples)[kept] if config.reach else np.ones(len(bank))
        apart = reference.bank_distances(x, bank, config.distance, config.neighbours, reach)
        if config.reweight:
            worst = np.argmax(np.where(part.mask, apart, -np.inf))
            apart = apart * reference.bank_weight(x[worst], bank, config.reweight)
        found.append(apart)
    return np.stack(found)


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
def test_coreset_is_the_reference_on_the_kept_rows(share):
    rows, mask = rows_of(good_parts(), 0).reshape(-1, GROUPS * C), MASK.ravel()
    chosen, due = patchcore.greedy_coreset(jnp.asarray(rows), jnp.asarray(mask), share)
    kept = np.flatnonzero(mask)
    assert chosen[due].tolist() == kept[reference.coreset(rows[mask], share)].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_distances_are_the_reference(name):
    given = CONFIGS[name], good_parts(), new_part()
    np.testing.assert_allclose(distances(*given), expected(*given), atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bank_in_several_tiles_gives_the_same(name, monkeypatch):
    given = CONFIGS[name], good_parts(), new_part()
    whole = distances(*given)
    monkeypatch.setattr(nearest, "_TILE", 5)
    np.testing.assert_allclose(distances(*given), whole, atol=1e-6)


@pytest.mark.parametrize("config", [*CONFIGS.values(), patchcore.Config(standardise=True)])
def test_patches_off_the_part_do_not_matter(config):
    support, part = good_parts(), new_part()
    plain = distances(config, support, part)

    def spoiled(features):
        return features._replace(values=jnp.where(features.mask[..., None, None, :, None], features.values, 50.0))

    found = distances(config, spoiled(support), spoiled(part))
    np.testing.assert_allclose(found[:, part.mask], plain[:, part.mask], atol=1e-6)


@pytest.mark.parametrize("distance", patchcore.DISTANCES)
def test_a_bank_with_fewer_patches_of_the_part_than_neighbours_uses_those_it_has(distance):
    config, support = patchcore.Config(neighbours=3, distance=distance, reweight=5, reach=False), good_parts()
    seen = np.zeros_like(MASK)
    seen[0, 4] = seen[2, 7] = True
    given = config, support._replace(mask=jnp.asarray(seen)), new_part()
    np.testing.assert_allclose(distances(*given), expected(*given), atol=1e-5)


def test_a_whole_coreset_keeps_all_patches_of_the_part():
    support = good_parts()
    params = fitted(patchcore.Config(banks="each", distance="euclidean"), support)[1]
    np.testing.assert_array_equal(params["counted"], np.stack([MASK.ravel()] * 2))
    np.testing.assert_array_equal(params["banks"], [rows_of(support, m).reshape(-1, GROUPS * C) for m in range(2)])


@pytest.mark.parametrize("distance", patchcore.DISTANCES)
def test_patches_of_the_bank_have_no_distance(distance):
    support = good_parts()
    found = distances(patchcore.Config(distance=distance, reach=False), support, base.take(support, 1))
    assert found[:, MASK[1]].max() < 2e-3 < 0.02 < found[:, ~MASK[1]].min()


def test_standardised_channels_may_have_any_unit_and_origin():
    support, part = good_parts(), new_part()
    factor, shift = (jax.random.uniform(jax.random.key(i), (2, GROUPS, 1, C), minval=0.1, maxval=10.0) for i in (2, 3))
    moved = [features._replace(values=factor * features.values + shift) for features in (support, part)]
    config = patchcore.Config(standardise=True, distance="euclidean", reach=False)
    plain = distances(config, support, part)
    np.testing.assert_allclose(distances(config, *moved), plain, rtol=1e-3)
    raw = patchcore.Config(distance="euclidean", reach=False)
    assert np.abs(distances(raw, *moved) - distances(raw, support, part)).max() > 0.5
    statistics = fitted(config, support)[1]
    for m in range(2):
        kept = rows_of(support, m)[MASK]
        np.testing.assert_allclose(statistics["mean"][m], kept.mean(0), atol=1e-5)
        np.testing.assert_allclose(statistics["deviation"][m], kept.std(0), rtol=1e-4)


def study(runs, config):
    """Parameters and distances of all parts and of each run's own, through the compiled programs."""
    method, shared = patchcore.build(config, BOTH), jax.tree.map(lambda x: x[None], good_parts())
    category, chosen = np.zeros(len(runs), int), np.array([episodes.draw(run, PARTS) for run in runs])
    trained, history = train.train(compile_programs(method), runs, shared, category, chosen, None)
    assert not history
    found = scoring.score(scoring.compile_program(method), trained.params, shared, category)
    own = scoring.score_support(scoring.compile_support_program(method), trained.params, shared, category, chosen)
    return parallel.collect(trained.params), found, own


@pytest.mark.parametrize(
    "config", [patchcore.Config(banks="each"), patchcore.Config(banks="each", coreset=0.5, standardise=True)]
)
def test_runs_together_equal_runs_alone(config):
    together = study(RUNS, config)
    for i, run in enumerate(RUNS):
        alone = study([run], config)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_allclose(x[0], y[i], atol=1e-6), alone, together)
    assert not np.array_equal(together[0]["banks"][0], together[0]["banks"][1])


@pytest.mark.parametrize(
    "config", [patchcore.Config(banks="each"), patchcore.Config(banks="each", coreset=0.5, standardise=True)]
)
def test_own_good_parts_are_scored_by_banks_without_them(config):
    run = RUNS[1]
    own, support = study([run], config)[2][0], base.take(good_parts(), episodes.draw(run, PARTS))
    method = patchcore.build(config, BOTH)
    learned, fixed = method.start(jax.random.key(0), support)
    params = method.finalize(learned, fixed, support)
    whole = patchcore.build(dataclasses.replace(config, coreset=1.0), BOTH)
    assert own.shape == (3, 2, N)
    for i in range(3):
        rows = whole.finalize(learned, fixed, base.take(support, np.array([i])))["banks"]
        its = (np.asarray(params["banks"])[:, :, None] == np.asarray(rows)[:, None]).all(-1).any(-1)
        assert its.any(1).all()
        left = {**params, "counted": params["counted"] & ~its}
        found = scoring.patch_distances(method.score, left, base.take(support, i))
        np.testing.assert_allclose(own[i], found, atol=1e-6)
        assert own[i].max() > 0.01


def test_a_single_good_part_has_no_distance_to_its_own_bank():
    assert study([Run("a", 1, 0)], patchcore.Config())[2].max() < 1e-6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("coreset", 0.0),
        ("coreset", 1.5),
        ("neighbours", 0),
        ("reweight", 1),
        ("reweight", -2),
        ("distance", "l1"),
        ("banks", "both"),
    ],
)
def test_config_refuses_what_cannot_work(name, value):
    with pytest.raises(ValueError, match=name):
        patchcore.Config(**{name: value})


def test_more_neighbours_than_rows_are_refused():
    method = patchcore.build(patchcore.Config(coreset=0.1, neighbours=6), BOTH)
    with pytest.raises(ValueError, match="neighbours=6 exceeds the 5 rows of a bank"):
        base.check(method, base.shapes(PARTS, 2, GROUPS, N, C))
    base.check(method, base.shapes(PARTS + 1, 2, GROUPS, N, C))
