"""From a category's name to finished parts: pose, surface, defect, scan and ground truth."""

import dataclasses
import zlib
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from pirn_jax.data.procedural import food, moulded, scanner, surface, woven
from pirn_jax.data.procedural.defects import DEFECTS

VERSION = 1
COLOUR_THRESHOLD = 8.0  # of 255, in the channel that changes most, before noise
HEIGHT_THRESHOLD_MM = 0.05  # five times the depth noise
_SMALLEST = 30  # pixels; a defect that leaves less to see is placed anew
_ATTEMPTS = 20

Part = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Category:
    """One category: construction, range of rotation in radians, and scanner."""

    build: Callable[..., surface.Surface]
    turn: float
    camera: scanner.Camera


_KINDS: dict[str, _Category] = {
    "doughnut": _Category(food.doughnut, np.pi, scanner.Camera(224, 224, 0.345, 0.42)),
    "strawberry": _Category(food.strawberry, np.pi, scanner.Camera(224, 224, 0.235, 0.35)),
    "knob": _Category(moulded.knob, np.pi, scanner.Camera(192, 192, 0.245, 0.38)),
    "gear": _Category(moulded.gear, np.pi, scanner.Camera(240, 240, 0.245, 0.45)),
    "connector": _Category(moulded.connector, 0.3, scanner.Camera(256, 192, 0.24, 0.40)),
    "coaster": _Category(woven.coaster, 0.25, scanner.Camera(208, 256, 0.25, 0.50)),
}
CATEGORIES: tuple[str, ...] = tuple(_KINDS)


def defects(category: str) -> tuple[str, ...]:
    """The names of the defects of a category."""
    check(category)
    return tuple(DEFECTS[category])


def check(*categories: str) -> None:
    """Raises ValueError for a category that does not exist."""
    for category in categories:
        if category not in _KINDS:
            raise ValueError(f"unknown category {category!r}; choose from {', '.join(CATEGORIES)}")


def render(category: str, split: str, defect: str, index: int, *, seed: int = 0) -> Part:
    """Makes one part.

    Args:
        category: One of `CATEGORIES`.
        split: `train`, `validation` or `test`.
        defect: `good`, or one of `defects(category)`.
        index: Number of the part within its folder.
        seed: Seed of the whole data set.

    Returns:
        rgb (h, w, 3) uint8; xyz (h, w, 3) float32, metres in the camera frame (x right, y down, z forward), exactly
        (0, 0, 0) where the scanner saw nothing; gt (h, w) bool, against `reference`: the pixels whose colour changed by
        more than `COLOUR_THRESHOLD`, whose height changed by more than `HEIGHT_THRESHOLD_MM`, or which the scanner sees
        in only one of the two; gaps of up to two pixels are closed.

    Raises:
        ValueError: A category, split or defect does not exist.
    """
    shot = _Shot.make(category, split, defect, index, seed)
    good = shot.build()
    if defect == "good":
        return *shot.expose(good), np.zeros(good.relief.shape, bool)
    bad, truth = _damage(shot, good)
    return *shot.expose(bad), truth


def reference(category: str, split: str, defect: str, index: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same part as `render` makes, in the same pose, light and noise, before it was damaged: rgb and xyz."""
    shot = _Shot.make(category, split, defect, index, seed)
    return shot.expose(shot.build())


@dataclasses.dataclass(frozen=True)
class _Shot:
    """Everything that is drawn for one part."""

    category: str
    defect: str
    seeds: tuple[np.random.SeedSequence, ...]  # part, noise, flaw
    frame: surface.Frame
    view: scanner.Scene

    @classmethod
    def make(cls, category: str, split: str, defect: str, index: int, seed: int) -> "_Shot":
        check(category)
        if defect != "good" and defect not in DEFECTS[category]:
            raise ValueError(
                f"unknown defect {defect!r} of {category}; choose from good, {', '.join(DEFECTS[category])}"
            )
        if split not in ("train", "validation", "test"):
            raise ValueError(f"unknown split {split!r}; choose from train, validation, test")
        key = [seed, VERSION, *(zlib.crc32(name.encode()) for name in (category, split, defect)), index]
        pose, scene, *rest = np.random.SeedSequence(key).spawn(5)
        camera = _KINDS[category].camera
        shape = (camera.height, camera.width)
        frame = surface.pose(shape, camera.pitch_mm, _KINDS[category].turn, np.random.default_rng(pose))
        return cls(category, defect, tuple(rest), frame, scanner.scene(shape, np.random.default_rng(scene)))

    def build(self, edit: surface.Edit | None = None) -> surface.Surface:
        """The part, with the features that `edit` changes."""
        return _KINDS[self.category].build(self.frame, np.random.default_rng(self.seeds[0]), edit)

    def expose(self, part: surface.Surface) -> tuple[np.ndarray, np.ndarray]:
        """Photographs and scans a surface: rgb and xyz."""
        camera, colour_rng, depth_rng = self.camera, *map(np.random.default_rng, self.noise)
        clean = scanner.photograph(part, self.view, camera.pitch_mm)
        return scanner.develop(clean, colour_rng), scanner.scan(part, self.view, camera, depth_rng)

    @property
    def camera(self) -> scanner.Camera:
        """The category's camera."""
        return _KINDS[self.category].camera

    @property
    def noise(self) -> tuple[list[int], list[int]]:
        """Seeds of the colour noise and of the depth noise."""
        words = self.seeds[1].generate_state(8)
        return list(map(int, words[:4])), list(map(int, words[4:]))


def _damage(shot: _Shot, good: surface.Surface) -> tuple[surface.Surface, np.ndarray]:
    """Draws defects until one leaves enough to see; returns the surface and the ground truth."""
    for attempt in shot.seeds[2].spawn(_ATTEMPTS):
        rng = np.random.default_rng(attempt)
        edit = surface.Edit(shot.defect, float(rng.uniform()), rng)
        bad = _flawed(shot, good, edit)
        truth, evidence = _changed(good, bad, shot)
        if evidence.sum() >= max(_SMALLEST, 0.7 * truth.sum()):
            return bad, truth
    raise RuntimeError(f"no visible {shot.defect} on {shot.category} in {_ATTEMPTS} attempts")


def _flawed(shot: _Shot, good: surface.Surface, edit: surface.Edit) -> surface.Surface:
    """The surface with one defect."""
    kind = DEFECTS[shot.category][shot.defect]
    if kind.apply is not None:
        return kind.apply(good, shot.frame, edit)
    built = shot.build(edit)
    if kind.modality == "combination":
        return dataclasses.replace(good, relief=built.relief)
    return built


def _changed(good: surface.Surface, bad: surface.Surface, shot: _Shot) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that a defect changed by more than the thresholds, and those where the sensors can tell, (h, w) bool each.

    They differ where the scanner sees the part neither before nor after.
    """
    pitch = shot.camera.pitch_mm
    changed = evidence = np.zeros(good.relief.shape, bool)
    if bad.relief is not good.relief:
        deeper = np.abs(bad.relief - good.relief) > HEIGHT_THRESHOLD_MM
        before, after = (scanner.seen(part.relief, pitch) for part in (good, bad))
        changed, evidence = deeper | (before != after), deeper & after | (before != after)
    if bad.albedo is not good.albedo:
        before, after = (scanner.photograph(part, shot.view, pitch) for part in (good, bad))
        other = np.abs(after - before).max(-1) > COLOUR_THRESHOLD
        changed, evidence = changed | other, evidence | other
    return ndimage.binary_closing(np.pad(changed, 1), np.ones((3, 3)))[1:-1, 1:-1] | changed, evidence
