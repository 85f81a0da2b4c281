"""bfloat16 rounds features and the factors of products, and nothing else; what comes of it stays near float32."""

import contextlib
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pirn_jax import features, gathering, inspector
from pirn_jax.data.sample import Files, Record, Splits
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.pirn import Config, pirn
from pirn_jax.pirn.precision import factors, product
from pirn_jax.protocol import scoring, training
from pirn_jax.protocol.episodes import Run
from pirn_jax.report import archive
from pirn_jax.spec import Spec, describe

PARTS, N, C, STEPS = 5, 29, 12, 40
FULL = Config(num_prototypes=5, sinkhorn_iterations=7, neighbours=2, heads=2)
HALF = dataclasses.replace(FULL, precision="bfloat16")
ALGORITHM = jax.lax.DotAlgorithmPreset.BF16_BF16_F32


def nearest(x):
    """The nearest numbers with eight significant bits, of which halves go to the even one."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


@pytest.fixture(scope="module")
def parts():
    """Features of one category, few patterns with noise; the last part has odd patches."""
    rng = np.random.default_rng(0)
    found = rng.normal(size=(2, 3, C))[:, rng.integers(3, size=N)] + 0.3 * rng.normal(size=(PARTS, 2, N, C))
    found[-1, :, :5] = rng.normal(scale=2, size=(2, 5, C))
    return np.asarray(found[None], np.float32)


def started(method, parts):
    """The state of one run before its training: of any precision the same, drawn where nothing has to be compiled."""
    programs, rng = training.compile_programs(method), np.random.default_rng(1)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    shapes = programs.init.shapes(key, parts, np.zeros(1, int), np.zeros((1, 2), int), np.float32(3e-3), programs.fixed)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    drawn = jax.tree.map(lambda x: np.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), state.params["decoder"])
    drawn["prototypes"] /= 0.3
    params = {"scale": np.ones_like(state.params["scale"]), "epsilon": np.full(1, 0.05, np.float32), "decoder": drawn}
    return programs, state._replace(params=params, learning_rate=np.full(1, 3e-3, np.float32))


def score(config, params, parts):
    return scoring.score(scoring.compile_program(pirn(config)), params, jnp.asarray(parts), np.zeros(1, int))


@pytest.fixture(scope="module")
def trained(parts):
    """By precision the state after some steps and patch distances of all parts, (PARTS, 2, N)."""
    found, order = {}, np.random.default_rng(2).integers(PARTS - 1, size=(1, STEPS, 2))
    for config in (dataclasses.replace(of, num_layers=1) for of in (FULL, HALF)):
        programs, state = started(pirn(config), parts)
        state, metrics = programs.steps(state, parts, np.zeros(1, int), order)
        assert metrics["loss"][0, -1] < 0.8 * metrics["loss"][0, 0]
        found[config.precision] = state, score(config, state.params, parts)[0]
    return found


@pytest.mark.parametrize(("precision", "seen"), [("float32", np.float64), ("bfloat16", nearest)])
def test_products_and_their_gradients_are_those_of_rounded_factors(precision, seen):
    rng = np.random.default_rng(0)
    a, b, back = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((7, 900), (900, 5), (7, 5)))
    with factors(precision):
        found, pull = jax.vjp(product, a, b)
    pairs = (a, b), (back, b.T), (a.T, back)
    for x, (left, right) in zip((found, *pull(back)), pairs, strict=True):
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(x, seen(left) @ seen(right), atol=3e-5)


def is_program(x):
    return hasattr(getattr(x, "jaxpr", x), "eqns")


def is_narrow(*variables):
    return jnp.bfloat16 in [x.aval.dtype for x in variables]


def equations(jaxpr):
    """All equations, those of inner programs included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in filter(is_program, equation.params.values()):
            yield from equations(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize(("injection", "stored"), [("query_only", jnp.bfloat16), ("paper", jnp.float32)])
def test_what_is_rounded_are_the_features_and_the_factors_of_products_with_weights_and_patches(injection, stored):
    method = pirn(dataclasses.replace(HALF, injection=injection))
    batch = jax.ShapeDtypeStruct((2, 2, N, C), stored)
    params = jax.eval_shape(method.initial, jax.eval_shape(lambda: jax.random.key(0)), batch)
    traced = jax.make_jaxpr(jax.value_and_grad(method.loss, has_aux=True))(params, batch)
    leaves = [e for e in equations(traced.jaxpr) if not any(map(is_program, e.params.values()))]
    # Nothing is computed in bfloat16: features that are stored in it are widened first.
    assert {e.primitive.name for e in leaves if is_narrow(*e.invars)} <= {"convert_element_type"}
    assert not any(is_narrow(*e.outvars) for e in leaves)
    rounded, k = [], FULL.num_prototypes
    for equation in (e for e in leaves if e.primitive.name == "dot_general"):
        sizes = {size for x in equation.invars for size in x.aval.shape}
        weights = any(x.aval.shape[-1] in (C, 2 * C) and x.aval.shape[-2] in (C, 2 * C) for x in equation.invars)
        # Rebuilt patches are made of k prototypes and k values; where they are compared they stay as they are.
        patches = {N, C} <= sizes and 2 * k not in sizes
        transport, norms = sizes <= {1, 2, N, k}, sizes <= {1, 2, N, 2 * k}
        rounded.append(equation.params["precision"] == ALGORITHM)
        assert rounded[-1] or not (weights or patches), equation
        assert not rounded[-1] or not (transport or norms), equation
    assert sum(rounded) > len(rounded) / 2
    assert sum(e.primitive.name == "reduce_precision" for e in leaves) == 1 + 2 * sum(rounded)


def test_parameters_and_their_optimizer_stay_float32(trained):
    kinds = {leaf.dtype for leaf in jax.tree.leaves(trained["bfloat16"][0])}
    assert kinds == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}  # Adam counts its steps.


