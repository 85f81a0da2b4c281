"""Runs that learn from every good part of a category, whose features are read as steps need them."""

import json
import logging
import signal
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pirn_jax import cache
from pirn_jax.cache import Prepared
from pirn_jax.data.problems import InputError
from pirn_jax.methods import pirn
from pirn_jax.methods.base import Features, Recipe
from pirn_jax.study import memory, packing, storage
from pirn_jax.study.streaming import Reader
from pirn_jax.training import episodes, parallel, train, validation, windows
from pirn_jax.training.episodes import ALL, Run
from pirn_jax.training.programs import compile_programs
from tests import commands

CONFIG = pirn.Config(score="cosine", num_prototypes=3, sinkhorn_iterations=3, neighbours=2, heads=2, num_layers=1)
METHOD = pirn.build(CONFIG, ("rgb", "normals"))
LOSS: Any = METHOD.loss
RECIPE = Recipe(epochs=9, learning_rate=3e-3, batch_size=2)
PARTS, N, C, MOST = 6, 9, 8, 7


def write(folder, parts=PARTS):
    """Entries of a cache; the patches of no part are alike."""
    rng = np.random.default_rng(parts)
    paths = [folder / f"{i}.npz" for i in range(parts)]
    for path in paths:
        entry = Prepared(rng.normal(size=(2, 1, N, C)).astype(np.float32), rng.random(N) < 0.7, "")
        cache.save(path, entry)
    return paths


def load(path) -> Prepared:
    found = cache.load(path)
    assert found is not None
    return found


def reader(paths, room=0):
    masks = np.stack([load(path).mask for path in paths])
    masks[:, :7] = True  # So that as many patches are kept of every category.
    masks[:, 7:] = False
    kept = packing.order(masks)
    shown = np.take_along_axis(masks, kept, axis=1)
    return Reader(paths, kept, shown, [0, 1], (2, 1, kept.shape[1], C), np.dtype(np.float32), MOST, room)


def train_runs(features, parts, recipe=RECIPE):
    runs = [Run("a", ALL, seed) for seed in range(2)]
    chosen = np.stack([episodes.draw(run, parts) for run in runs])
    return train.train(compile_programs(METHOD), runs, features, np.zeros(2, int), chosen, recipe)


def on_device(source):
    return Features(*jax.device_put(source.read(np.arange(len(source.paths)))))


@pytest.mark.parametrize("window", [windows.WINDOW_BYTES, 4 * 448])
def test_training_on_windows_equals_training_on_all_features(tmp_path, monkeypatch, window):
    source = reader(write(tmp_path))
    monkeypatch.setattr(windows, "WINDOW_BYTES", window)
    # 27 steps are two calls of 25 with all parts in a window, or 27 with the four of a step, of 448 bytes each.
    (streamed, told), (whole, expected) = (train_runs(of, PARTS) for of in (source, on_device(source)))
    assert told["loss"].shape == (2, 27)
    np.testing.assert_allclose(told["loss"], expected["loss"], rtol=1e-5)
    pair = parallel.collect(streamed.params), parallel.collect(whole.params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), *pair)


