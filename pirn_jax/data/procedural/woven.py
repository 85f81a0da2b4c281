"""Woven parts: rigid repetition, with a motif that differs from part to part."""

import numpy as np

from pirn_jax.data.procedural.surface import Edit, Frame, Surface, dome, grain, paint, ramp, tint

_CELL = 3.2  # millimetres from one thread to the next
_WARP, _WEFT = 11, 14  # threads across and along


def coaster(frame: Frame, rng: np.random.Generator, edit: Edit | None = None) -> Surface:
    """A mat woven of dark and light bands; the edit `swapped_weave` exchanges over and under in a block."""
    across = frame.x / _CELL + _WARP / 2 + 0.07 * grain(frame, rng, 14.0)
    along = frame.y / _CELL + _WEFT / 2 + 0.07 * grain(frame, rng, 14.0)
    over = _pattern(rng)
    if edit is not None:
        over = _swap(over, edit)
    warp, weft = _band(along, across, over), _band(across, along, -over.T)
    upper = warp >= weft
    top = np.maximum(warp, weft)
    body = top > 0
    height = np.where(body, top, 0).astype(np.float32)
    fibre = np.where(
        upper, np.sin(across * 34 + 2 * grain(frame, rng, 5.0)), np.sin(along * 34 + 2 * grain(frame, rng, 5.0))
    )
    height += np.where(body, 0.03 * fibre, 0)
    albedo = _dye(frame, rng, across, along, upper)
    albedo *= 1 + (0.06 * fibre + 0.04 * grain(frame, rng, 0.7))[..., None]
    zone = (np.abs(across - _WARP / 2) < _WARP / 2 - 1) & (np.abs(along - _WEFT / 2) < _WEFT / 2 - 1)
    return Surface(height, height, albedo, np.full(frame.shape, 0.12, np.float32), zone)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """Threads on top, (warp, weft) of +1 and -1: a twill whose direction and phase change by region."""
    i, j = np.indices((_WARP, _WEFT))
    step = int(rng.integers(0, 4))
    twill = ((i + j + step) % 4 < 2), ((i - j + step) % 4 < 2), ((i + j + step) % 2 < 1)
    first, second = rng.permutation(3)[:2]
    slope = rng.normal(size=2)
    side = slope[0] * (i - _WARP / 2) + slope[1] * (j - _WEFT / 2) > rng.uniform(-3, 3)
    return np.where(np.where(side, twill[first], twill[second]), 1, -1)


def _swap(over: np.ndarray, edit: Edit) -> np.ndarray:
    """Exchanges over and under in a block of 2 x 1 to 4 x 3 crossings."""
    size = np.array([2, 1]) + np.round(2 * edit.severity).astype(int)
    size = edit.rng.permutation(size)
    i, j = (int(edit.rng.integers(1, n - s)) for n, s in zip(over.shape, size, strict=True))
    swapped = over.copy()
    swapped[i : i + size[0], j : j + size[1]] *= -1
    return swapped


def _band(run: np.ndarray, side: np.ndarray, over: np.ndarray) -> np.ndarray:
    """Height of the threads that run along `run`, (h, w) millimetres, -1 between threads and off the mat.

    `over` is (threads, crossings): +1 where a thread passes over, -1 where it passes under.
    """
    threads, crossings = over.shape
    thread = np.floor(side).astype(int)
    inside = (thread >= 0) & (thread < threads) & (run > -0.35) & (run < crossings + 0.35)
    place = np.clip(run - 0.5, 0, crossings - 1)
    before = np.minimum(np.floor(place).astype(int), crossings - 2)
    thread = np.clip(thread, 0, threads - 1)
    t = ramp(place - before, 0.1, 0.9)
    lift = over[thread, before] * (1 - t) + over[thread, before + 1] * t
    section = dome(((side - np.floor(side) - 0.5) / 0.49) ** 2)
    return np.where(inside & (section > 0), 1.5 + 0.55 * lift + 0.75 * section, -1.0)


def _dye(
    frame: Frame, rng: np.random.Generator, across: np.ndarray, along: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """Colour of the visible thread; every thread has its own brightness, (h, w, 3)."""
    dark = tint(rng, (0.36, 0.32, 0.44), 0.16) * rng.uniform(0.88, 1.12, (_WARP, 1)).astype(np.float32)
    light = tint(rng, (0.80, 0.70, 0.50), 0.12) * rng.uniform(0.9, 1.1, (_WEFT, 1)).astype(np.float32)
    warp = dark[np.clip(np.floor(across).astype(int), 0, _WARP - 1)]
    weft = light[np.clip(np.floor(along).astype(int), 0, _WEFT - 1)]
    albedo = np.where(upper[..., None], warp, weft).astype(np.float32)
    paint(albedo, albedo.mean((0, 1)) * 0.9, 0.15 * ramp(grain(frame, rng, 9.0), 0.5, 2.5))
    return albedo
