"""Food: no two parts alike in outline, texture or the number of their features."""

import numpy as np

from pirn_jax.data.procedural.surface import (
    Edit,
    Frame,
    Surface,
    dome,
    fractal,
    grain,
    paint,
    ramp,
    ring_noise,
    stamps,
    tint,
)

_SPRINKLES = np.array(
    [[0.92, 0.25, 0.30], [0.98, 0.82, 0.22], [0.30, 0.62, 0.85], [0.95, 0.94, 0.90], [0.40, 0.72, 0.36]]
)


def doughnut(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """An iced ring with sprinkles; the edit `misplaced_sprinkles` lays those of one region elsewhere."""
    theta = np.arctan2(frame.y, frame.x)
    centre, tube = rng.uniform(19.0, 21.0), rng.uniform(9.8, 11.0)
    radius = np.hypot(frame.x * rng.uniform(0.95, 1.05), frame.y) + 0.5 * ring_noise(theta, rng, 4)
    across = (radius - centre) / tube
    height = rng.uniform(11.0, 13.0) * dome(across**2)
    body = height > 0
    height = np.where(body, height + 0.25 * grain(frame, rng, 8.0) + 0.07 * fractal(frame, rng, 2.0, 2), 0)
    albedo = _crust(frame, rng, across)
    edge = 0.66 + 0.07 * ring_noise(theta, rng, 9) + 0.05 * np.sign(across)
    icing = ramp(np.abs(across), edge + 0.05, edge - 0.05)
    colour = tint(rng, ((0.93, 0.60, 0.68), (0.40, 0.24, 0.16), (0.94, 0.90, 0.82))[rng.integers(3)], 0.08)
    paint(albedo, colour * (1 + 0.03 * grain(frame, rng, 6.0)[..., None]), icing)
    height += 0.8 * icing * body
    points, turns, colours = _scatter(rng, centre, tube)
    if edit is not None:
        points, turns = _rescatter(points, turns, edit, centre, tube)
    _sprinkle(frame, height, albedo, points, turns, colours)
    return Surface(height, height, albedo, 0.1 + 0.5 * icing, body & (np.abs(across) < 0.6))


def _crust(frame: Frame, rng: np.random.Generator, across: np.ndarray) -> np.ndarray:
    """Baked dough, paler where it touched the pan, (h, w, 3)."""
    colour = tint(rng, (0.76, 0.52, 0.28), 0.10)
    brown = 0.10 * fractal(frame, rng, 5.0) - 0.25 * ramp(np.abs(across), 0.95, 0.5)
    return (colour * (1.1 + brown[..., None])).astype(np.float32)


def _scatter(rng: np.random.Generator, centre: float, tube: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places (n, 2), directions (n,) and colours (n, 3) of the sprinkles of one doughnut."""
    count = int(rng.integers(45, 95))
    angle, radius = rng.uniform(-np.pi, np.pi, count), centre + tube * rng.uniform(-0.52, 0.52, count)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return (
        points,
        rng.uniform(0, np.pi, count),
        _SPRINKLES[rng.integers(0, 5, count)] * rng.uniform(0.85, 1.05, (count, 1)),
    )


def _rescatter(
    points: np.ndarray, turns: np.ndarray, edit: Edit, centre: float, tube: float
) -> tuple[np.ndarray, np.ndarray]:
    """Moves the sprinkles of one region by about their own length, within the icing, and turns them."""
    anchor = points[edit.rng.integers(len(points))]
    near = np.hypot(*(points - anchor).T) < 5.0 + 6.0 * edit.severity
    step = edit.rng.uniform(0, 2 * np.pi, len(points))
    moved = points + 3.0 * near[:, None] * np.stack([np.cos(step), np.sin(step)], 1)
    radius = np.hypot(*moved.T)
    moved *= (np.clip(radius, centre - 0.52 * tube, centre + 0.52 * tube) / radius)[:, None]
    return moved, turns + near * edit.rng.uniform(0.5, 2.6, len(points))


def _sprinkle(
    frame: Frame, height: np.ndarray, albedo: np.ndarray, points: np.ndarray, turns: np.ndarray, colours: np.ndarray
) -> None:
    """Lays capsules 3.6 mm long and 1.3 mm thick on the surface, in place."""
    for (at, dx, dy), turn, colour in zip(stamps(frame, points, 2.6), turns, colours, strict=True):
        along, aside = np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx
        t2 = (aside**2 + np.maximum(np.abs(along) - 1.2, 0) ** 2) / 0.65**2
        height[at] += 0.85 * dome(t2)
        paint(albedo[at], colour, ramp(t2, 1.25, 0.8))


def strawberry(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """A berry lying on its side, its seeds in pits; the edit `misplaced_seeds` shifts the pits of one region."""
    theta = np.arctan2(frame.y, frame.x)
    width, length = rng.uniform(15.0, 18.0), rng.uniform(19.0, 22.5)
    taper = 1 - rng.uniform(0.012, 0.020) * (frame.y + 3 + rng.uniform(-1, 1) * 0.2 * frame.x)
    bulge = 1 + 0.035 * ring_noise(theta, rng, 4)
    t2 = ((frame.x / (width * np.maximum(taper, 0.3))) ** 2 + (frame.y / length) ** 2) * bulge
    body = t2 < 1
    height = rng.uniform(13.0, 16.0) * dome(t2)
    height = np.where(body, height + 0.25 * grain(frame, rng, 7.0), 0)
    ripe = ramp(frame.y + 2.5 * grain(frame, rng, 10.0), -length * rng.uniform(0.7, 1.0), -length * 0.25)
    albedo = np.empty((*frame.shape, 3), np.float32)
    albedo[:] = tint(rng, (0.90, 0.62, 0.46), 0.08)
    paint(albedo, tint(rng, (0.78, 0.10, 0.10), 0.12), np.clip(ripe + 0.08 * fractal(frame, rng, 4.0), 0, 1))
    points = _seed_places(rng, width, length)
    if edit is not None:
        points = _shift_seeds(points, edit)
    _seed(frame, height, albedo, points, rng)
    leaf = _calyx(frame, height, albedo, rng, length)
    return Surface(height * body, height * body, albedo, 0.55 * (1 - leaf), (t2 < 0.62) & (leaf < 0.05))


def _seed_places(rng: np.random.Generator, width: float, length: float) -> np.ndarray:
    """Jittered triangular lattice wrapped over the berry, (n, 2) millimetres."""
    pitch = rng.uniform(5.2, 6.0)
    rows, columns = np.mgrid[-6:7, -6:7]
    across, along = (columns + 0.5 * (rows % 2)).ravel() * pitch, rows.ravel() * pitch * 0.87
    across, along = across + rng.normal(0, 0.35, across.size), along + rng.normal(0, 0.35, along.size)
    inside = (np.abs(along) < 1.3 * length) & (np.abs(across) < 1.4 * width)
    points = np.stack([width * np.sin(across[inside] / width), length * np.sin(along[inside] / length)], 1)
    return points[(points[:, 0] / width) ** 2 + (points[:, 1] / length) ** 2 < 0.85]


def _shift_seeds(points: np.ndarray, edit: Edit) -> np.ndarray:
    """Moves the seeds of one region by half of their spacing and drops those that then crowd the others."""
    inner = points[np.hypot(*points.T) < 10.0]
    near = np.hypot(*(points - inner[edit.rng.integers(len(inner))]).T) < 5.5 + 5.0 * edit.severity
    turn = edit.rng.uniform(0, 2 * np.pi)
    moved = points[near] + 2.7 * np.array([np.cos(turn), np.sin(turn)])
    gap = np.hypot(*(moved[:, None] - points[~near]).transpose(2, 0, 1)).min(1, initial=np.inf)
    return np.concatenate([points[~near], moved[gap > 3.8]])


def _seed(frame: Frame, height: np.ndarray, albedo: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> None:
    """Presses a pit for each seed and lays the seed into it, in place."""
    colour = tint(rng, (0.90, 0.74, 0.36), 0.15)
    depth = rng.uniform(1.0, 1.3)
    for at, dx, dy in stamps(frame, points, 4.2):
        seed = (dx / 0.75) ** 2 + (dy / 1.2) ** 2
        pit = np.exp(-((dx / 1.6) ** 2 + (dy / 1.9) ** 2))
        height[at] += 0.5 * dome(seed) - depth * pit
        albedo[at] *= 1 - 0.3 * pit[..., None]
        paint(albedo[at], colour, ramp(seed, 1.5, 0.6))


def _calyx(frame: Frame, height: np.ndarray, albedo: np.ndarray, rng: np.random.Generator, length: float) -> np.ndarray:
    """Lays the green leaves on the shoulder, in place, and returns where they are, (h, w) in [0, 1]."""
    dx, dy = frame.x, frame.y + length * 0.98
    radius, theta = np.hypot(dx, dy), np.arctan2(dy, dx)
    count = int(rng.integers(8, 12))
    phase = (theta + 0.12 * np.sin(0.5 * radius + rng.uniform(0, 6))) * count / (2 * np.pi) + rng.uniform()
    reach = 8.5 + 1.6 * ring_noise(theta, rng, 5)
    aside = np.abs(phase - np.round(phase)) * 2
    leaf = ramp(aside + (radius / reach) ** 1.5, 1.08, 0.92)
    height += leaf * (1.0 - 0.5 * aside)
    paint(albedo, tint(rng, (0.30, 0.50, 0.16), 0.2) * (1.15 - 0.35 * aside[..., None]), leaf)
    return leaf
