"""A loaded run equals its study, in one program that computes no more than it has to."""

import csv
import dataclasses
import functools
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from flax.traverse_util import unflatten_dict

from pirn_jax import cache, features, inputs, scoring
from pirn_jax.data import folder, mvtec3d
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.encoders import pretrained, vit, weights
from pirn_jax.inputs import Preparation
from pirn_jax.inspection import inspector
from pirn_jax.methods import patchcore, pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.study import storage
from pirn_jax.study.spec import Spec, describe
from pirn_jax.training import parallel
from pirn_jax.training.episodes import Run
from tests import commands
from tests.plates import SIZE, write_parts

SIDE = 56
VIT = vit.ViTConfig(width=24, depth=4, heads=3, position_grid=4, position_mode="plain")
CONFIG = pirn.Config(score="cosine", num_prototypes=4, num_layers=1, sinkhorn_iterations=5, neighbours=2, heads=2)
RUN = Run("knob", 2, 1)
SCALES = np.array([[1, 1], [0.5, 2]], np.float32)


def write_encoder(path, seed):
    rng = np.random.default_rng(seed)
    params = {name: rng.normal(scale=0.2, size=shape) for name, shape in vit.shapes(VIT).items()}
    weights.save(path, weights.Stored(VIT, {"params": unflatten_dict(params, sep=".")}, (1, 2), {}))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a study of two seeds, untrained, with its encoder; its spec and its stacked parameters."""
    home = tmp_path_factory.mktemp("home")
    encoder = pretrained.load(str(write_encoder(home / "encoder.safetensors", 0)))
    preparation = Preparation(SIDE, foreground="none")
    spec = Spec("mvtec3d", (2,), 2, "pirn", CONFIG, Recipe(), encoder, preparation, background="ignore")
    keys = jax.random.split(jax.random.key(1), 2)
    support = Features(jax.random.normal(jax.random.key(2), (2, 2, 1, 16, 24)), jnp.ones((2, 16), bool))
    params = jax.tree.map(np.asarray, jax.jit(jax.vmap(spec.build().start, (0, None)))(keys, support))
    runs, scales = {"runs": [RUN._replace(seed=0), RUN]}, {"scales": SCALES}
    storage.save_group(home / "study", "2-000", describe(spec, ["knob"], []), params, scales, runs)
    return home, spec, params


@pytest.fixture(scope="module")
def ready(finished):
    return inspector.load(finished[0] / "study", RUN)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(256, size=(3, 2, SIDE, SIDE, 3), dtype=np.uint8)


@functools.cache
def scoring_program():
    return scoring.compile_program(pirn.build(CONFIG, ("rgb", "normals")))


def measured(spec, params, images, regions, size):
    """Maps of the second run, (samples, *size), computed step by step as a study does."""
    seen = features.encode(spec.encoder, spec.grid, images)
    masks = np.stack([features.patch_mask(region, spec.grid) for region in regions])
    shared = Features(jnp.asarray(seen)[None], jnp.asarray(masks)[None])
    distances = scoring.score(scoring_program(), parallel.split(params, 2), shared, np.zeros(2, int))
    return np.stack([spec.maps.fused(part, SCALES[1], size) for part in distances[1]])


@pytest.fixture(scope="module")
def regions():
    """Regions of the part in a corner of the images, whole in the last."""
    corner = np.zeros((3, SIDE, SIDE), bool)
    corner[:2, :20, :30] = corner[2] = True
    return corner


def test_maps_and_scores_are_those_of_the_study(finished, ready, images, regions):
    expected = measured(*finished[1:], images, regions, SIZE)
    found = ready(images, regions, SIZE)
    assert found.maps.dtype == np.float32
    np.testing.assert_allclose(found.maps, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.scores, expected.max((1, 2)), rtol=1e-5)
    assert np.ptp(found.scores) > 1e-3


def test_patches_off_the_part_have_no_distance_unless_the_study_kept_the_background(ready, images, regions):
    def far_corner(ready, regions):
        return np.abs(ready(images[:1], regions).maps[0, 50:, 50:]).max()

    keeping = dataclasses.replace(ready, spec=dataclasses.replace(ready.spec, background="keep"))
    assert far_corner(ready, regions[:1]) < 0.01 < far_corner(ready, None)
    assert far_corner(keeping, regions[:1]) == far_corner(ready, None)
    with pytest.raises(ValueError, match=r"regions \(2, 56, 56\): expected \(1, 56, 56\)"):
        ready(images[:1], regions[:2])


def test_maps_have_the_size_of_the_encoders_input_by_default(ready, images):
    assert ready(images).maps.shape == (3, SIDE, SIDE)


def products(jaxpr):
    """Shapes of both factors of every matrix product, those of inner programs included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(variable.aval.shape for variable in equation.invars)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_both_modalities_are_one_batch_and_no_block_follows_the_last_chosen_one(ready, images):
    def program(weights, params, images):
        return ready.program(weights, params, ready.scales, images, np.ones((len(images), 16), bool), SIZE)

    traced = jax.make_jaxpr(program)(ready.spec.encoder.params, ready.params, images)
    to_heads = [left for left, right in products(traced.jaxpr) if right == (24, 3 * 24)]
    assert ready.spec.encoder.groups == ((1, 2),)
    assert to_heads == [(2 * len(images), 17, 24)] * 2


