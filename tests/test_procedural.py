"""The built-in data set: layout, exactness of its ground truth, and that no trivial score solves it."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from pirn_jax.data import procedural

SMALL = procedural.Counts(train=2, validation=1, good=1, per_defect=1)
DAMAGED = [(category, defect) for category in procedural.CATEGORIES for defect in procedural.defects(category)]


def modality(category: str, defect: str) -> str:
    return procedural.DEFECTS[category][defect].modality


def tree(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("category", procedural.CATEGORIES)
def test_parts_repeat_and_differ(category: str) -> None:
    first, again = (procedural.render(category, "train", "good", 3) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    others = [("train", 4, 0), ("test", 3, 0), ("validation", 3, 0), ("train", 3, 1)]
    for split, index, seed in others:
        assert (procedural.render(category, split, "good", index, seed=seed)[0] != first[0]).mean() > 0.5


def test_files_repeat(tmp_path: pathlib.Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        procedural.write(tmp_path / name, categories=("knob",), counts=SMALL, seed=seed)
    one, two, three = (tree(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert one.keys() == three.keys()
    assert all(one[path] != three[path] for path in one if "gt" not in path)


def test_another_process_makes_the_same_part() -> None:
    code = (
        "import zlib; from pirn_jax.data import procedural as p;"
        "print(*[zlib.crc32(a.tobytes()) for c in p.CATEGORIES for a in p.render(c, 'test', p.defects(c)[0], 1)])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_layout(tmp_path: pathlib.Path) -> None:
    calls = []
    counts = procedural.Counts(train=2, validation=1, good=2, per_defect=1)
    procedural.write(tmp_path, categories=("gear",), counts=counts, progress=lambda *call: calls.append(call))
    expected = {
        f"gear/train/good/{kind}/{i:03}.{end}" for i in range(2) for kind, end in (("rgb", "png"), ("xyz", "tiff"))
    }
    expected |= {"gear/validation/good/rgb/000.png", "gear/validation/good/xyz/000.tiff"}
    for folder, count in (("good", 2), *((defect, 1) for defect in procedural.defects("gear"))):
        for kind, end in (("rgb", "png"), ("xyz", "tiff"), ("gt", "png")):
            expected |= {f"gear/test/{folder}/{kind}/{i:03}.{end}" for i in range(count)}
    assert set(tree(tmp_path)) == expected
    assert {path.name for path in (tmp_path / "gear" / "train" / "good").iterdir()} == {"rgb", "xyz"}
    assert calls == [(i, 10) for i in range(1, 11)]


def test_files_hold_what_render_returns(tmp_path: pathlib.Path) -> None:
    procedural.write(tmp_path, categories=("connector",), counts=SMALL)
    for defect in ("good", *procedural.defects("connector")):
        folder = tmp_path / "connector" / "test" / defect
        rgb, xyz, gt = procedural.render("connector", "test", defect, 0)
        with Image.open(folder / "rgb" / "000.png") as image:
            assert image.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(image), rgb)
        with Image.open(folder / "gt" / "000.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), 255 * gt)
        read = tifffile.imread(folder / "xyz" / "000.tiff")
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, xyz)


@pytest.mark.parametrize("category", procedural.CATEGORIES)
def test_points_are_metres_of_a_pinhole_camera(category: str) -> None:
    rgb, xyz, gt = procedural.render(category, "train", "good", 0)
    assert (rgb.dtype, xyz.dtype, gt.dtype) == (np.uint8, np.float32, bool)
    assert rgb.shape == xyz.shape == (*gt.shape, 3)
    x, y, z = np.moveaxis(xyz.astype(float), -1, 0)
    valid = z != 0
    assert not xyz[~valid].any()
    assert 0.01 < 1 - valid.mean() < 0.3
    assert 0.3 < z[valid].min() < z[valid].max() < 0.6
    rows, columns = np.indices(z.shape)
    focal = [_focal(columns[valid], x[valid] / z[valid]), _focal(rows[valid], y[valid] / z[valid])]
    np.testing.assert_allclose(focal[0], focal[1], rtol=1e-3)
    tall = np.median(z[:8][valid[:8]]) - z[valid].min()
    assert 0.002 < tall < 0.03


def _focal(pixel: np.ndarray, ray: np.ndarray) -> float:
    """Pixels per unit of ray; the rays must lie on one line through the pixels."""
    slope, offset = np.polyfit(pixel, ray, 1)
    assert np.abs(slope * pixel + offset - ray).max() < 5e-5
    assert slope > 0
    return 1 / slope


def test_sizes_differ() -> None:
    shapes = {procedural.render(category, "train", "good", 0)[2].shape for category in procedural.CATEGORIES}
    assert len(shapes) > 2
    assert any(rows < columns for rows, columns in shapes)
    assert any(rows > columns for rows, columns in shapes)


@functools.cache
def damaged(category: str, defect: str, index: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A defective part, rendered once for all tests."""
    return procedural.render(category, "test", defect, index, seed=seed)