def rank_correlation(a, b):
    return np.corrcoef(*(scipy.stats.rankdata(x) for x in (a, b)))[0, 1]


def test_the_same_parameters_give_nearly_the_distances_of_float32(trained, parts):
    state, full = trained["float32"]
    half = score(dataclasses.replace(HALF, num_layers=1), state.params, parts)[0]
    difference = np.abs(half - full)
    assert 1e-4 < difference.max() < 0.05
    assert difference.mean() < 0.01 * full.mean()
    assert rank_correlation(half, full) > 0.999


def test_training_in_either_precision_finds_the_odd_patches(trained):
    # Two trainings drift apart from any rounding; what they learn has to be the same.
    full, half = (trained[name][1].sum(1) for name in ("float32", "bfloat16"))
    np.testing.assert_allclose(half[:-1].mean(), full[:-1].mean(), rtol=0.15)
    assert all(of[-1, :5].min() > of[-1, 5:].max() for of in (full, half))
    assert rank_correlation(half, full) > 0.85


def test_features_are_scaled_by_what_is_kept_of_them_however_they_are_stored(parts):
    scale = jax.jit(lambda features: pirn(HALF).initial(jax.random.key(0), features)["scale"])
    expected = np.sqrt((nearest(parts) ** 2).mean((0, 1, 3, 4)))
    for dtype in (jnp.float32, jnp.bfloat16):
        found = scale(parts[0].astype(dtype))
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'float16'; choose one of float32, bfloat16"):
        dataclasses.replace(FULL, precision="float16")


def spec(config):
    encoder = pretrained.load("builtin")
    return Spec("mvtec3d", (2,), 1, "pirn", config, training.Recipe(), encoder, Preparation(56), 4.0)


@contextlib.contextmanager
def silent(title, total):
    yield lambda *told: None


@pytest.mark.parametrize(("configs", "dtype"), [((HALF,), jnp.bfloat16), ((HALF, FULL), jnp.float32)])
def test_features_lie_on_the_device_as_narrow_as_all_studies_allow(configs, dtype, parts, monkeypatch):
    records = [Record("knob", "train", "good", str(i), Files(pathlib.Path(), None)) for i in range(PARTS)]
    splits = Splits(records[:3], [], records[3:])
    drawn = gathering.Drawn({"knob": splits}, {}, {"knob": [0, 1, 2]}, records, [""] * PARTS, [], [""] * PARTS)
    monkeypatch.setattr(features, "extract", lambda *given: (parts[0], [""] * PARTS))
    found = gathering.gather([spec(config) for config in configs], drawn, silent)
    assert found.train.dtype == found.test.dtype == dtype
    assert found.stored_in(dtype.__name__).test is found.test
    half = found.stored_in("bfloat16")
    assert half.train.dtype == half.test.dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.train, nearest(parts[:, :3]))
    np.testing.assert_array_equal(half.test, nearest(parts[:, 3:]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_finished_run_inspects_in_the_precision_of_its_study(precision, tmp_path):
    of = spec(dataclasses.replace(FULL, num_layers=1, apr=False, precision=precision))
    batch = np.zeros((2, 2, 16, of.encoder.config.width), np.float32)
    shapes = jax.eval_shape(pirn(of.config).initial, jax.eval_shape(lambda: jax.random.key(0)), batch)
    params = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape), leaf.dtype), shapes)
    archive.save_group(tmp_path, "2-000", describe(of, ["knob"], []), params, {}, {"runs": [Run("knob", 2, 0)]})
    ready = inspector.load(tmp_path, Run("knob", 2, 0))
    images = np.zeros((1, 2, 56, 56, 3), np.uint8)
    inspect = jax.make_jaxpr(lambda weights, params, images: ready.program(weights, params, images, (56, 56)))
    traced = inspect(ready.encoder.params, ready.params, images)
    algorithms = [e.params["precision"] for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    assert (ALGORITHM in algorithms) == (precision == "bfloat16")
