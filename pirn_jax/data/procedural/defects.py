"""Defects: what each category suffers from, in which modality it shows, and how it changes the surface."""

import dataclasses
from collections.abc import Callable

import numpy as np

from pirn_jax.data.procedural.surface import Edit, Frame, Surface, fractal, paint, ramp, ring_noise

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Defect:
    """One type of defect.

    Attributes:
        modality: `geometry` (colour image as of a good part), `colour` (point cloud as of a good part), `both`, or
            `combination` (colour image of one good part on the point cloud of another: only together they are wrong).
        apply: Changes a surface; None where the part's builder makes the change.
    """

    modality: str
    apply: Callable[[Surface, Frame, Edit], Surface] | None = None


def _between(low: float, high: float, severity: float) -> np.float32:
    """`low` for a barely visible defect, `high` for an obvious one."""
    return np.float32(low + (high - low) * severity)


def _place(surface: Surface, frame: Frame, edit: Edit) -> tuple[np.ndarray, np.ndarray]:
    """Offsets in millimetres of every pixel from a random point of the zone, rotated at random, (h, w) each."""
    inside = np.flatnonzero(surface.zone)
    row, column = divmod(int(inside[edit.rng.integers(inside.size)]), frame.shape[1])
    dx, dy = frame.x - frame.x[row, column], frame.y - frame.y[row, column]
    turn = np.float32(edit.rng.uniform(0, 2 * np.pi))
    return np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx


def _blob(surface: Surface, frame: Frame, edit: Edit, radius: float | np.floating, wavy: float) -> np.ndarray:
    """Squared distance from a random place in units of an uneven outline of about `radius` millimetres, (h, w)."""
    along, aside = _place(surface, frame, edit)
    outline = radius * np.exp(wavy * ring_noise(np.arctan2(aside, along), edit.rng, 4))
    return ((along * edit.rng.uniform(0.75, 1.0)) ** 2 + (aside * edit.rng.uniform(1.0, 1.3)) ** 2) / outline**2


