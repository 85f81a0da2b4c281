"""Turned and moulded parts: rigid, with features at known places whose kind and colour vary."""

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


def _plain(frame: Frame, rng: np.random.Generator, colour: np.ndarray, mottle: float) -> np.ndarray:
    """One colour with flow marks and fine grain, (h, w, 3)."""
    shade = 1 + mottle * fractal(frame, rng, 9.0) + 0.4 * mottle * grain(frame, rng, 0.5)
    return (colour * shade[..., None]).astype(np.float32)


def knob(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """A turned knob with fluted grip and painted pointer.

    The edit `missing_flute` fills flutes of the grip; `displaced_pointer` turns the pointer's groove.
    """
    radius, theta = np.hypot(frame.x, frame.y), np.arctan2(frame.y, frame.x)
    skirt, grip, tall = rng.uniform(17.2, 18.4), rng.uniform(13.2, 14.2), rng.uniform(6.5, 8.0)
    flutes = int(rng.integers(14, 19))
    depth = np.full(flutes, 1.1)
    groove, spin = 0.0, rng.uniform(-np.pi, np.pi)
    if edit is not None and edit.name == "missing_flute":
        first, count = edit.rng.integers(flutes), 1 + round(2 * edit.severity)
        depth[(first + np.arange(count)) % flutes] = 0.0
    elif edit is not None:
        groove = edit.rng.choice([-1, 1]) * np.deg2rad(18 + 40 * edit.severity)
    phase = (theta + spin) / (2 * np.pi) * flutes
    wall = grip - depth[np.floor(phase).astype(int) % flutes] * np.sin(np.pi * (phase % 1)) ** 2
    height = 2.6 * ramp(radius, skirt, skirt - 0.7) + (tall - 2.6) * ramp(radius, wall, wall - 0.9)
    height -= (1.1 * dome((radius / 11.0) ** 2) + 0.03 * np.sin(radius * 9.0)) * (radius < 11.0)
    albedo = _plain(frame, rng, tint(rng, (0.31, 0.31, 0.34), 0.18), 0.05)
    albedo *= 1 + 0.10 * np.sin(radius * 7.0 + 2 * ring_noise(theta, rng, 3))[..., None] * (radius < 11.0)[..., None]
    paint(albedo, tint(rng, (0.66, 0.65, 0.62), 0.10), ramp(radius, 3.8, 3.5))
    height += 0.6 * ramp(radius, 3.9, 3.5)
    painted, cut = _pointer(frame, 0.0), _pointer(frame, groove)
    paint(albedo, tint(rng, (0.90, 0.86, 0.72), 0.08), painted)
    height -= 0.7 * cut
    zone = (radius < grip - 1.5) & (radius > 4.5) | (radius > grip + 0.8) & (radius < skirt - 1.2)
    return Surface(height, height, albedo, np.full(frame.shape, 0.45, np.float32), zone)


def _pointer(frame: Frame, turn: float) -> np.ndarray:
    """A radial bar from 4.6 to 12 mm, turned by `turn` radians, (h, w) in [0, 1]."""
    along = np.cos(turn) * frame.x + np.sin(turn) * frame.y
    aside = np.cos(turn) * frame.y - np.sin(turn) * frame.x
    return ramp(np.maximum(np.abs(along - 8.3) - 2.9, np.abs(aside)), 1.05, 0.75)


def gear(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """A moulded spur gear with five index marks, raised ones red and sunk ones blue.

    The edit `broken_tooth` breaks teeth off; `swapped_mark` gives marks the relief of the other kind.
    """
    radius, theta = np.hypot(frame.x, frame.y), np.arctan2(frame.y, frame.x)
    teeth, root, tall = 18, rng.uniform(19.0, 20.2), rng.uniform(5.5, 6.5)
    length = np.full(teeth, 3.6)
    raised = rng.integers(0, 2, 5)
    kind = raised.copy()
    if edit is not None and edit.name == "broken_tooth":
        length[edit.rng.integers(teeth)] *= 0.70 - 0.65 * edit.severity
    elif edit is not None:
        swapped = edit.rng.permutation(5)[: 1 + round(edit.severity)]
        kind[swapped] = 1 - kind[swapped]
    phase = theta / (2 * np.pi) * teeth
    flank = ramp(np.cos(2 * np.pi * (phase - 0.5)), -0.45, 0.45)
    rim = root + flank * length[np.floor(phase).astype(int) % teeth]
    height = tall * ramp(radius, rim, rim - 0.6) - 2.2 * ramp(radius, 7.0, 7.5) * ramp(radius, 16.6, 16.1)
    height += 1.6 * ramp(radius, 7.2, 6.7)
    hole = np.maximum(ramp(radius, 3.2, 2.8), _keyway(frame))
    for k in range(5):
        hole = np.maximum(hole, ramp(_from_spoke(frame, 2 * k), 2.5, 2.1))
    albedo = _plain(frame, rng, tint(rng, (0.76, 0.73, 0.62), 0.07), 0.025)
    for k in range(5):
        mark = ramp(_from_spoke(frame, 2 * k + 1), 2.2, 1.8)
        height += 0.8 * (2 * kind[k] - 1) * mark
        paint(albedo, ((0.20, 0.36, 0.62), (0.74, 0.22, 0.18))[raised[k]], 0.9 * mark)
    height *= 1 - hole
    paint(albedo, (0.16, 0.16, 0.17), ramp(radius, rim + 0.1, rim) * hole)
    zone = (radius < root) & (radius > 8.0) & (hole < 0.01)
    return Surface(height, height, albedo, np.full(frame.shape, 0.25, np.float32), zone)


def _from_spoke(frame: Frame, spoke: int) -> np.ndarray:
    """Distance in millimetres from the middle of one of ten places on the web, (h, w)."""
    turn = spoke * np.pi / 5
    return np.hypot(frame.x - np.float32(11.9 * np.cos(turn)), frame.y - np.float32(11.9 * np.sin(turn)))


def _keyway(frame: Frame) -> np.ndarray:
    """The slot beside the bore, (h, w) in [0, 1]."""
    return ramp(np.maximum(np.abs(frame.x) - 1.0, np.abs(frame.y - 3.0) - 1.6), 0.2, -0.2)


def connector(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """A housing with 2 x 4 cavities, each open with a gold pin or closed by a blue seal.

    The edit `missing_pin` takes a pin out; `wrong_seal` gives cavities the relief of the other kind.
    """
    box = np.maximum(np.abs(frame.x) - 22.0, np.abs(frame.y) - 13.0) + rng.uniform(-0.4, 0.4)
    tall = rng.uniform(6.8, 8.2)
    tab = np.maximum(np.abs(frame.x - 8.0 * rng.choice([-1, 1])) - 4.0, np.abs(frame.y + 14.0) - 2.2)
    height = np.maximum(tall * ramp(box, 0.0, -0.7), 4.0 * ramp(tab, 0.0, -0.5))
    height -= 1.4 * ramp(box, -2.0, -2.6)
    albedo = _plain(frame, rng, tint(rng, (0.44, 0.46, 0.45), 0.16), 0.04)
    sealed = (rng.permutation(8) < rng.integers(2, 7)).reshape(2, 4)
    relief, pins = sealed.copy(), ~sealed
    if edit is not None:
        _rewire(edit, sealed, relief, pins)
    seal, gold = tint(rng, (0.18, 0.42, 0.66), 0.15), tint(rng, (0.86, 0.68, 0.30), 0.08)
    gloss = np.full(frame.shape, 0.2, np.float32)
    for row, column in np.ndindex(2, 4):
        at = next(stamps(frame, [(9.2 * (column - 1.5), 8.8 * (row - 0.5))], 5.5))
        _cavity(
            at, height, bool(relief[row, column]), bool(pins[row, column] or relief[row, column] != sealed[row, column])
        )
        _cavity_colour(
            at, albedo, gloss, seal if sealed[row, column] else gold, bool(sealed[row, column]), bool(pins[row, column])
        )
    _label(frame, albedo, box, rng)
    zone = (box < -2.8) & (height > tall - 3.0) | (box < -0.9) & (box > -1.8)
    return Surface(height, height, albedo, gloss, zone)


def _rewire(edit: Edit, sealed: np.ndarray, relief: np.ndarray, pins: np.ndarray) -> None:
    """Applies an edit to the 2 x 4 cavities, in place."""
    if edit.name == "wrong_seal":
        chosen = np.unravel_index(edit.rng.permutation(8)[: 1 + round(edit.severity)], (2, 4))
        relief[chosen] = ~relief[chosen]
        return
    candidates = np.argwhere(pins)
    pins[tuple(candidates[edit.rng.integers(len(candidates))])] = False


def _cavity(at: tuple, height: np.ndarray, closed: bool, pin: bool) -> None:
    """Shapes one cavity in place: a dome when closed, else a well with or without its pin."""
    where, dx, dy = at
    square = np.maximum(np.abs(dx), np.abs(dy))
    if closed:
        height[where] += 1.3 * dome((dx**2 + dy**2) / 3.0**2) - 0.5 * ramp(square, 3.4, 3.1)
        return
    height[where] -= 4.5 * ramp(square, 3.4, 3.0) - (3.8 * ramp(square, 1.25, 0.9) if pin else 0)


def _cavity_colour(
    at: tuple, albedo: np.ndarray, gloss: np.ndarray, colour: np.ndarray, closed: bool, pin: bool
) -> None:
    """Colours one cavity in place: the seal, or a dark well with the metal of its pin."""
    where, dx, dy = at
    square = np.maximum(np.abs(dx), np.abs(dy))
    if closed:
        paint(albedo[where], colour, ramp(dx**2 + dy**2, 3.15**2, 2.85**2))
        return
    paint(albedo[where], (0.13, 0.13, 0.14), ramp(square, 3.4, 3.1))
    if pin:
        paint(albedo[where], colour, ramp(square, 1.25, 1.0))
        gloss[where] = np.maximum(gloss[where], 0.7 * ramp(square, 1.25, 1.0))


def _label(frame: Frame, albedo: np.ndarray, box: np.ndarray, rng: np.random.Generator) -> None:
    """Prints a row of light bars, a random code, between the cavities, in place."""
    bits = rng.integers(0, 2, 18)
    column = np.floor((frame.x + 17.0) / 2.0).astype(int)
    bar = (np.abs((frame.x + 17.0) % 2.0 - 1.0) < 0.65) & (np.abs(frame.y) < 0.55) & (box < -3.0)
    paint(albedo, (0.85, 0.85, 0.80), 0.9 * (bar & (bits[np.clip(column, 0, 17)] == 1)))
