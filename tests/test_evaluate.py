"""The command that scores saved maps: maps of other programs, the project's own, and maps that do not fit."""

import json
import pathlib
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import tifffile
from absl.testing import flagsaver
from sklearn.metrics import roc_auc_score

from experiments import metric_settings
from pirn_jax.data import maps
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.metrics import exact
from pirn_jax.metrics.evaluation import MetricSettings
from tests import commands, reference
from tests.test_mvtec3d import write_part

SIZE = (20, 30)
WRITE = {
    ".npy": np.save,
    ".npz": lambda path, array: np.savez_compressed(path, anomaly=array),
    ".tiff": tifffile.imwrite,
    ".png": lambda path, array: PIL.Image.fromarray(array).save(path),
}


def run(*flags: str) -> tuple[int, str, str]:
    """Status, output and errors of the command."""
    done = commands.run("experiments.evaluate", "--dataset=mvtec3d", *flags)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def save(root: pathlib.Path, key: str, scores: np.ndarray, suffix: str) -> pathlib.Path:
    path = root / f"{key}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITE[suffix](path, scores)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of one category on disk, and its whole-numbered scores and masks by id."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    write_part(root / "bolt" / "train" / "good", "000", size=SIZE)
    scores, masks = {}, {}
    for key in ("good/000", "good/001", "dent/000", "dent/001", "hole/000"):
        mask = np.zeros(SIZE, bool)
        if not key.startswith("good"):
            row = len(masks) * 2
            mask[row : row + 4, 5:11] = True
            mask[row + 4, 11] = mask[19, 29] = True
        kind, name = key.split("/")
        write_part(root / "bolt" / "test" / kind, name, mask.astype(np.uint8) * 255, size=SIZE)
        scores[f"test/{key}"] = (rng.integers(0, 40, SIZE) * 100 + 1500 * mask).astype(np.uint16)
        masks[f"test/{key}"] = mask
    return root, scores, masks


def test_maps_of_each_format_have_the_numbers_of_the_definitions(data, tmp_path):
    root, scores, masks = data
    suffixes = [".npy", ".npz", ".tiff", ".png", ".npy"]
    for (key, array), suffix in zip(scores.items(), suffixes, strict=True):
        save(tmp_path / "maps" / "bolt", key, array if suffix == ".png" else array.astype(np.float64), suffix)
    status, output, errors = run(
        f"--data_dir={root}", f"--maps={tmp_path / 'maps'}", f"--output_dir={tmp_path}", "--limits=.3,.02"
    )
    assert status == 0, errors
    written = json.loads((tmp_path / "evaluate.json").read_text())
    values = written["categories"]["bolt"]["all"]["values"]
    flat = [np.concatenate([array.ravel() for array in of.values()]) for of in (scores, masks)]
    highest, defective = [array.max() for array in scores.values()], [mask.any() for mask in masks.values()]
    both = list(scores.values()), list(masks.values())
    expected = {
        "image_auroc": reference.auroc(highest, defective),
        "image_ap": reference.average_precision(highest, defective),
        "pixel_auroc": roc_auc_score(flat[1], flat[0]),
        "pixel_ap": reference.average_precision(*flat),
        "pixel_f1": reference.f1_max(*flat)[0],
        "pixel_f1_threshold": reference.f1_max(*flat)[1],
        "aupro_30": reference.aupro(*both, 0.3),
        "aupro_02": reference.aupro(*both, 0.02),
    }
    np.testing.assert_allclose([values[name] for name in expected], list(expected.values()), atol=1e-12)
    assert written["mean"]["aupro_02"] == values["aupro_02"]
    assert written["settings"]["limits"] == [0.3, 0.02]
    assert set(written["categories"]["bolt"]["defects"]) == {"dent", "hole"}
    assert written["categories"]["bolt"]["sizes"]["large"]["regions"] == 3
    heading, row = (line.split() for line in output.splitlines()[1:3])
    assert row[1 + heading.index("aupro_30")] == f"{values['aupro_30']:.4f}"
    assert "resolution original image" in output
    assert "connectivity 8" in output


