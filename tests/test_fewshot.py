"""The command as its users run it: outputs, continuation, and sentences about wrong input."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

from pirn_jax.study import storage
from tests import commands, reference

# Eleven runs are more than one group, so that an interrupted study has something to continue.
TINY = ("--debug", "--encoder=random", "--num_layers=1", "--grid=8")
STUDY = (*TINY, "--categories=knob", "--seeds=11", "--epochs=8", "--learning_rate=0.003")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def start(cache, *flags):
    return commands.Command("experiments.fewshot", *flags, PIRN_CACHE=str(cache))


def run(cache, *flags):
    done = start(cache, *flags).finish()
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    """An uninterrupted study: its directory, results and what it printed."""
    directory = tmp_path_factory.mktemp("out") / "study"
    status, output, errors = run(cache, *STUDY, f"--output_dir={directory}")
    assert status == 0, errors
    return directory, json.loads((directory / "results.json").read_text()), output


def test_results_keep_the_contract(finished):
    _, results, _ = finished
    assert results["schema"] == 1
    assert {"dataset", "method", "encoder", "settings", "results", "mean", "episodes", "timings", "versions"} <= set(
        results
    )
    values = results["results"]["2"]["knob"]
    assert set(values) == {"image_auroc", "pixel_auroc", "aupro_30"}
    for name, per_seed in values.items():
        assert len(per_seed) == 11
        assert all(0 <= value <= 1 for value in per_seed)
        np.testing.assert_allclose(results["mean"]["2"][name]["mean"], np.mean(per_seed))
        np.testing.assert_allclose(results["mean"]["2"][name]["std"], np.std(per_seed))
    more = results["more_results"]["2"]["knob"]
    assert {"image_ap", "pixel_ap", "pixel_f1", "aupro_01"} < set(more)
    assert all(len(per_seed) == 11 and None not in per_seed for per_seed in more.values())
    defects, sizes = (results[key]["2"]["knob"] for key in ("by_defect", "by_size"))
    assert {name: group["parts"] for name, group in defects.items()} == dict.fromkeys(defects, 1)
    assert set(sizes) == {"small", "medium", "large"}
    whole = results["results"]["2"]["knob"]["aupro_30"]
    for groups in (defects, sizes):
        some = [group for group in groups.values() if group["regions"]]
        regions = [group["regions"] for group in some]
        mean = np.average([group["metrics"]["aupro_30"] for group in some], axis=0, weights=regions)
        np.testing.assert_allclose(mean, whole)
    assert results["good_parts"] == {"knob": 4}
    episodes = results["episodes"]["2"]["knob"]
    assert len(episodes) == 11
    assert all(len(set(episode)) == 2 and episode[0].startswith("train/good/") for episode in episodes)
    trainings = results["trainings"]["2"]["knob"]
    assert all(training["loss"] < training["first_loss"] for training in trainings)
    # Eight steps do no harm: detection before them was not looked at.
    assert not any("untrained_image_auroc" in training for training in trainings)
    of_groups = {"compile_s", "train_s", "score_s", "metrics_s", "symptoms_s"}
    timings = {"normals_s", "features_s", "total_s"} | of_groups
    assert set(results["timings"]) == timings
    assert results["settings"]["epochs"] == 8
    assert results["settings"]["learning_rate"] == 0.003


def test_every_output_says_that_the_weights_are_random(finished):
    directory, results, output = finished
    assert "random weights" in output
    assert "random weights" in (directory / "report.html").read_text()
    assert any("random weights" in note for note in results["notes"])


def test_csv_holds_the_same_numbers(finished):
    directory, results, _ = finished
    rows = list(csv.DictReader((directory / "results.csv").read_text().splitlines()))
    assert [float(row["pixel_auroc"]) for row in rows] == results["results"]["2"]["knob"]["pixel_auroc"]


def test_loss_falls_and_scores_come_from_the_saved_parameters(finished):
    directory, _, _ = finished
    settings = json.loads((directory / "settings.json").read_text())
    arrays, facts = storage.load_group(directory, "2-000", settings)
    assert (arrays["train_loss"][:, -1] < 0.8 * arrays["train_loss"][:, 0]).all()
    params = storage.load_params(directory, "2-000")
    learned, fixed = params["learned"], params["fixed"]
    assert learned["prototypes"].shape == (len(facts["runs"]), 2, 10, 192)
    np.testing.assert_allclose(fixed["epsilon"], [0.05] * len(facts["runs"]))


def test_maps_have_the_size_of_the_images_and_their_maximum_ranks_the_parts(finished):
    directory, results, _ = finished
    maps = {p.relative_to(directory): tifffile.imread(p) for p in sorted((directory / "maps").rglob("*.tiff"))}
    assert len(maps) == 9
    assert {m.shape for m in maps.values()} == {(192, 192)}
    scores = {path: m.max() for path, m in maps.items()}
    good = [s for path, s in scores.items() if path.parent.name == "good"]
    bad = [s for path, s in scores.items() if path.parent.name != "good"]
    auroc = np.mean([(b > g) + 0.5 * (b == g) for b in bad for g in good])
    np.testing.assert_allclose(auroc, results["results"]["2"]["knob"]["image_auroc"][0])


def test_the_peer_form_is_that_of_the_maps_which_the_study_writes(cache, tmp_path):
    # The built-in knob lies in the cache already.
    flags = ("--debug", "--method=patchcore", "--encoder=random", "--grid=8", "--categories=gear", "--seeds=1")
    flags += ("--metrics=peer", "--limits=.1")
    status, output, errors = run(cache, *flags, f"--output_dir={tmp_path}")
    assert status == 0, errors
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["results"]["2"]) == ["gear"]
    assert results["settings"]["metrics_form"] == "peer"
    assert "Metrics: form peer; resolution 224;" in output
    (root,) = cache.rglob("gear")
    files = sorted((tmp_path / "maps" / "2" / "gear" / "seed-0" / "test").rglob("*.tiff"))
    masks = [np.asarray(Image.open(root / "test" / f.parent.name / "gt" / f"{f.stem}.png")) > 0 for f in files]
    whole = [tifffile.imread(file) for file in files]
    side = len(masks[0])  # The gear's images are square.
    weights, nearest = reference.bilinear_weights(224, side), ((np.arange(224) + 0.5) * side / 224).astype(int)
    resized = [weights @ scores @ weights.T for scores in whole]
    small = [mask[np.ix_(nearest, nearest)] for mask in masks]
    found = {**results["results"]["2"]["gear"], **results["more_results"]["2"]["gear"]}
    assert [name for name in found if name.startswith("aupro")] == ["aupro_30", "aupro_10"]
    for limit, name in ((0.3, "aupro_30"), (0.1, "aupro_10")):
        np.testing.assert_allclose(found[name], [reference.peer_aupro(resized, small, limit)], rtol=1e-4)


def measured(directory):
    results = json.loads((directory / "results.json").read_text())
    return {key: results[key] for key in ("settings", "results", "by_defect", "by_size", "mean", "episodes")}


def test_a_finished_study_is_not_run_again(finished, cache):
    directory, _, output = finished
    before = measured(directory)
    written = (directory / "groups" / "2-000.npz").stat().st_mtime_ns
    status, again, errors = run(cache, *STUDY, f"--output_dir={directory}")
    assert status == 0
    assert "training" not in errors
    assert again == output
    assert measured(directory) == before
    assert (directory / "groups" / "2-000.npz").stat().st_mtime_ns == written


def test_other_settings_are_refused(finished, cache):
    directory, _, _ = finished
    status, _, errors = run(cache, *STUDY, "--sigma=2", f"--output_dir={directory}")
    assert status == 1
    said = f"{directory}: holds a study with other settings (sigma: 4.0 there, 2.0 now); choose another --output_dir"
    assert errors.strip().splitlines()[-1] == f"error: {said}"


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "ctrl-c"])
def test_an_interrupted_study_continues_to_the_same_results(finished, cache, tmp_path, stop):
    directory = tmp_path / "study"
    process = start(cache, *STUDY, f"--output_dir={directory}")
    deadline = time.monotonic() + 120
    while not (directory / "groups" / "2-000.npz").exists():
        assert process.poll() is None, process.finish().stderr
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send(stop)
    done = process.finish(60)
    assert done.returncode == (130 if stop == signal.SIGINT else -9), done.stderr
    if stop == signal.SIGINT:
        assert "the same command continues" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (directory / "results.json").exists()
    written = (directory / "groups" / "2-000.npz").stat().st_mtime_ns
    status, _, errors = run(cache, *STUDY, f"--output_dir={directory}")
    assert status == 0, errors
    assert (directory / "groups" / "2-000.npz").stat().st_mtime_ns == written
    assert measured(directory) == measured(finished[0])


@pytest.mark.slow
def test_a_long_training_continues_inside_a_group_to_the_same_bits(cache, tmp_path):
    deep = (
        "--debug",
        "--encoder=random",
        "--num_layers=1",
        "--score=cosine",
        "--noapr",
        "--nomnc",
        "--categories=knob",
        "--seeds=2",
        "--epochs=75",
    )
    flags = (*deep, "--input_size=28", "--batch_size=2", "--checkpoint_minutes=0")
    assert run(cache, *flags, f"--output_dir={tmp_path / 'whole'}")[0] == 0
    process = start(cache, *flags, f"--output_dir={tmp_path / 'killed'}")
    kept = tmp_path / "killed" / "checkpoints" / "2-000"
    while not list(kept.glob("0*")):
        assert process.poll() is None, process.finish().stderr
        time.sleep(0.005)
    process.send(signal.SIGKILL)
    assert process.finish().returncode == -9
    assert not (tmp_path / "killed" / "groups").exists()
    status, _, errors = run(cache, *flags, f"--output_dir={tmp_path / 'killed'}")
    assert status == 0, errors
    assert not kept.exists()
    whole, killed = (storage.load_params(tmp_path / name, "2-000") for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, whole, killed)
    histories = [np.load(tmp_path / name / "groups" / "2-000.npz")["train_loss"] for name in ("whole", "killed")]
    assert histories[0].shape == (2, 75)
    np.testing.assert_array_equal(*histories)
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    trainings = results["trainings"]["2"]["knob"]
    assert [of["trained_image_auroc"] for of in trainings] == results["results"]["2"]["knob"]["image_auroc"]
    assert all(0 <= of["untrained_image_auroc"] <= 1 for of in trainings)


@pytest.mark.parametrize("fusion", ["sum", "calibrated"])
def test_patchcore_runs_from_study_to_page(cache, tmp_path, fusion):
    flags = ("--debug", "--method=patchcore", "--encoder=random", "--grid=8", "--categories=knob", "--coreset=.1")
    status, output, errors = run(cache, *flags, f"--fusion={fusion}", f"--output_dir={tmp_path}")
    assert status == 0, errors
    assert "patchcore" in output
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["coreset"] == 0.1
    assert "epochs" not in results["settings"]
    assert results["settings"]["our_choices"] == ["sigma", "banks", "distance", "reach", "reweight", "standardise"]
    banks = storage.load_params(tmp_path, "2-000")["banks"]
    # A tenth of the patches that show the part.
    assert banks.shape[:2] == (2, 2)
    assert banks.shape[2] < 0.1 * 2 * 8**2
    scales = np.load(tmp_path / "groups" / "2-000.npz")["scales"]
    assert (scales == 1).all() if fusion == "sum" else (scales != 1).all()


def test_the_preset_and_its_open_choices_are_in_the_results(finished):
    settings = finished[1]["settings"]
    assert settings["preset"] == "default"
    named = {"sigma", "epsilon", "gat_residual", "gat_self_edges", "gate_init", "batch_size"}
    departures = {"num_layers", "epochs", "learning_rate", "injection", "score"}
    assert named | departures <= set(settings["our_choices"])
    assert not {"num_prototypes", "apr", "mnc", "assignment"} & set(settings["our_choices"])


def test_default_encoders_lie_side_by_side_and_blocks_of_one_can_be_chosen(cache, tmp_path):
    flags = ("--debug", "--method=patchcore", "--categories=knob", "--seeds=1", "--save_maps=none")
    flags += ("--input_size=112",)
    found = []
    for name, more in (("both", ()), ("first", ("--encoder=builtin", "--blocks=2,1", "--grid=8"))):
        status, output, errors = run(cache, *flags, *more, f"--output_dir={tmp_path / name}")
        assert status == 0, errors
        assert "random weights" not in output
        assert not (tmp_path / name / "maps").exists()
        found.append(json.loads((tmp_path / name / "results.json").read_text()))
    both, first = (results["settings"] for results in found)
    assert (both["encoder"], len(both["encoder_blocks"]), both["grid"]) == ("builtin,lite1,chroma", 3, 14)
    assert (first["encoder"], first["encoder_blocks"], first["grid"]) == ("builtin", [[[1, 2]]], 8)
    for name, channels in (("both", 256 + 40 + 112 + 64), ("first", 256)):
        params = storage.load_params(tmp_path / name, "2-000")
        banks = params[1]["banks"] if name == "both" else params["banks"]
        assert banks.shape[3] == channels
    assert found[0]["results"] != found[1]["results"]


def test_damaged_groups_are_trained_again(finished, cache, tmp_path):
    directory = tmp_path / "study"
    shutil.copytree(finished[0], directory)
    group = directory / "groups" / "2-001.npz"
    group.write_bytes(group.read_bytes()[:1000])
    status, _, errors = run(cache, *STUDY, f"--output_dir={directory}")
    assert status == 0, errors
    assert errors.count("training 2 shots") == 1
    assert measured(directory) == measured(finished[0])


@pytest.mark.parametrize("place", ["output", "cache"])
def test_places_that_cannot_be_written_are_named(place, cache, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    output = file / "out" if place == "output" else tmp_path / "out"
    status, _, errors = run(file if place == "cache" else cache, *STUDY, f"--output_dir={output}")
    assert status == 1
    assert errors.strip().splitlines()[-1].startswith(f"error: {file}")
    assert "Traceback" not in errors


def test_the_default_folder_is_named_by_what_was_asked_for():
    program = (
        "from absl import flags\nfrom experiments import fewshot\n"
        "flags.FLAGS(['fewshot', '--shots=2', '--seeds=1', '--encoder=a/b', '--sigma=2', '--data_dir=/x', '--noapr'])\n"
        "from types import SimpleNamespace as S\n"
        "print(fewshot._output_directory(S(dataset='tfds:x', shots=(2,), seeds=1, method='pirn', preset='default')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=commands.ROOT
    )
    assert done.stdout.strip() == "outputs/tfds-x-2shots-1seeds-apr=False-encoder=a-b-sigma=2.0", done.stderr


WRONG = {
    "unknown flag": (("--shot=3",), "shot"),
    "unknown encoder": (("--encoder=resnet",), "unknown encoder 'resnet'"),
    "encoder not there": (("--encoder=dinov2_vitb14",), "python -m tools.convert_dinov2 --download=dinov2_vitb14"),
    "no encoder": (("--encoder=setup.cfg",), "setup.cfg is "),
    "blocks": (("--blocks=1,two",), "--blocks=1,two"),
    "missing block": (("--encoder=builtin", "--blocks=13"), "blocks (13,)"),
    "blocks of several": (("--blocks=2,3",), "--blocks=2,3: blocks are those of one encoder; give --encoder=NAME"),
    "encoder twice": (("--encoder=builtin,builtin",), "encoders builtin,builtin: give each once"),
    "input size of one": (("--encoder=builtin,lite0", "--input_size=232"), "the encoder's patch, 14 pixels"),
    "grid": (("--grid=15",), "--grid=15 does not divide --input_size=224"),
    "shots": (("--shots=ten",), "--shots=ten"),
    "unknown data set": (("--dataset=mvtec",), "choose from procedural, mvtec3d"),
    "plane": (("--plane_tolerance=-1",), "plane_tolerance=-1"),
    "more shots than parts": (("--shots=5",), "knob: 5 shots asked for, but only 4 good parts"),
    "unknown category": (("--categories=teapot",), "teapot"),
    "no data_dir": (("--dataset=mvtec3d",), "--data_dir"),
    "missing folder": (("--dataset=mvtec3d", "--data_dir=/nowhere/at all"), "/nowhere/at all: no such folder"),
    "neighbours": (("--neighbours=11",), "neighbours=11"),
    "input size": (("--input_size=225",), "--input_size=225"),
    "epsilon": (("--epsilon=0",), "epsilon"),
    "heads": (("--encoder=random", "--heads=5"), "192 channels cannot be divided among 5 heads"),
    "sigma": (("--sigma=nan",), "--sigma=nan"),
    "not a rate": (("--learning_rate=inf",), "learning_rate"),
    "same shots": (("--shots=2,02",), "--shots=2,02"),
    "unknown method": (
        ("--method=resnet",),
        "unknown method 'resnet'; choose one of pirn, uip_ad, cfr, cfm, inp_former, patchcore",
    ),
    "unknown preset": (("--preset=mine",), "unknown preset 'mine' of pirn; choose one of default, paper"),
    "another method's flag": (
        ("--coreset=.1",),
        "--coreset: a hyperparameter of cfr and patchcore, not of pirn; leave it out",
    ),
    "epochs without training": (("--method=patchcore", "--epochs=3"), "--epochs: patchcore learns nothing by gradient"),
    "one modality": (("--modalities=rgb",), "pirn exchanges prototypes between two modalities, got rgb"),
    "paper's encoder": (("--preset=paper", "--foreground=none", "--normals=exact"), "--download=dinov2_vitb14"),
    "image score": (("--image_score=2",), "--image_score=2: give max, or a share of pixels"),
    "stray argument": (("knob",), "knob"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_sentence_and_status_one(case, cache, tmp_path):
    flags, named = WRONG[case]
    base = () if "--dataset=mvtec3d" in flags else ("--debug",)
    status, output, errors = run(cache, *base, "--categories=knob", *flags, f"--output_dir={tmp_path / 'out'}")
    assert status == 1
    assert named in errors
    assert "Traceback" not in errors
    assert output == ""
    assert not (tmp_path / "out").exists()


def test_a_grid_runs_cell_by_cell_or_one_cell_alone(cache, tmp_path):
    grid = (*TINY, "--categories=knob", "--seeds=1", "--epochs=1", "--epsilon=.1,.2", f"--output_dir={tmp_path}")
    status, output, errors = run(cache, *grid, "--cell=1")
    assert status == 0, errors
    assert "1 of 2 settings are finished." in output
    first = tmp_path / "epsilon=0.2" / "groups" / "2-000.npz"
    written = first.stat().st_mtime_ns
    status, output, errors = run(cache, *grid)
    assert status == 0, errors
    assert "2 of 2 settings are finished." in output
    assert first.stat().st_mtime_ns == written
    settings = {p.parent.name: json.loads(p.read_text()) for p in tmp_path.glob("*/settings.json")}
    assert {name: found["epsilon"] for name, found in settings.items()} == {"epsilon=0.1": 0.1, "epsilon=0.2": 0.2}
    distances = [np.load(path)["distances"] for path in tmp_path.glob("*/groups/2-000.npz")]
    assert (distances[0] != distances[1]).any()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--num_prototypes=2,4", "--neighbours=3"), "num_prototypes=2: neighbours=3 exceeds num_prototypes=2"),
        (("--epsilon=.02,.05", "--cell=2"), "the grid has 2 cells, the last is 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(cache, tmp_path, flags, sentence):
    status, _, errors = run(cache, *TINY, *flags, f"--output_dir={tmp_path}")
    assert status == 1
    assert sentence in errors
    assert not list(tmp_path.iterdir())
