"""Features have the same bits from the cache or not, in any order, by several processes."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax import cache, features, inputs
from pirn_jax.data import sample
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Files, Record
from pirn_jax.data.scans import Cloud
from pirn_jax.encoders import filter_bank, pretrained, vit
from pirn_jax.inputs import Preparation
from pirn_jax.stopwatch import Stopwatch

SIZE = 28
PARTS = features.BATCH + 3
PREPARATION = Preparation(SIZE, foreground="none")


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def make_encoder(seed: int = 0, *groups: tuple[int, ...]) -> pretrained.Encoder:
    config = vit.ViTConfig(width=12, depth=2, heads=3, patch=7, position_grid=4)
    shapes = jax.eval_shape(vit.ViT(config, (1, 2)).init, jax.random.key(0), jnp.zeros((SIZE, SIZE, 3)))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.2, size=leaf.shape), jnp.float32), shapes)
    return pretrained._make("tiny", config, params, groups or ((1, 2),), "")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_parts(tmp_path_factory.mktemp("parts"))


def write_parts(folder: pathlib.Path) -> list[Record]:
    """Parts of 10x16 pixels, each with another surface and colour."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:10, :16] * 1e-3
    found = []
    for i in range(PARTS):
        rgb, xyz = folder / f"{i:03}.png", folder / f"{i:03}.tiff"
        z = 0.5 + rng.normal() * x + rng.normal() * y + 1e-4 * rng.normal(size=x.shape)
        PIL.Image.fromarray(rng.integers(0, 256, (10, 16, 3), dtype=np.uint8)).save(rgb)
        tifffile.imwrite(xyz, np.stack([x, y, z], axis=-1).astype(np.float32), photometric="rgb")
        found.append(Record("bolt", "train", "good", f"train/good/{i:03}", Files(rgb, Cloud(xyz))))
    return found


def identify(records) -> list[str]:
    problems = Problems()
    names = inputs.identify(records, PREPARATION, problems)
    problems.check()
    return names


def extract(records, encoder, cache, **options) -> np.ndarray:
    names, grid = identify(records), PREPARATION.size // encoder.config.patch
    return features.extract(records, names, encoder, grid, PREPARATION, cache, Stopwatch(), **options).values


def cached(cache: pathlib.Path) -> list[pathlib.Path]:
    return sorted((cache / "features").rglob("*.npz"))


def copied(record: Record, folder: pathlib.Path) -> Record:
    rgb, xyz = (pathlib.Path(shutil.copy(path, folder)) for path in (record.source.rgb, record.source.scan.path))
    return dataclasses.replace(record, source=Files(rgb, Cloud(xyz)))


def test_features_have_both_modalities_of_every_part(records, encoder, tmp_path):
    found = extract(records, encoder, tmp_path)
    assert found.shape == (PARTS, 2, 1, 16, 12)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert len(np.unique(found.reshape(PARTS, -1)[:, 0])) == PARTS


def test_features_are_those_of_the_encoder(records, encoder, tmp_path):
    seen = inputs.prepare(sample.load(records[2]), PREPARATION).values
    model = jax.jit(vit.ViT(encoder.config, (1, 2)).apply)
    images = vit.normalise(jnp.asarray(seen), encoder.config)
    rgb, normals = (model(encoder.params, image) for image in images)
    found = extract(records[2:3], encoder, tmp_path)
    np.testing.assert_allclose(found[0, :, 0], np.stack([rgb, normals]), rtol=1e-4, atol=1e-5)


def test_a_hit_gives_the_bits_of_the_miss_and_opens_no_image(records, encoder, tmp_path, monkeypatch):
    missed = extract(records, encoder, tmp_path)
    assert len(cached(tmp_path)) == PARTS
    monkeypatch.setattr(inputs, "load", None)
    np.testing.assert_array_equal(extract(records, encoder, tmp_path), missed)