@pytest.mark.usefixtures("compilations_told")
def test_categories_of_any_number_of_parts_share_one_program(tmp_path):
    compiled = []

    class Listener(logging.Handler):
        def emit(self, record):
            if "Compiling" in record.getMessage() and "jit(steps)" in record.getMessage():
                compiled.append(record.getMessage())

    logger, listener = logging.getLogger("jax._src.interpreters.pxla"), Listener()
    logger.addHandler(listener)
    try:
        for parts in (5, PARTS, MOST):
            _, told = train_runs(reader(write(tmp_path / str(parts), parts)), parts, Recipe(10, 1e-3, 3))
            assert told["loss"].shape == (2, -(-10 * parts // 3))
    finally:
        logger.removeHandler(listener)
    assert len(compiled) == 1


def test_a_window_holds_each_sample_once_and_has_a_size_that_only_their_number_decides(tmp_path):
    source = reader(write(tmp_path))
    for samples in (np.array([[4, 1], [4, 0]]), np.array([[2, 2], [2, 2]])):
        held, places = windows.window(source, samples)
        assert held.mask.shape[:2] == (1, 4)
        expected = np.stack([load(source.paths[i]).values for i in samples.ravel()])
        packed = packing.pack(expected, source.kept[samples.ravel()])
        np.testing.assert_array_equal(np.asarray(held.values)[0, places.ravel()], packed)
        np.testing.assert_array_equal(np.asarray(held.mask)[0, places.ravel()], source.shown[samples.ravel()])
    held, _ = windows.window(source, np.zeros((5, 5), int))
    assert held.mask.shape[:2] == (1, MOST) == windows.shapes(source, 25).mask.shape[:2]


def test_only_as_many_samples_stay_in_memory_as_have_room(tmp_path):
    source = reader(write(tmp_path), room=2)
    first = source.read(np.arange(PARTS))
    assert sorted(source.memory) == [0, 1]
    for path in source.paths[:2]:
        path.unlink()
    np.testing.assert_array_equal(source.read(np.array([0, 1])).values, first.values[:, :2])
    source.paths[2].write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"2\.npz: gone from the cache or damaged .* run the same command again"):
        source.read(np.arange(3))


def test_values_are_computed_ahead_by_one_and_in_order():
    asked = []

    def read(item):
        asked.append(item)
        return 10 * item

    found = windows.ahead(read, range(4))
    assert next(found) == 0
    time.sleep(0.1)
    assert asked == [0, 1]
    assert list(found) == [10, 20, 30]
    assert list(windows.ahead(read, [])) == []


def test_validation_loss_is_the_mean_over_parts_of_each_run(tmp_path):
    source = reader(write(tmp_path))
    trained, _ = train_runs(source, PARTS)
    runs = [Run("a", ALL, seed) for seed in range(2)]
    found = validation.loss_of(LOSS, trained, runs, source, np.zeros(2, int), 3)
    params = jax.tree.map(jnp.asarray, parallel.collect(trained.params))
    parts, loss = source.read(np.arange(3)), jax.jit(lambda *given: LOSS(*given, jax.random.key(0))[0])
    for i in range(2):
        of_run = jax.tree.map(lambda x, i=i: x[i], params)
        each = [loss(*of_run, Features(parts.values[0, j : j + 1], parts.mask[0, j : j + 1])) for j in range(3)]
        np.testing.assert_allclose(found[i], np.mean(each), rtol=1e-5)


def test_memory_that_is_not_there_is_refused_with_what_helps(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * memory.GIB)
    memory.require(2 * memory.GIB, "features", "")
    sentence = r"features need about 3\.0 GiB of memory, and 2\.0 GiB are available; lower --grid"
    with pytest.raises(InputError, match=sentence):
        memory.require(3 * memory.GIB, "features", "lower --grid")


def test_limits_of_a_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.available() > 5
    (tmp_path / "memory.max").write_text("100\n")
    (tmp_path / "memory.current").write_text("95\n")
    assert memory.available() == 5
    # Files that Linux keeps in memory make room when somebody needs it.
    (tmp_path / "memory.stat").write_text("anon 30\ninactive_file 40\nactive_file 20\n")
    assert memory.available() == 45
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available() > 45


def test_limits_of_an_older_container_count(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory").mkdir()
    for name, text in (("limit_in_bytes", "100"), ("usage_in_bytes", "95")):
        (tmp_path / "memory" / f"memory.{name}").write_text(text)
    assert memory.available() == 5
    (tmp_path / "memory" / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 7\n")
    assert memory.available() == 12


def test_a_state_of_other_runs_is_not_continued_and_groups_of_another_cut_are_removed(tmp_path):
    def checkpoint(runs):
        return storage.GroupCheckpoint(tmp_path, "2-000", {"runs": runs}, 0.0)

    checkpoint([1, 2]).save(3, lambda: [np.zeros(2)], {"loss": np.zeros((2, 3))})
    assert checkpoint([1]).restore() is None
    restored = checkpoint([1, 2]).restore()
    assert restored is not None
    assert restored[0] == 3
    for name in ("2-000", "2-001"):
        storage.save_group(tmp_path, name, {}, {"w": np.zeros(1)}, {}, {"runs": [name]})
    storage.remove_groups(tmp_path, but={"2-000"})
    assert [name for name, *_ in storage.load_groups(tmp_path, {})] == ["2-000"]
    assert [path.name for path in (tmp_path / "params").iterdir()] == ["2-000"]


def test_every_good_part_is_an_episode_and_exceeds_any_number():
    run = Run("bagel", ALL, 3)
    assert sorted(episodes.draw(run, 9)) == list(range(9))
    np.testing.assert_array_equal(episodes.draw(run, 9)[:4], episodes.draw(Run("bagel", 4, 3), 9))
    assert episodes.most([5, ALL, 50]) == ALL
    assert episodes.most([5, 50]) == 50
    with pytest.raises(InputError, match="bagel: all shots asked for, but only 0 good parts"):
        episodes.draw(run, 0)


DEEP = ("--debug", "--encoder=chroma", "--num_layers=2", "--noapr", "--nomnc", "--score=cosine", "--fusion=sum")
DEEP += ("--shots=all", "--categories=gear,knob", "--seeds=2", "--epochs=50", "--batch_size=2", "--input_size=32")
DEEP += ("--checkpoint_minutes=0", "--save_maps=none")


@pytest.mark.slow  # Three studies, each a process.
def test_a_study_killed_in_its_second_category_continues_to_the_same_bits(tmp_path):
    def start(name, *flags):
        flags = (*DEEP, *flags, f"--output_dir={tmp_path / name}")
        return commands.Command("experiments.fewshot", *flags, PIRN_CACHE=str(tmp_path / "cache"))

    done = start("whole").finish()
    assert done.returncode == 0, done.stderr
    # That all features are read again for every step changes nothing.
    process, kept = start("killed", "--feature_memory=0"), tmp_path / "killed" / "checkpoints" / "all-001"
    while not list(kept.glob("0*")):
        assert process.poll() is None, process.finish().stderr
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    assert process.finish().returncode == -9
    assert [path.name for path in (tmp_path / "killed" / "groups").iterdir()] == ["all-000.npz"]
    done = start("killed", "--feature_memory=0").finish()
    assert done.returncode == 0, done.stderr
    assert "good parts of gear" not in done.stderr
    assert not kept.exists()
    for group in ("all-000", "all-001"):
        pair = [storage.load_params(tmp_path / name, group) for name in ("whole", "killed")]
        jax.tree.map(np.testing.assert_array_equal, *pair)
        pair = [np.load(tmp_path / name / "groups" / f"{group}.npz")["train_loss"] for name in ("whole", "killed")]
        assert pair[0].shape == (2, 100)
        np.testing.assert_array_equal(*pair)
    results = json.loads((tmp_path / "killed" / "results.json").read_text())
    assert list(results["results"]) == list(results["mean"]) == ["all"]
    ids = [f"train/good/{i:03d}" for i in range(4)]
    assert all(sorted(run) == ids for runs in results["episodes"]["all"].values() for run in runs)
    losses = results["validation_loss"]["all"]
    assert list(losses) == ["gear", "knob"]
    assert all(len(runs) == 2 and min(runs) > 0 and max(runs) < 2 for runs in losses.values())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--shots=all,5",), "knob: 5 shots asked for, but only 4 good parts"),
        (("--shots=all,all",), "--shots=all,all: give one or more different whole numbers above zero, or all"),
        (("--shots=all", "--support_parts=1", "--method=cfr"), "--support_parts=1: cfr looks at all parts"),
        (("--shots=2", "--support_parts=1"), "--support_parts=1: only of use with --shots=all"),
    ],
)
def test_wrong_shots_are_one_sentence(tmp_path, flags, sentence):
    flags = ("--debug", "--encoder=random", "--grid=8", "--categories=knob", *flags, f"--output_dir={tmp_path / 'out'}")
    done = commands.run("experiments.fewshot", *flags)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_plan_is_printed_and_nothing_is_started(tmp_path):
    flags = ("--debug", "--encoder=random", "--grid=8", "--num_layers=1", "--score=cosine", "--fusion=sum")
    flags += ("--categories=knob", "--shots=2,all", "--seeds=3", "--epochs=5", "--batch_size=2", "--plan")
    done = commands.run("experiments.fewshot", *flags, f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    rows = [line.split() for line in done.stdout.splitlines()]
    few, every = (next(row for row in rows if row[:1] == [shots]) for shots in ("2", "all"))
    assert (few[:3], every[:3]) == (["2", "3", "5"], ["all", "3", "10"])
    assert all(float(row[3]) >= 0 and float(row[5]) >= 0 and float(row[7]) > 1 for row in (few, every))
    # Four good parts, one for validation, nine test parts; features of 192 channels, images and mask of 224 pixels.
    assert f"14 samples, {14 * (4 * 2 * 64 * 192 + 7 * 224**2) / 2**20:.1f} MiB in the cache" in done.stdout
