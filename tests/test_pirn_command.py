"""The command `pirn` as its users run it: from good parts to verdicts on new ones."""

import csv
import dataclasses
import json
import pathlib
import shutil
import signal
import time

import jax
import jax.export
import numpy as np
import PIL.Image
import pytest
import tifffile

from pirn_jax.data.problems import InputError
from pirn_jax.inspection import bundle
from tests import commands
from tests.plates import SIZE, write_parts
from tools.pirn import export, samples

FIT = ("--method=gaussian", "--encoder=chroma", "--input_size=56", "--foreground=none")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with good parts, new ones, and the model of the good ones; what `pirn fit` printed."""
    folder = tmp_path_factory.mktemp("line")
    write_parts(folder / "good", 5, masks=False)
    done = run(folder, "fit", f"--parts={folder / 'good'}", f"--output={folder / 'plates.pirn'}", *FIT)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "good", folder / "new")
    # A dent of five millimetres with a red stain.
    xyz = tifffile.imread(folder / "new" / "xyz" / "001.tiff")
    xyz[10:24, 20:34, 2] += 0.005
    tifffile.imwrite(folder / "new" / "xyz" / "001.tiff", xyz, photometric="rgb")
    with PIL.Image.open(folder / "new" / "rgb" / "001.png") as picture:
        rgb = np.array(picture)
    rgb[10:24, 20:34] = [200, 20, 20]
    PIL.Image.fromarray(rgb).save(folder / "new" / "rgb" / "001.png")
    return folder, done.stdout


def run(folder, name, *flags):
    return commands.run("tools.pirn", name, *flags, PIRN_CACHE=str(folder / "cache"))


def inspect(home, output, *flags, parts="new"):
    folder, _ = home
    given = f"--model={folder / 'plates.pirn'}", f"--parts={folder / parts}", f"--output_dir={output}"
    return run(folder, "inspect", *given, "--false_alarms=.2", *flags)


def test_a_model_tells_what_it_promises(home, tmp_path):
    folder, printed = home
    assert "plates.pirn: gaussian on chroma, 5 good parts of 60x40 pixels, 1 members" in printed
    assert "promise nothing below" in printed or "extrapolated" in printed
    done = run(folder, "check", f"--model={folder / 'plates.pirn'}", f"--picture={tmp_path / 'good.jpg'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] in printed
    with PIL.Image.open(tmp_path / "good.jpg") as picture:
        assert picture.size == (5 * 160, 160)


def test_settings_of_studies_are_those_of_models(home, tmp_path):
    folder, _ = home
    given = f"--parts={folder / 'good'}", f"--output={tmp_path / 'views.pirn'}"
    chosen = "--augmentation=rotations", "--modalities=geometry", "--image_score=.1", "--fusion=sum", "--ridge=.2"
    done = run(folder, "fit", *given, *FIT, *chosen)
    assert done.returncode == 0, done.stderr
    settings = bundle.read(tmp_path / "views.pirn").ready.settings
    assert settings["augmentation"] == "rotations"
    assert settings["modalities"] == ["geometry"]
    assert (settings["metrics_top_share"], settings["fusion"], settings["ridge"]) == (0.1, "sum", 0.2)
    done = run(folder, "fit", *given, *FIT, "--ridge=.1,.2")
    assert done.returncode == 1
    assert "error: --ridge: give a single value" in done.stderr


def test_a_defect_is_found_and_shown(home, tmp_path):
    done = inspect(home, tmp_path)
    assert done.returncode == 2, done.stderr
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert rows[0]["part"] == "001"
    assert rows[0]["verdict"] == "defective"
    assert float(rows[0]["p_value"]) == pytest.approx(1 / 6)
    assert abs(float(rows[0]["row"]) - 17) < 4
    assert abs(float(rows[0]["column"]) - 27) < 4
    assert float(rows[0]["height_mm"]) < -3
    told = json.loads((tmp_path / "results.json").read_text())
    assert [part["part"] for part in told["parts"]] == [row["part"] for row in rows]
    coco = json.loads((tmp_path / "coco.json").read_text())
    by_id = {image["id"]: image for image in coco["images"]}
    assert sorted(image["file_name"] for image in by_id.values()) == [f"{i:03d}.png" for i in range(5)]
    left, top, width, height = coco["annotations"][0]["bbox"]
    assert by_id[coco["annotations"][0]["image_id"]]["file_name"] == "001.png"
    assert left < 27 < left + width
    assert top < 17 < top + height
    defective = [part for part in told["parts"] if part["verdict"] == "defective"]
    assert len(coco["annotations"]) == sum(len(part["regions"]) for part in defective)
    values = tifffile.imread(tmp_path / "maps" / "001.tiff")
    assert values.shape == SIZE
    assert values.max() == pytest.approx(float(rows[0]["score"]), rel=1e-5)
    with PIL.Image.open(tmp_path / "overlays" / "001.png") as picture:
        assert picture.size == SIZE[::-1]
    page = (tmp_path / "report.html").read_text()
    assert "5 parts: " in page
    assert "sinks" in page
    assert "parts a second" in done.stdout


def test_a_bad_part_stops_nothing(home, tmp_path):
    folder, _ = home
    shutil.copytree(folder / "new", folder / "bad", dirs_exist_ok=True)
    (folder / "bad" / "xyz" / "003.tiff").write_bytes(b"no scan")
    (folder / "bad" / "rgb" / "000.png").unlink()
    (folder / "bad" / "rgb" / "000.png").symlink_to("gone.png")
    done = inspect(home, tmp_path, parts="bad")
    assert done.returncode == 1
    assert "003.tiff" in done.stderr
    assert "000.png: cannot be read (No such file or directory)" in done.stderr
    assert len(list((tmp_path / "maps").iterdir())) == 3
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 3


def test_a_watched_folder_is_looked_at_again(home, tmp_path):
    folder, _ = home
    for kind in ("rgb", "xyz"):
        (tmp_path / "belt" / kind).mkdir(parents=True)
    given = f"--model={folder / 'plates.pirn'}", f"--parts={tmp_path / 'belt'}", f"--output_dir={tmp_path / 'out'}"
    watching = commands.Command(
        "tools.pirn", "inspect", *given, "--watch", "--watch_seconds=.05", PIRN_CACHE=str(folder / "cache")
    )

    def put(name, scan):
        shutil.copy(folder / "good" / "rgb" / f"{name}.png", tmp_path / "belt" / "rgb")
        (tmp_path / "belt" / "xyz" / f"{name}.tiff").write_bytes(scan)

    def wait(name):
        deadline = time.monotonic() + 60
        while not (tmp_path / "out" / "overlays" / f"{name}.png").exists():
            assert watching.poll() is None, watching.finish().stderr
            assert time.monotonic() < deadline
            time.sleep(0.05)

    scans = {name: (folder / "good" / "xyz" / f"{name}.tiff").read_bytes() for name in ("000", "001", "002")}
    put("000", scans["000"])
    wait("000")
    put("001", scans["001"][:100])
    put("002", scans["002"])
    wait("002")
    put("001", scans["001"])
    wait("001")
    watching.send(signal.SIGINT)
    done = watching.finish()
    assert done.returncode == 130
    # Written half, it is told once, not in every look.
    assert 1 <= done.stdout.count("error: ") <= 2


def test_all_good_parts_end_with_status_0(home, tmp_path):
    done = inspect(home, tmp_path, parts="good")
    # Parts that were learned from score lower than left-out ones.
    assert done.returncode == 0, done.stdout
    assert "good" in done.stdout


@pytest.mark.parametrize(
    ("name", "flags", "sentence"),
    [
        ("fit", ("--parts={none}", "--output={out}"), "no such folder"),
        ("fit", ("--parts={good}", "--output={good}"), "good: a folder; name a file, such as"),
        ("fit", ("--parts={good}", "--output={model}/a.pirn"), "plates.pirn is not a folder that can be written to"),
        ("fit", ("--parts={good}", "--output={out}", "--data_dir=x"), "--data_dir: parts are those of --parts"),
        ("fit", ("--parts={good}", "--output={out}", "--method=cfm", "--preset=paper"), "which a single part has not"),
        ("inspect", ("--model={model}", "--parts={good}", "--data_dir=x"), "--data_dir: parts are those of --parts"),
        ("fit", ("--parts={good}", "--output={out}", "--false_alarms=2"), "must be a share above 0 and below 1"),
        ("fit", ("--parts={good}", "--output={out}", "--method=resnet"), "unknown method 'resnet'"),
        ("inspect", ("--parts={good}", "--model={none}"), "cannot be read"),
        ("inspect", ("--parts={good}", "--model={model}", "--input_size=112"), "as those of the model; leave it out"),
        ("paint", (), "'paint' is no command of pirn; choose from fit, inspect, serve, export, check"),
    ],
)
def test_what_cannot_be_is_refused(home, tmp_path, name, flags, sentence):
    folder, _ = home
    places = {"none": tmp_path / "none", "out": tmp_path / "a.pirn", "good": folder / "good"}
    places["model"] = folder / "plates.pirn"
    done = run(folder, name, *(flag.format(**places) for flag in flags))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_killed_fit_goes_on_to_the_same_file(home, tmp_path):
    folder, _ = home
    given = "tools.pirn", "fit", f"--parts={folder / 'good'}", f"--output={tmp_path / 'a.pirn'}", *FIT
    fitting = commands.Command(*given, PIRN_CACHE=str(tmp_path / "cache"))
    while not list((tmp_path / "cache").glob("features/*/*.npz")):
        assert fitting.poll() is None, fitting.finish().stderr
        time.sleep(0.01)
    fitting.send(signal.SIGKILL)
    assert fitting.finish().returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("*.pirn*"))
    done = commands.run(*given, PIRN_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.pirn").read_bytes() == (folder / "plates.pirn").read_bytes()


@pytest.mark.parametrize("unit", [None, "mm", "toml"])
def test_samples_are_the_first_parts_however_they_were_read(home, tmp_path, unit):
    folder, _ = home
    shutil.copytree(folder / "good", tmp_path / "parts")
    flags = [f"--parts={tmp_path / 'parts'}", f"--output={tmp_path / 'a.pirn'}", "--samples=3"]
    if unit == "toml":
        (tmp_path / "parts" / "dataset.toml").write_text("[xyz]\nunit = 0.001\n")
    elif unit:
        flags.append(f"--xyz_unit={unit}")
    if unit:
        for path in (tmp_path / "parts" / "xyz").iterdir():
            tifffile.imwrite(path, 1000 * tifffile.imread(path), photometric="rgb")
    done = run(folder, "fit", *flags, *FIT)
    assert done.returncode == 0, done.stderr
    model = bundle.read(tmp_path / "a.pirn")
    assert samples.options(model).unit == (0.001 if unit else 1.0)
    records = samples.unpack(model, tmp_path / "unpacked")
    assert [record.id for record in records] == ["000", "001", "002"]
    for record in records:
        rgb, xyz, _ = record.source.arrays()
        with PIL.Image.open(folder / "good" / "rgb" / f"{record.id}.png") as picture:
            np.testing.assert_array_equal(rgb, picture)
        expected = tifffile.imread(folder / "good" / "xyz" / f"{record.id}.tiff")
        np.testing.assert_allclose(xyz, expected, rtol=1e-6)


def test_parts_of_two_cameras_are_told_apart(home, tmp_path):
    folder, _ = home
    shutil.copytree(folder / "good", tmp_path / "parts")
    rgb, xyz = (next((tmp_path / "parts" / kind).glob("002.*")) for kind in ("rgb", "xyz"))
    tifffile.imwrite(xyz, tifffile.imread(xyz)[:30], photometric="rgb")
    PIL.Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(rgb)
    done = run(folder, "fit", f"--parts={tmp_path / 'parts'}", f"--output={tmp_path / 'a.pirn'}", *FIT)
    assert done.returncode == 1
    assert "000 has 60x40 pixels and 002 has 60x30 pixels; one model is of one camera" in done.stderr


def test_a_single_part_makes_a_model_that_promises_nothing(home, tmp_path):
    folder, _ = home
    for kind in ("rgb", "xyz"):
        (tmp_path / "one" / kind).mkdir(parents=True)
        path = next((folder / "good" / kind).glob("000.*"))
        shutil.copy(path, tmp_path / "one" / kind / path.name)
    model = tmp_path / "one.pirn"
    done = run(folder, "fit", f"--parts={tmp_path / 'one'}", f"--output={model}", *FIT)
    assert done.returncode == 0, done.stderr
    assert "of one or two parts none can be left out: give three or more for a threshold" in done.stdout
    assert "threshold none: no good part was left out, so nothing is promised" in done.stdout
    done = run(folder, "inspect", f"--model={model}", f"--parts={folder / 'new'}", f"--output_dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "unknown" in pathlib.Path(tmp_path / "out" / "results.csv").read_text()


def test_an_exported_program_is_the_model_and_needs_jax_alone(home, tmp_path):
    folder, _ = home
    output = tmp_path / "plates.stablehlo"
    done = run(folder, "export", f"--model={folder / 'plates.pirn'}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert "images (1, 2, 56, 56, 3) uint8, masks (1, 49) bool -> map (1, 40, 60), score (1,)" in done.stdout
    assert "in a fresh process, on 2 good parts and noise: map " in done.stdout
    found = jax.export.deserialize(bytearray(output.read_bytes()))
    assert set(found.platforms) == {"cpu", "cuda"}
    model = bundle.read(folder / "plates.pirn")
    images = np.random.default_rng(3).integers(256, size=(1, 2, 56, 56, 3), dtype=np.uint8)
    maps, scores = found.call(images, np.ones((1, 49), bool))
    expected = model.ready(images, None, SIZE)
    np.testing.assert_allclose(maps, expected.maps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)


def test_an_exported_onnx_graph_is_the_model_and_needs_onnx_runtime_alone(home, tmp_path):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, _ = home
    output = tmp_path / "plates.onnx"
    done = run(folder, "export", f"--model={folder / 'plates.pirn'}", f"--output={output}", "--format=onnx")
    assert done.returncode == 0, done.stderr
    assert "ONNX with operators of version 23" in done.stdout
    model = bundle.read(folder / "plates.pirn")
    images = np.random.default_rng(3).integers(256, size=(1, 2, 56, 56, 3), dtype=np.uint8)
    graph = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    maps, scores = graph.run(["map", "score"], {"images": images, "masks": np.ones((1, 49), bool)})
    expected = model.ready(images, None, SIZE)
    np.testing.assert_allclose(maps, expected.maps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)


def test_a_program_that_differs_is_not_left_behind(home, tmp_path):
    folder, _ = home
    model = bundle.read(folder / "plates.pirn")
    content = export.stablehlo(model)
    assert max(export.difference(model, content, export.FORMATS["stablehlo"].run)) < 1e-5
    other = model._replace(ready=dataclasses.replace(model.ready, scales=1.001 * model.ready.scales))
    apart = export.difference(other, content, export.FORMATS["stablehlo"].run)
    with pytest.raises(InputError, match="differs from the model by 1.0e-03 of the score.*nothing was written"):
        export.write(tmp_path / "plates.hlo", content, apart)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fit", "inspect", "serve", "export", "check"])
def test_help_has_examples(home, name):
    cache = str(home[0] / "cache")
    done = commands.run("tools.pirn", name, "--help", PIRN_CACHE=cache)
    assert done.returncode == 0
    assert f"pirn {name} --{'parts' if name == 'fit' else 'model'}=" in done.stdout
    assert f"pirn {name} --" in commands.run("tools.pirn", "help", PIRN_CACHE=cache).stdout