def test_weights_past_the_last_chosen_block_do_not_matter(ready, images):
    spoiled = dict(ready.spec.encoder.params["params"])
    for name in ("block_3", "block_4"):
        spoiled[name] = jax.tree.map(lambda leaf: leaf * jnp.nan, spoiled[name])
    encoder = dataclasses.replace(ready.spec.encoder, params={"params": spoiled})
    other = dataclasses.replace(ready, spec=dataclasses.replace(ready.spec, encoder=encoder))
    np.testing.assert_array_equal(other(images, size=SIZE).maps, ready(images, size=SIZE).maps)


@pytest.mark.usefixtures("compilations_told")
def test_a_shape_is_compiled_once(finished, images, caplog):
    fresh = inspector.load(finished[0] / "study", RUN)
    with caplog.at_level(logging.WARNING):
        for parts in (1, 1, 3, 2):
            fresh(images[:parts], size=SIZE)
    assert sum("Compiling jit(inspect)" in message for message in caplog.messages) == 1


def test_the_finished_runs_are_listed(finished):
    assert inspector.runs(finished[0] / "study") == [Run("knob", 2, 0), RUN]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 2, 56, 56, 3), np.float32),
        np.zeros((2, 56, 56, 3), np.uint8),
        np.zeros((0, 2, 56, 56, 3), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(wrong, ready):
    with pytest.raises(ValueError, match=r"expected \(batch, 2, 56, 56, 3\) of uint8"):
        ready(wrong)


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (Run("knob", 2, 5), "seed 5; choose from what is there: seeds 0, 1 of it"),
        (Run("knob", 3, 0), "there: knob, 2 shots"),
        (Run("gear", 2, 0), "there: knob, 2 shots"),
    ],
)
def test_a_run_that_is_not_there_is_told_with_those_that_are(run, told, finished):
    with pytest.raises(InputError, match=told):
        inspector.load(finished[0] / "study", run)


def test_a_directory_that_is_no_study_is_told_with_studies_in_it(finished):
    home = finished[0]
    with pytest.raises(InputError, match=f"{home}: no study.*give one of {home / 'study'}"):
        inspector.load(home, RUN)
    with pytest.raises(InputError, match="give an --output_dir of experiments.fewshot"):
        inspector.load(home / "nowhere", RUN)


def test_another_encoder_is_refused_and_a_moved_one_found(finished, tmp_path, ready):
    home = finished[0]
    other = write_encoder(tmp_path / "other.safetensors", 1)
    with pytest.raises(InputError, match=f"{other}: not the one that the study was made with"):
        inspector.load(home / "study", RUN, str(other))
    moved = shutil.copy(home / "encoder.safetensors", tmp_path / "moved.safetensors")
    assert inspector.load(home / "study", RUN, str(moved)).spec.encoder.digest == ready.spec.encoder.digest
    with pytest.raises(InputError, match="the study's encoder: .*not there"):
        inspector.load(home / "study", RUN, str(tmp_path / "lost.safetensors"))


def test_damage_is_told(finished, tmp_path):
    shutil.copytree(finished[0] / "study", tmp_path / "study")
    shutil.rmtree(tmp_path / "study" / "params" / "2-000")
    with pytest.raises(InputError, match="2-000: cannot be read"):
        inspector.load(tmp_path / "study", RUN)
    (tmp_path / "study" / "settings.json").write_text("{")
    with pytest.raises(InputError, match="settings.json: cannot be read"):
        inspector.load(tmp_path / "study", RUN)


