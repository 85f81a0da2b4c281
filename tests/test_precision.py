"""bfloat16 rounds features and the factors of products, and nothing else; what comes of it stays near float32."""

import contextlib
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from pirn_jax import features, scoring
from pirn_jax.data.sample import Files, Record, Splits
from pirn_jax.encoders import pretrained
from pirn_jax.inputs import Preparation
from pirn_jax.inspection import inspector
from pirn_jax.methods import base, pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.methods.pirn import Config
from pirn_jax.methods.pirn.precision import factors, product
from pirn_jax.study import data, packing, selection, storage
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training.episodes import Run
from pirn_jax.training.programs import compile_programs

BOTH = ("rgb", "normals")
PARTS, N, C, STEPS = 5, 29, 12, 40
FULL = Config(score="cosine", num_prototypes=5, sinkhorn_iterations=7, neighbours=2, heads=2)
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
    return Features(jnp.asarray(found[None, :, :, None], jnp.float32), jnp.ones((1, PARTS, N), bool))


def started(method, parts):
    """The state of one run before its training: of any precision the same, drawn where nothing has to be compiled."""
    programs, rng = compile_programs(method), np.random.default_rng(1)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    rate = np.float32(3e-3)
    shapes = programs.init.shapes(key, parts, np.zeros(1, int), np.zeros((1, 2), int), rate, programs.constants)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    drawn = jax.tree.map(lambda x: np.asarray(rng.normal(scale=0.3, size=x.shape), x.dtype), state.learned)
    drawn["prototypes"] /= 0.3
    fixed = {"scale": np.ones_like(state.fixed["scale"]), "epsilon": np.full(1, 0.05, np.float32)}
    return programs, state._replace(learned=drawn, fixed=fixed, learning_rate=np.full(1, 3e-3, np.float32))


def score(config, state, parts):
    program = scoring.compile_program(pirn.build(config, BOTH))
    return scoring.score(program, [(state.learned, state.fixed)], parts, np.zeros(1, int))


@pytest.fixture(scope="module")
def trained(parts):
    """By precision the state after some steps and patch distances of all parts, (PARTS, 2, N)."""
    found, order = {}, np.random.default_rng(2).integers(PARTS - 1, size=(1, STEPS, 2))
    for config in (dataclasses.replace(of, num_layers=1) for of in (FULL, HALF)):
        programs, state = started(pirn.build(config, BOTH), parts)
        keys = jax.random.split(jax.random.key(0), (1, STEPS))
        state, metrics = programs.steps(state, parts, np.zeros(1, int), order, np.ones(STEPS, np.float32), keys)
        assert metrics["loss"][0, -1] < 0.8 * metrics["loss"][0, 0]
        found[config.precision] = state, score(config, state, parts)[0]
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
        # Sums of 900 products round by up to 1e-4, as the processor orders them; rounded factors would be off by .1.
        np.testing.assert_allclose(x, seen(left) @ seen(right), atol=3e-4)


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
def test_bfloat16_rounds_only_features_and_matmul_operands(injection, stored):
    method = pirn.build(dataclasses.replace(HALF, injection=injection), BOTH)
    batch = base.shapes(2, 2, 1, N, C)
    batch = batch._replace(values=jax.ShapeDtypeStruct(batch.values.shape, stored))
    learned, fixed = jax.eval_shape(method.start, jax.eval_shape(lambda: jax.random.key(0)), batch)
    traced = jax.make_jaxpr(jax.value_and_grad(method.loss, has_aux=True))(learned, fixed, batch, jax.random.key(0))
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
    half = score(dataclasses.replace(HALF, num_layers=1), state, parts)[0]
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


def test_scale_is_that_of_rounded_features_in_either_storage_type(parts):
    method, support = pirn.build(HALF, BOTH), base.take(parts, 0)
    scale = jax.jit(lambda features: method.start(jax.random.key(0), features)[1]["scale"])
    expected = np.sqrt((nearest(support.values) ** 2).mean((0, 2, 3, 4)))
    for dtype in (jnp.float32, jnp.bfloat16):
        found = scale(support._replace(values=support.values.astype(dtype)))
        assert found.dtype == jnp.float32
        # Without rounding they would differ by 9e-6 and 4e-5.
        np.testing.assert_allclose(found, expected, rtol=3e-6)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="unknown precision 'float16'; choose one of float32, bfloat16"):
        dataclasses.replace(FULL, precision="float16")


def spec(config):
    encoder = pretrained.load("builtin")
    return Spec("mvtec3d", (2,), 1, "pirn", config, Recipe(), encoder, Preparation(56))


@contextlib.contextmanager
def silent(title, total):
    yield lambda *told: None


@pytest.mark.parametrize(("configs", "dtype"), [((HALF,), jnp.bfloat16), ((HALF, FULL), jnp.float32)])
def test_features_are_stored_in_bfloat16_if_all_studies_use_it(configs, dtype, parts, monkeypatch):
    records = [Record("knob", "train", "good", str(i), Files(pathlib.Path(), None)) for i in range(PARTS)]
    splits = Splits(records[:3], [], records[3:])
    names, masks = [""] * PARTS, [None] * PARTS
    drawn = selection.Draw({"knob": splits}, {}, {"knob": [0, 1, 2]}, {"knob": records[:3]})
    chosen = selection.Selection(drawn, records, names, masks, names)
    extracted = features.Extracted(np.asarray(parts.values[0]), np.asarray(parts.mask[0]), names)
    monkeypatch.setattr(features, "extract", lambda *given: extracted)
    found = data.load([spec(config) for config in configs], chosen, silent)
    assert found.train.features.values.dtype == found.test.features.values.dtype == dtype
    assert found.stored_in(dtype.__name__).test.features.values is found.test.features.values
    half = found.stored_in("bfloat16")
    assert half.train.features.values.dtype == half.test.features.values.dtype == jnp.bfloat16
    for placed, samples in ((half.train, slice(3)), (half.test, slice(3, None))):
        expected = packing.pack(np.asarray(nearest(parts.values[0, samples])), placed.kept[0])
        np.testing.assert_array_equal(placed.features.values[0], expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_finished_run_inspects_in_the_precision_of_its_study(precision, tmp_path):
    of = spec(dataclasses.replace(FULL, num_layers=1, apr=False, precision=precision))
    shapes = base.params_shapes(of.build(), base.shapes(2, 2, 1, of.grid**2, of.encoder.config.width))
    params = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape), leaf.dtype), shapes)
    storage.save_group(tmp_path, "2-000", describe(of, ["knob"], []), params, {}, {"runs": [Run("knob", 2, 0)]})
    ready = inspector.load(tmp_path, Run("knob", 2, 0))
    images = np.zeros((1, 2, 56, 56, 3), np.uint8)
    mask = np.ones((1, of.grid**2), bool)
    inspect = jax.make_jaxpr(
        lambda weights, params, images: ready.program(weights, params, ready.scales, images, mask, (56, 56))
    )
    traced = inspect(ready.spec.encoder.params, ready.params, images)
    algorithms = [e.params["precision"] for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    assert (ALGORITHM in algorithms) == (precision == "bfloat16")