def test_the_cache_may_be_deleted(records, encoder, tmp_path):
    first = extract(records, encoder, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    np.testing.assert_array_equal(extract(records, encoder, tmp_path / "cache"), first)


@pytest.mark.parametrize(
    "order",
    [range(PARTS)[::-1], [4], range(1, PARTS, 2), [10, 0, 9, 1], [3, 3, 5]],
    ids=["reversed", "one", "every other", "from both batches", "twice"],
)
def test_features_do_not_depend_on_what_shares_their_batch(records, encoder, tmp_path, order):
    together = extract(records, encoder, tmp_path / "together")
    apart = extract([records[i] for i in order], encoder, tmp_path / "apart")
    np.testing.assert_array_equal(apart, together[list(order)])


def test_only_missing_features_are_computed(records, encoder, tmp_path):
    whole = extract(records, encoder, tmp_path / "whole")
    extract(records[3:6], encoder, tmp_path / "grown")
    done = []
    found = extract(records, encoder, tmp_path / "grown", progress=done.append)
    np.testing.assert_array_equal(found, whole)
    assert done == [3, PARTS - 3]
    done.clear()
    extract(records, encoder, tmp_path / "grown", progress=done.append)
    assert done == [PARTS]


def test_one_program_serves_all_batches(records, tmp_path):
    features._program.cache_clear()
    encoder = make_encoder(1)
    with Stopwatch() as watch:
        names = identify(records)
        features.extract(records[:2], names[:2], encoder, 4, PREPARATION, tmp_path, watch)
        compiled = watch.compilations
        features.extract(records, names, encoder, 4, PREPARATION, tmp_path, watch)
    assert watch.compilations == compiled > 0
    assert watch.seconds["normals_s"] > 0
    assert watch.seconds["features_s"] > 0


@pytest.mark.parametrize("length", [0, 1, 60, 127, 500, -1])
def test_a_truncated_file_of_the_cache_is_computed_again(records, encoder, tmp_path, length):
    whole = extract(records[:2], encoder, tmp_path)
    for path in cached(tmp_path):
        path.write_bytes(path.read_bytes()[:length])
        assert cache.load(path) is None
        np.testing.assert_array_equal(extract(records[:2], encoder, tmp_path), whole)
        assert cache.load(path) is not None


def test_a_file_of_the_cache_that_holds_something_else_is_computed_again(records, encoder, tmp_path):
    whole = extract(records[:1], encoder, tmp_path)
    (path,) = cached(tmp_path)
    path.write_bytes(b"\0" * path.stat().st_size)
    np.testing.assert_array_equal(extract(records[:1], encoder, tmp_path), whole)
    np.testing.assert_array_equal(cache.load(path).values, whole[0])


def test_left_over_temporary_files_are_ignored(records, encoder, tmp_path):
    whole = extract(records[:1], encoder, tmp_path)
    (path,) = cached(tmp_path)
    for name in ("tmpabc.tmp", ".tmpabc.tmp", f"{path.name}.tmp"):
        (path.parent / name).write_bytes(path.read_bytes()[:200])
    np.testing.assert_array_equal(extract(records[:1], encoder, tmp_path), whole)


def race(folder: str, cache: str, rounds: str, out: str) -> None:
    """Extracts everything anew in each round, into a cache that another process fills at the same time."""
    records, encoder = write_parts(pathlib.Path(folder)), make_encoder()
    found = []
    for turn in range(int(rounds)):
        other = dataclasses.replace(encoder, digest=f"{turn}")
        found.append(extract(records, other, pathlib.Path(cache)))
    np.save(out, np.stack(found))


def test_two_processes_may_fill_one_cache(records, encoder, tmp_path):
    expected = extract(records, encoder, tmp_path / "alone")
    command = "import sys; from tests import test_features; test_features.race(*sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    children = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        arguments = [str(tmp_path / name), str(tmp_path / "shared"), "2", str(tmp_path / f"{name}.npy")]
        children.append(subprocess.Popen([sys.executable, "-c", command, *arguments], env=environment))
    assert [child.wait(120) for child in children] == [0, 0]
    for name in ("one", "two"):
        for found in np.load(tmp_path / f"{name}.npy"):
            np.testing.assert_array_equal(found, expected)


def test_extraction_leaves_the_encoder_as_it_is(records, tmp_path):
    encoder = make_encoder()
    before = jax.tree.map(np.array, encoder.params)
    extract(records, encoder, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, before, encoder.params)


def test_the_place_of_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PIRN_CACHE", str(tmp_path / "mine"))
    assert cache.cache_directory() == tmp_path / "mine"
    monkeypatch.setenv("PIRN_CACHE", "")
    assert cache.cache_directory() == pathlib.Path.home() / ".cache" / "pirn_jax"
    monkeypatch.delenv("PIRN_CACHE")
    assert cache.cache_directory() == pathlib.Path.home() / ".cache" / "pirn_jax"


def test_features_are_kept_for_each_encoder_apart(records, tmp_path, monkeypatch):
    encoders = (make_encoder(), make_encoder(1), make_encoder(0, (1,)), make_encoder(0, (1,), (2,)))
    found = [extract(records[:1], encoder, tmp_path) for encoder in encoders]
    assert len(cached(tmp_path)) == len(encoders)
    for encoder, first in zip(encoders, found, strict=True):
        np.testing.assert_array_equal(extract(records[:1], encoder, tmp_path), first)
    monkeypatch.setattr(features, "_CACHE_VERSION", "another")
    extract(records[:1], encoders[0], tmp_path)
    assert len(cached(tmp_path)) == len(encoders) + 1


def test_encoders_of_equal_weights_share_features(records, encoder, tmp_path):
    extract(records, encoder, tmp_path)
    extract(records, make_encoder(), tmp_path)
    assert len(cached(tmp_path)) == PARTS


def test_a_process_without_samples_has_features_of_none(encoder, tmp_path):
    found = features.extract([], [], encoder, 4, PREPARATION, tmp_path, Stopwatch(), wanted=())
    assert found.mask.shape == (0, 16)
    assert len(found.values) == len(found.notes) == 0


def test_no_temporary_file_stays_behind(records, encoder, tmp_path):
    extract(records[:3], encoder, tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".npz"}


def test_a_file_of_the_cache_appears_whole_though_two_write_it(records, encoder, tmp_path, monkeypatch):
    whole = extract(records[:1], encoder, tmp_path / "alone")
    save, there = np.savez, []

    def save_while_another_does(file, **arrays):
        if arrays["values"].dtype != np.float32:
            save(file, **arrays)
            return
        if not there:
            there.append(len(cached(tmp_path / "shared")))
            extract(records[:1], encoder, tmp_path / "shared")
        save(file, **arrays)
        file.flush()
        there.append(len(cached(tmp_path / "shared")))

    monkeypatch.setattr(np, "savez", save_while_another_does)
    np.testing.assert_array_equal(extract(records[:1], encoder, tmp_path / "shared"), whole)
    # Before either writes, when the inner one has written but not yet renamed, and when it has.
    assert there == [0, 0, 1]
    np.testing.assert_array_equal(extract(records[:1], encoder, tmp_path / "shared"), whole)


def test_each_modality_follows_its_own_file(records, encoder, tmp_path):
    one, other = records[0], records[1]
    recoloured = dataclasses.replace(one, source=dataclasses.replace(one.source, rgb=other.source.rgb))
    reshaped = dataclasses.replace(one, source=dataclasses.replace(one.source, scan=other.source.scan))
    first, colour, shape = extract([one, recoloured, reshaped], encoder, tmp_path)
    np.testing.assert_array_equal(colour[1], first[1])
    np.testing.assert_array_equal(shape[0], first[0])
    assert np.abs(colour[0] - first[0]).max() > 1e-3
    assert np.abs(shape[1] - first[1]).max() > 1e-3


def test_all_parts_that_cannot_be_used_are_named_and_the_others_prepared(records, encoder, tmp_path):
    broken = []
    for i, record in enumerate(records[:2]):
        (tmp_path / str(i)).mkdir()
        broken.append(copied(record, tmp_path / str(i)))
        path = broken[-1].source.scan.path
        path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError) as error:
        extract([broken[0], records[3], broken[1]], encoder, tmp_path / "cache")
    assert str(error.value).startswith("2 problems:")
    for record in broken:
        assert f"{record.source.scan.path}: not a readable TIFF" in str(error.value)
    assert len(list((tmp_path / "cache" / "inputs").rglob("*.npz"))) == 1