def test_the_projects_own_maps_and_the_peer_form(data, tmp_path):
    root, scores, masks = data
    for seed, factor in ((0, 1.0), (1, -1.0)):
        for key, array in scores.items():
            save(tmp_path / "bolt" / f"seed-{seed}", key, (array * factor).astype(np.float32), ".tiff")
    flags = [f"--data_dir={root}", f"--maps={tmp_path}", f"--output_dir={tmp_path / 'out'}", "--metrics=peer"]
    status, _, errors = run(*flags)
    assert status == 1
    assert "2 seeds, seed-0, seed-1; choose one with --seed" in errors
    status, output, errors = run(*flags, "--seed=0", "--resolution=30")
    assert status == 0, errors
    values = json.loads((tmp_path / "out" / "evaluate.json").read_text())["categories"]["bolt"]["all"]["values"]
    for limit in exact.LIMITS:
        expected = reference.peer_aupro(list(scores.values()), list(masks.values()), limit)
        np.testing.assert_allclose(values[exact.aupro_name(limit)], expected, atol=1e-12)
    assert "form peer; resolution 30" in output
    status, output, errors = run(*flags, "--seed=1")
    assert "form peer; resolution 224" in output, errors


def test_all_that_does_not_fit_is_told_in_one_list(data, tmp_path):
    root, scores, _ = data
    for key, array in scores.items():
        save(tmp_path / "bolt", key, array.astype(np.float32), ".npy")
    flags = (f"--data_dir={root}", f"--maps={tmp_path}", f"--output_dir={tmp_path / 'out'}")
    wrong = np.full(SIZE, 1.0)
    wrong[3, :7] = np.nan
    save(tmp_path / "bolt", "test/good/000", wrong, ".npy")
    save(tmp_path / "bolt", "test/dent/000", np.zeros((30, 20)), ".npy")
    (tmp_path / "bolt" / "test" / "hole" / "000.npy").write_bytes(b"\x93NUMPY")
    status, output, errors = run(*flags)
    problems = [line for line in errors.splitlines() if line.startswith("problem: ")]
    assert (status, output) == (1, "")
    assert len(problems) == 3
    assert re.search(r"good/000.npy: 7 of 600 scores are NaN", errors)
    assert re.search(r"dent/000.npy: 20x30 pixels, but its image has 30x20", errors)
    assert re.search(r"hole/000.npy: not a readable NPY", errors)

    (tmp_path / "bolt" / "test" / "good" / "000.npy").unlink()
    save(tmp_path / "bolt", "test/dent/007", wrong, ".npy")
    save(tmp_path / "bolt", "test/dent/001", wrong, ".tiff")
    status, output, errors = run(*flags)
    assert (status, len([line for line in errors.splitlines() if line.startswith("problem: ")])) == (1, 3)
    for text in ("test/good/000: no map", "dent/007.npy: no test part", "001.tiff: a second map beside 001.npy"):
        assert text in errors
    assert not (tmp_path / "out" / "evaluate.json").exists()


def test_masks_and_images_that_cannot_be_used_hide_no_map_that_does_not_fit(data, tmp_path):
    root = pathlib.Path(shutil.copytree(data[0], tmp_path / "data"))
    for key, array in data[1].items():
        save(tmp_path / "maps" / "bolt", key, array.astype(np.float32), ".npy")
    test = root / "bolt" / "test"
    PIL.Image.fromarray(np.zeros(SIZE, np.uint8)).save(test / "dent" / "gt" / "000.png")
    PIL.Image.fromarray(np.ones((3, 4), np.uint8)).save(test / "dent" / "gt" / "001.png")
    (test / "good" / "rgb" / "001.png").write_bytes(b"")
    save(tmp_path / "maps" / "bolt", "test/hole/000", np.full(SIZE, np.inf), ".npy")
    status, output, errors = run(f"--data_dir={root}", f"--maps={tmp_path / 'maps'}", f"--output_dir={tmp_path}")
    problems = [line for line in errors.splitlines() if line.startswith("problem: ")]
    assert (status, output) == (1, "")
    texts = (
        "good/rgb/001.png: not",
        "gt/000.png: no pixel is marked",
        "gt/001.png: 4x3 pixels",
        "hole/000.npy: 600 of 600",
    )
    for text in texts:
        assert sum(text in problem for problem in problems) == 1, errors
    assert len(problems) == len(texts)
    assert errors.splitlines()[-1] == "error: 4 problems, evaluate.json is not written"
    save(tmp_path / "maps" / "bolt", "test/hole/000", np.ones(SIZE), ".npy")
    status, output, errors = run(f"--data_dir={root}", f"--maps={tmp_path / 'maps'}", f"--output_dir={tmp_path}")
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1] == "error: 3 problems, evaluate.json is not written"


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--limits=0.3,2", "--limits"),
        ("--maps=nowhere", "nowhere/bolt: no such folder"),
        ("stray", "'stray' is no flag"),
    ],
)
def test_what_the_user_gave_wrongly_is_one_sentence(data, tmp_path, flag, text):
    status, output, errors = run(f"--data_dir={data[0]}", f"--maps={tmp_path}", flag)
    assert (status, output) == (1, "")
    assert text in errors