def _line(
    surface: Surface, frame: Frame, edit: Edit, length: float | np.floating, wander: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in millimetres from a line whose slope varies by `wander`, and the place along it from -1 to 1."""
    along, aside = _place(surface, frame, edit)
    grid = np.linspace(-1, 1, 33)
    slope = np.convolve(edit.rng.normal(0, wander, 37), (0.2, 0.3, 0.6, 0.3, 0.2), "valid")
    walk = np.cumsum(np.clip(slope, -1.4, 1.4)) * length / 32 + edit.rng.uniform(-0.2, 0.2) * length * grid**2
    course = np.interp(along / (0.5 * length), grid, walk - walk[16])
    return np.abs(aside - course).astype(np.float32), along / np.float32(0.5 * length)


def _carve(surface: Surface, change: np.ndarray, floor: float = 0.0) -> np.ndarray:
    """The height after `change` millimetres, on the part only and never below `floor`, (h, w)."""
    body = surface.shaded > 0.05
    return np.where(body, np.maximum(surface.shaded + change, np.minimum(surface.shaded, floor)), surface.shaded)


def swelling(low: float, high: float, radius: float, sign: int) -> Callable[[Surface, Frame, Edit], Surface]:
    """A smooth dent (`sign` -1) or bump (+1), `low` to `high` millimetres deep and `radius` wide; not in colour."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        depth = _between(low, high, edit.severity)
        t2 = _blob(surface, frame, edit, radius * edit.rng.uniform(0.8, 1.25), 0.08)
        return dataclasses.replace(surface, relief=_carve(surface, sign * depth * ramp(t2, 1.0, 0.1)))

    return apply


def stain(
    colour: Colour, low: float, high: float, radius: tuple[float, float] = (2.2, 4.6)
) -> Callable[[Surface, Frame, Edit], Surface]:
    """A blot of `colour` that covers between `low` and `high` of what is below it; no trace in the point cloud."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        t2 = _blob(surface, frame, edit, _between(*radius, edit.severity * edit.rng.uniform(0.6, 1)), 0.2)
        cover = _between(low, high, edit.severity) * ramp(t2 + 0.15 * fractal(frame, edit.rng, 1.5, 2), 1.15, 0.7)
        albedo = surface.albedo.copy()
        paint(albedo, colour, cover)
        return dataclasses.replace(surface, albedo=albedo)

    return apply


def groove(
    colour: Colour, length: tuple[float, float], width: float, depth: tuple[float, float], wander: float
) -> Callable[[Surface, Frame, Edit], Surface]:
    """A crack, cut or scratch: a line of `length`, `width` and `depth` millimetres that bares `colour`."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        distance, place = _line(surface, frame, edit, _between(*length, edit.severity), wander)
        half = width / 2 * np.sqrt(np.maximum(1 - place**2, 0)) * _between(0.8, 1.25, edit.severity)
        inside = ramp(distance - half, 0.3, -0.3) * (np.abs(place) < 1)
        height = _carve(surface, -_between(*depth, edit.severity) * inside, 0.1)
        albedo = surface.albedo.copy()
        paint(albedo, colour, 0.85 * inside)
        return dataclasses.replace(surface, relief=height, shaded=height, albedo=albedo)

    return apply


def pit(
    colour: Colour, radius: tuple[float, float], depth: tuple[float, float]
) -> Callable[[Surface, Frame, Edit], Surface]:
    """A hole with a ragged outline whose ground has another `colour`."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        t2 = _blob(surface, frame, edit, _between(*radius, edit.severity), 0.15)
        inside = ramp(t2, 1.2, 0.5)
        height = _carve(surface, -_between(*depth, edit.severity) * inside, 0.1)
        albedo = surface.albedo.copy()
        paint(albedo, colour, 0.9 * inside)
        return dataclasses.replace(surface, relief=height, shaded=height, albedo=albedo)

    return apply


def debris(colour: Colour, radius: tuple[float, float]) -> Callable[[Surface, Frame, Edit], Surface]:
    """A foreign crumb of `radius` millimetres that sticks to the part."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        size = _between(*radius, edit.severity)
        t2 = _blob(surface, frame, edit, size, 0.22)
        crumb = np.sqrt(np.maximum(1 - t2, 0))
        height = _carve(surface, crumb * size * (0.6 + 0.08 * fractal(frame, edit.rng, 1.2, 2)))
        albedo = surface.albedo.copy()
        paint(albedo, np.asarray(colour) * edit.rng.uniform(0.85, 1.15), ramp(t2, 1.05, 0.9))
        return dataclasses.replace(surface, relief=height, shaded=height, albedo=albedo)

    return apply


def fibre(colour: Colour, length: tuple[float, float], thickness: float) -> Callable[[Surface, Frame, Edit], Surface]:
    """A loose thread that lies on the part."""

    def apply(surface: Surface, frame: Frame, edit: Edit) -> Surface:
        distance, place = _line(surface, frame, edit, _between(*length, edit.severity), 0.8)
        half = np.float32(thickness * _between(0.8, 1.2, edit.severity))
        inside = (np.abs(place) < 1) & (distance < half)
        round_ = np.sqrt(np.maximum(1 - (distance / half) ** 2, 0)) * inside
        height = _carve(surface, (0.35 + half) * round_)
        albedo = surface.albedo.copy()
        paint(albedo, colour, 0.95 * inside)
        return dataclasses.replace(surface, relief=height, shaded=height, albedo=albedo)

    return apply


DEFECTS: dict[str, dict[str, Defect]] = {
    "doughnut": {
        "dent": Defect("geometry", swelling(2.3, 4.2, 7.0, -1)),
        "mould": Defect("colour", stain((0.36, 0.42, 0.32), 0.4, 0.85, (3.2, 7.0))),
        "crack": Defect("both", groove((0.30, 0.19, 0.10), (12.0, 24.0), 1.1, (1.0, 2.4), 1.0)),
        "contamination": Defect("both", debris((0.20, 0.20, 0.22), (1.7, 3.6))),
        "misplaced_sprinkles": Defect("combination"),
    },
    "strawberry": {
        "dent": Defect("geometry", swelling(1.3, 2.6, 5.0, -1)),
        "rot": Defect("colour", stain((0.40, 0.24, 0.12), 0.4, 0.85)),
        "cut": Defect("both", groove((0.94, 0.66, 0.56), (8.0, 17.0), 0.9, (0.7, 1.8), 0.12)),
        "hole": Defect("both", pit((0.22, 0.06, 0.05), (1.4, 2.8), (1.2, 3.0))),
        "misplaced_seeds": Defect("combination"),
    },
    "knob": {
        "bump": Defect("geometry", swelling(0.45, 1.1, 4.5, 1)),
        "stain": Defect("colour", stain((0.52, 0.40, 0.28), 0.3, 0.75)),
        "scratch": Defect("both", groove((0.66, 0.66, 0.66), (8.0, 18.0), 0.35, (0.2, 0.5), 0.08)),
        "missing_flute": Defect("both"),
        "displaced_pointer": Defect("combination"),
    },
    "gear": {
        "sink": Defect("geometry", swelling(0.7, 1.4, 5.2, -1)),
        "burn": Defect("colour", stain((0.42, 0.28, 0.14), 0.25, 0.75)),
        "crack": Defect("both", groove((0.40, 0.36, 0.28), (8.0, 17.0), 0.45, (0.4, 1.0), 0.9)),
        "broken_tooth": Defect("both"),
        "swapped_mark": Defect("combination"),
    },
    "connector": {
        "warp": Defect("geometry", swelling(0.6, 1.3, 5.0, 1)),
        "smear": Defect("colour", stain((0.76, 0.73, 0.62), 0.4, 0.8, (2.4, 5.0))),
        "missing_pin": Defect("both"),
        "contamination": Defect("both", debris((0.45, 0.28, 0.16), (1.1, 2.5))),
        "wrong_seal": Defect("combination"),
    },
    "coaster": {
        "bulge": Defect("geometry", swelling(0.8, 1.8, 5.0, 1)),
        "stain": Defect("colour", stain((0.36, 0.18, 0.12), 0.35, 0.8)),
        "cut": Defect("both", groove((0.20, 0.17, 0.15), (7.0, 16.0), 0.9, (0.8, 1.8), 0.1)),
        "loose_thread": Defect("both", fibre((0.78, 0.70, 0.52), (9.0, 20.0), 0.5)),
        "swapped_weave": Defect("combination"),
    },
}