@functools.cache
def difference(category: str, defect: str, index: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ground truth, and where the images with and without the defect differ by more than thresholds and noise."""
    rgb, xyz, gt = damaged(category, defect, index, seed)
    rgb_before, xyz_before = procedural.reference(category, "test", defect, index, seed=seed)
    colour = np.abs(rgb.astype(int) - rgb_before).max(-1)
    seen, seen_before = xyz[..., 2] > 0, xyz_before[..., 2] > 0
    height = np.where(seen & seen_before, np.abs(xyz[..., 2] - xyz_before[..., 2].astype(float)), 0) * 1e3
    changed = (colour > procedural.COLOUR_THRESHOLD + 1) | (seen != seen_before)
    return gt, changed | (height > procedural.HEIGHT_THRESHOLD_MM + 0.01)


@pytest.mark.parametrize(("category", "defect"), DAMAGED)
def test_ground_truth_is_exact(category: str, defect: str) -> None:
    for index in range(3):
        gt, changed = difference(category, defect, index)
        assert gt.mean() < 0.2
        assert not (changed & ~gt).any()
        assert changed[gt].mean() > 0.5


@pytest.mark.parametrize(("category", "defect", "index", "seed"), [("knob", "bump", 7, 3), ("connector", "warp", 3, 2)])
def test_defects_hidden_from_the_scanner_are_placed_anew(category: str, defect: str, index: int, seed: int) -> None:
    gt, changed = difference(category, defect, index, seed)
    assert changed.sum() >= 0.65 * gt.sum()


def test_defects_of_the_default_data_can_be_seen() -> None:
    for category, defect in DAMAGED:
        for index in range(3):
            gt, changed = difference(category, defect, index)
            assert changed.sum() >= max(25, 0.5 * gt.sum()), (category, defect, index)
            assert not (changed & ~gt).any(), (category, defect, index)


@pytest.mark.parametrize(("category", "defect"), DAMAGED)
def test_defects_show_in_the_modality_they_claim(category: str, defect: str) -> None:
    rgb, xyz, _ = procedural.render(category, "test", defect, 0)
    rgb_before, xyz_before = procedural.reference(category, "test", defect, 0)
    in_colour, in_geometry = {
        "geometry": (False, True),
        "combination": (False, True),
        "colour": (True, False),
        "both": (True, True),
    }[modality(category, defect)]
    assert (rgb != rgb_before).any() == in_colour
    assert (xyz != xyz_before).any() == in_geometry


def test_every_category_has_every_modality() -> None:
    for category in procedural.CATEGORIES:
        shown = [modality(category, defect) for defect in procedural.defects(category)]
        assert sorted(shown) == ["both", "both", "colour", "combination", "geometry"]


def test_good_parts_have_no_ground_truth() -> None:
    for category in procedural.CATEGORIES:
        assert not procedural.render(category, "test", "good", 0)[2].any()


def test_unknown_names_are_refused(tmp_path: pathlib.Path) -> None:
    for call in (
        lambda: procedural.render("spoon", "train", "good", 0),
        lambda: procedural.write(tmp_path, categories=("gear", "spoon")),
        lambda: procedural.ensure(tmp_path, categories=("spoon",)),
    ):
        with pytest.raises(ValueError, match=r"'spoon'.*doughnut.*coaster"):
            call()
    assert not any(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"'rust' of gear.*good, sink"):
        procedural.render("gear", "test", "rust", 0)
    with pytest.raises(ValueError, match=r"'dev'.*train, validation, test"):
        procedural.render("gear", "dev", "good", 0)
    with pytest.raises(ValueError, match="negative"):
        procedural.Counts(train=-1)


def test_ensure_generates_once_and_by_category(tmp_path: pathlib.Path) -> None:
    root = procedural.ensure(tmp_path, categories=("gear",), counts=SMALL)
    assert [path.name for path in root.iterdir()] == ["gear"]
    assert [path.name for path in tmp_path.iterdir()] == [root.name]
    made = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    calls = []
    assert procedural.ensure(tmp_path, categories=("gear",), counts=SMALL, progress=lambda *c: calls.append(c)) == root
    assert not calls
    procedural.ensure(
        tmp_path, categories=("gear", "knob", "coaster"), counts=SMALL, progress=lambda *c: calls.append(c)
    )
    assert calls == [(i, 18) for i in range(1, 19)]
    assert {path.name for path in root.iterdir()} == {"gear", "knob", "coaster"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in made.items() if path != root)


def test_ensure_keeps_other_settings_apart(tmp_path: pathlib.Path) -> None:
    tiny = procedural.Counts(1, 0, 0, 0)
    roots = {
        procedural.ensure(tmp_path, categories=("knob",), counts=counts, seed=seed)
        for counts, seed in ((tiny, 0), (tiny, 1), (procedural.Counts(1, 1, 0, 0), 0))
    }
    assert len(roots) == 3
    assert all(f"v{procedural.VERSION}-" in root.name for root in roots)


def test_ensure_after_an_interruption(tmp_path: pathlib.Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        procedural.ensure(tmp_path / "cache", categories=("knob",), counts=SMALL, progress=interrupt)
    assert not list((tmp_path / "cache").glob("**/*.tiff"))
    root = procedural.ensure(tmp_path / "cache", categories=("knob",), counts=SMALL)
    procedural.write(tmp_path / "whole", categories=("knob",), counts=SMALL)
    assert tree(root) == tree(tmp_path / "whole")


def test_ensure_after_a_kill_and_with_two_processes(tmp_path: pathlib.Path) -> None:
    code = (
        "import sys; from pirn_jax.data import procedural as p;"
        "p.ensure(sys.argv[1], categories=('knob',), counts=p.Counts(4, 1, 1, 1))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    killed = subprocess.Popen(command)
    while not list(tmp_path.glob("cache/**/001.tiff")):
        assert killed.poll() is None
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert all(run.wait() == 0 for run in [subprocess.Popen(command) for _ in range(2)])
    procedural.write(tmp_path / "whole", categories=("knob",), counts=procedural.Counts(4, 1, 1, 1))
    (root,) = (path for path in (tmp_path / "cache").iterdir() if not path.name.startswith("."))
    assert tree(root) == tree(tmp_path / "whole")


def auroc(scores: np.ndarray, defective: np.ndarray) -> float:
    """Share of (defective, good) pairs in the right order, ties counting half."""
    difference = scores[defective][:, None] - scores[~defective]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def surface_normals(xyz: np.ndarray) -> np.ndarray:
    """Cross products of central differences, zero beside holes."""
    normal = np.cross(np.gradient(xyz, axis=0), np.gradient(xyz, axis=1))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    valid = xyz[..., 2] > 0
    beside = np.pad(valid, 1, mode="edge")
    valid = valid & beside[:-2, 1:-1] & beside[2:, 1:-1] & beside[1:-1, :-2] & beside[1:-1, 2:]
    return np.where(valid[..., None], normal, 0)


def patches(rgb: np.ndarray) -> np.ndarray:
    """The 256 patches of 14 x 14 pixels of the image at 224 x 224."""
    image = np.asarray(Image.fromarray(rgb).resize((224, 224), Image.Resampling.BILINEAR), np.float32) / 255
    return image.reshape(16, 14, 16, 14, 3).swapaxes(1, 2).reshape(256, -1)


VIEWS = {
    "rgb": lambda part: part[0].astype(float),
    "normals": lambda part: surface_normals(part[1]),
    "depth": lambda part: part[1][..., 2:],
}


def trivial_scores(shots: list, parts: list) -> dict[str, np.ndarray]:
    """What needs no model: a number for each part, given ten good ones."""
    bank, colours = np.concatenate([patches(shot[0]) for shot in shots]), [shot[0].mean((0, 1)) for shot in shots]
    means = {name: np.mean([view(shot) for shot in shots], 0) for name, view in VIEWS.items()}

    def score(part: tuple) -> dict[str, float]:
        own = patches(part[0])
        nearest = ((own**2).sum(1)[:, None] + (bank**2).sum(1) - 2 * own @ bank.T).min(1)
        scores = {
            "mean colour": min(np.linalg.norm(part[0].mean((0, 1)) - colour) for colour in colours),
            "patches": nearest.max(),
            "holes": (part[1][..., 2] == 0).mean(),
        }
        for name, view in VIEWS.items():
            difference = np.abs(view(part) - means[name]).sum(-1)
            scores |= {f"{name} max": difference.max(), f"{name} mean": difference.mean()}
        return scores

    scores = [score(part) for part in parts]
    return {name: np.array([one[name] for one in scores]) for name in scores[0]}


@pytest.mark.slow
def test_no_trivial_score_solves_the_default_data() -> None:
    table = []
    for category in procedural.CATEGORIES:
        shots = [procedural.render(category, "train", "good", i) for i in range(10)]
        good = [procedural.render(category, "test", "good", i) for i in range(10)]
        bad = [damaged(category, defect, i) for defect in procedural.defects(category) for i in range(2)]
        defective = np.repeat([False, True], [len(good), len(bad)])
        scores = trivial_scores(shots, good + bad)
        table.append({name: auroc(values, defective) for name, values in scores.items()})
    mean = {name: np.mean([row[name] for row in table]) for name in table[0]}
    assert max(mean.values()) <= 0.80, mean