@pytest.mark.parametrize("given", [{"limits": ["a"]}, {"limits": [" "]}, {"resolution": 0}, {"image_score": "2"}])
def test_impossible_settings_name_their_flags(given):
    if not metric_settings.FLAGS.is_parsed():
        metric_settings.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**given), pytest.raises(InputError, match=f"--{next(iter(given))}"):
        metric_settings.read()


def test_the_peer_form_has_the_resolution_of_public_codes_unless_another_is_given():
    if not metric_settings.FLAGS.is_parsed():
        metric_settings.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(metrics="peer"):
        assert metric_settings.read().resolution == 224
    with flagsaver.flagsaver(metrics="peer", resolution=30, limits=["0.1"]):
        assert metric_settings.read() == MetricSettings("peer", (0.1,), 30)


def test_a_map_is_read_as_it_was_written(tmp_path):
    scores = np.arange(600, dtype=np.uint16).reshape(SIZE) * 100
    for suffix in WRITE:
        np.testing.assert_array_equal(maps.read(save(tmp_path, "whole", scores, suffix)), scores)
    for suffix in (".npy", ".npz", ".tiff"):
        np.testing.assert_array_equal(maps.read(save(tmp_path, "real", scores / 7, suffix)), scores / 7)


def write_bad(folder: pathlib.Path) -> list[tuple[pathlib.Path, str]]:
    grey = np.zeros(SIZE, np.uint8)
    two = folder / "two.npz"
    np.savez(two, a=grey, b=grey)
    pickled = folder / "pickled.npy"
    np.save(pickled, np.array([{}]), allow_pickle=True)
    cut = save(folder, "cut", grey.astype(np.float32), ".tiff")
    cut.write_bytes(cut.read_bytes()[:200])
    return [
        (save(folder, "eight", grey, ".png"), "8 bits merge scores"),
        (save(folder, "colour", np.zeros((*SIZE, 3), np.uint8), ".png"), "mode RGB"),
        (save(folder, "stack", np.zeros((1, *SIZE)), ".npy"), r"shape \(1, 20, 30\)"),
        (save(folder, "truth", grey > 0, ".npy"), "bool"),
        (save(folder, "none", np.zeros((0, 3)), ".npy"), "shape"),
        (two, "2 arrays"),
        (pickled, "not a readable NPY"),
        (cut, "not a readable TIFF"),
    ]


def test_what_is_no_map_is_named(tmp_path):
    for path, text in write_bad(tmp_path):
        with pytest.raises(InputError, match=text) as error:
            maps.read(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "; " in str(error.value)


def test_dots_in_names_and_hidden_files_do_not_confuse(tmp_path, data):
    from pirn_jax.data import mvtec3d

    record = mvtec3d.read(data[0])["bolt"].test[0]
    dotted = type(record)("bolt", "test", "good", "test/good/part.1.5", record.source)
    path = save(tmp_path / "bolt", dotted.id, np.zeros(SIZE), ".npy")
    (path.parent / ".part.npy").write_bytes(b"")
    (path.parent / "notes.txt").write_text("")
    problems = Problems()
    assert maps.find(tmp_path, "bolt", [dotted], None, problems) == [path]
    assert not problems.found