def test_new_parts_are_found_by_name_with_the_settings_beside_them(tmp_path):
    write_parts(tmp_path / "new", 2, masks=True)
    (tmp_path / "dataset.toml").write_text("[xyz]\nunit = 0.5\n")
    problems = Problems()
    found = folder.read_new(tmp_path / "new", Options(), problems)
    assert [(record.category, record.id, record.source.mask()) for record in found] == [
        ("new", "000", None),
        ("new", "001", None),
    ]
    assert found[0].source.scan.unit == 0.5
    (tmp_path / "new" / "dataset.toml").write_text("")
    assert folder.read_new(tmp_path / "new", Options(), problems)[0].source.scan.unit == 1.0
    assert folder.read_new(tmp_path / "new", Options(unit=0.1), problems)[0].source.scan.unit == 0.1
    assert not problems.found
    (tmp_path / "new" / "rgb" / "001.png").unlink()
    assert [record.id for record in folder.read_new(tmp_path / "new", Options(), problems)] == ["000"]
    assert "no partner" in problems.found[0]
    with pytest.raises(InputError, match="no such folder"):
        folder.read_new(tmp_path / "nowhere", Options(), problems)


def inspect(home, output, *flags):
    places = f"--run={home / 'study'}", f"--output_dir={output}"
    return commands.run("experiments.inspect_parts", *places, *flags, PIRN_CACHE=str(home / "cache"))


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_command_ranks_test_parts_and_writes_the_studys_maps(finished, tmp_path):
    home, spec, params = finished
    for name in ("train", "validation", "test"):
        write_parts(tmp_path / "data" / "knob" / name / "good", 3, masks=name == "test")
    done = inspect(home, tmp_path / "out", "--seed=1", f"--data_dir={tmp_path / 'data'}")
    assert done.returncode == 0, done.stderr
    records = mvtec3d.read(tmp_path / "data", ("knob",))["knob"].test
    # From the command's cache, where they lie only if it prepared parts as the study did.
    names = inputs.identify(records, spec.preparation, Problems())
    cached = [cache.load(cache.path(home / "cache", "inputs", name)) for name in names]
    seen, regions = (np.stack([getattr(part, name) for part in cached]) for name in ("values", "mask"))
    paths = [tmp_path / "out" / "maps" / "knob" / f"{record.id}.tiff" for record in records]
    maps = dict(zip((record.id for record in records), map(tifffile.imread, paths), strict=True))
    np.testing.assert_allclose(list(maps.values()), measured(spec, params, seen, regions, SIZE), rtol=1e-5, atol=1e-6)
    rows = rows_of(tmp_path / "out" / "scores.csv")
    assert [row["part"] for row in rows] == sorted(maps, key=lambda part: -maps[part].max())
    for row in rows:
        top = maps[row["part"]]
        assert top[int(row["row"]), int(row["column"])] == top.max() == np.float32(row["score"])
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == [row["part"] for row in rows]


def test_a_part_that_cannot_be_used_is_told_after_the_others_were_inspected(finished, tmp_path):
    write_parts(tmp_path / "new", 2, masks=False)
    (tmp_path / "new" / "rgb" / "000.png").write_bytes(b"no image")
    done = inspect(finished[0], tmp_path / "out", f"--parts={tmp_path / 'new'}")
    assert done.returncode == 1
    assert "000.png: not a readable image" in done.stderr.splitlines()[-1]
    assert [row["part"] for row in rows_of(tmp_path / "out" / "scores.csv")] == ["001"]


def test_flags_that_contradict_the_study_are_refused(finished, tmp_path):
    done = inspect(finished[0], tmp_path / "out", "--normals=native", f"--parts={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --normals: parts are read")
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_method_with_groups_of_layers_is_loaded(finished, images, tmp_path):
    spec = finished[1]
    encoder = pretrained.load(spec.encoder.name, [((1,), (2, 3))])
    config = patchcore.Config()
    banks = dataclasses.replace(spec, method="patchcore", config=config, recipe=None, encoder=encoder)
    method, support = banks.build(), features.encode(encoder, spec.grid, images[:2])
    given = Features(jnp.asarray(support), jnp.ones((2, 16), bool))
    params = jax.tree.map(lambda x: np.asarray(x)[None], method.finalize({}, {}, given))
    storage.save_group(tmp_path, "2-000", describe(banks, ["knob"], []), params, {}, {"runs": [RUN]})
    found = inspector.load(tmp_path, RUN)(images)
    assert found.scores[2] > 10 * max(found.scores[:2])