def test_notes_come_with_features_from_the_cache_as_well(records, encoder, tmp_path):
    source = dataclasses.replace(records[0].source, scan=Cloud(records[0].source.scan.path, 2000.0))
    parts = [dataclasses.replace(records[0], source=source), records[1]]
    for _ in range(2):
        notes = features.extract(parts, identify(parts), encoder, 4, PREPARATION, tmp_path, Stopwatch()).notes
        assert "m away" in notes[0]
        assert notes[1] == ""


def test_groups_of_layers_are_means_of_their_blocks(records, tmp_path):
    both = extract(records[:1], make_encoder(0, (1,), (1, 2)), tmp_path)
    first, mean = (extract(records[:1], make_encoder(0, group), tmp_path) for group in ((1,), (1, 2)))
    assert both.shape == (1, 2, 2, 16, 12)
    np.testing.assert_allclose(both, np.concatenate([first, mean], axis=2), rtol=1e-5, atol=1e-6)
    assert np.abs(first - mean).max() > 0.01


def test_the_filter_bank_is_an_encoder(records, tmp_path):
    encoder = pretrained.load("filter_bank")
    found = extract(records[:1], encoder, tmp_path)
    assert found.shape == (1, 2, 1, 4, encoder.config.width)
    describe = jax.jit(filter_bank.describe, static_argnums=1)
    for values, image in zip(found[0, :, 0], inputs.prepare(sample.load(records[0]), PREPARATION).values, strict=True):
        np.testing.assert_allclose(values, describe(image / np.float32(255), 14), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="filter_bank has no blocks"):
        pretrained.load("filter_bank", [((1,),)])


@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        # Seven pixels to the patches above and to the right, eight to those below and to the left.
        (20, 35, [0, 1], [2, 3]),
        (21, 34, [1, 2], [1, 2]),
    ],
)
def test_patches_within_half_a_patch_of_the_part_are_kept_and_farther_ones_are_not(row, column, rows, columns):
    region, expected = np.zeros((56, 56), bool), np.zeros((4, 4), bool)
    region[row, column] = True
    expected[np.ix_(rows, columns)] = True
    np.testing.assert_array_equal(features.patch_mask(region, 4).reshape(4, 4), expected)


def test_without_a_part_all_patches_count():
    assert features.patch_mask(np.zeros((28, 28), bool), 2).all()


def test_masks_come_with_features_from_the_cache_as_well(records, encoder, tmp_path):
    # The parts' images are 16x10 pixels, so a square has rows above and below that show nothing.
    for _ in range(2):
        found = features.extract(records[:2], identify(records[:2]), encoder, 4, PREPARATION, tmp_path, Stopwatch())
        assert found.mask.shape == (2, 16)
        assert found.mask.all()
    wide = Preparation(56, foreground="none")
    names = inputs.identify(records[:1], wide, Problems())
    for _ in range(2):
        found = features.extract(records[:1], names, encoder, 8, wide, tmp_path, Stopwatch())
        rows = found.mask.reshape(8, 8)
        assert rows[1:7].all()
        assert not rows[[0, 7]].any()


def test_depth_is_cached_apart_from_normals(records, encoder, tmp_path):
    preparation = dataclasses.replace(PREPARATION, geometry="depth")
    names = inputs.identify(records[:2], preparation, Problems())
    normals = extract(records[:2], encoder, tmp_path)
    depth = features.extract(records[:2], names, encoder, 4, preparation, tmp_path, Stopwatch()).values
    np.testing.assert_array_equal(depth[:, 0], normals[:, 0])
    assert np.abs(depth[:, 1] - normals[:, 1]).max() > 0.1
    assert len(cached(tmp_path)) == 4
