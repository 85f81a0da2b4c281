"""Surface of a part before it is scanned: height and colour over the image grid, and the strokes that make them."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Frame:
    """The part's own coordinates at every pixel.

    Attributes:
        x: (h, w) millimetres along the part's first axis.
        y: (h, w) millimetres along the part's second axis.
        pitch: Millimetres of the part that one pixel covers.
        angle: In-plane rotation in radians.
        shift: Position of the part's origin in pixels, (column, row).
    """

    x: np.ndarray
    y: np.ndarray
    pitch: float
    angle: float
    shift: tuple[float, float]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the image."""
        return self.x.shape

    def pixel(self, x: float, y: float) -> tuple[float, float]:
        """Column and row of the point (x, y), both in millimetres."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return self.shift[0] + (cos * x - sin * y) / self.pitch, self.shift[1] + (sin * x + cos * y) / self.pitch

    def window(self, x: float, y: float, radius: float) -> tuple[slice, slice]:
        """The pixels within `radius` millimetres of (x, y), as a square cut to the image."""
        column, row = self.pixel(x, y)
        reach = radius / self.pitch + 1
        rows, columns = self.shape
        return (
            slice(int(np.clip(row - reach, 0, rows)), int(np.clip(row + reach + 1, 0, rows))),
            slice(int(np.clip(column - reach, 0, columns)), int(np.clip(column + reach + 1, 0, columns))),
        )


@dataclasses.dataclass(frozen=True)
class Surface:
    """A part on its support.

    `relief` is what the scanner measures and `shaded` what the light falls on. They are equal except where a defect is
    meant to show in one modality only: under a diffuse light tent low relief leaves no trace in the colour image.

    Attributes:
        relief: (h, w) height above the support in millimetres.
        shaded: (h, w) height that casts light and shadow, in millimetres.
        albedo: (h, w, 3) reflectance in [0, 1].
        gloss: (h, w) strength of the highlight in [0, 1].
        zone: (h, w) bool, where a defect may be centred.
    """

    relief: np.ndarray
    shaded: np.ndarray
    albedo: np.ndarray
    gloss: np.ndarray
    zone: np.ndarray


@dataclasses.dataclass(frozen=True)
class Edit:
    """A change to a part: which one, how strong (0 barely visible, 1 obvious), and its own randomness."""

    name: str
    severity: float
    rng: np.random.Generator


def pose(shape: tuple[int, int], pitch: float, turn: float, rng: np.random.Generator) -> Frame:
    """Lays a part down: shifted by up to 6 % of the image, scaled by up to 4 %, rotated by up to `turn` radians."""
    rows, columns = shape
    angle = rng.uniform(-turn, turn)
    shift = (np.array([columns, rows]) - 1) / 2 + rng.uniform(-0.06, 0.06, 2) * min(shape)
    pitch = pitch * rng.uniform(0.96, 1.04)
    across = ((np.arange(columns) - shift[0]) * pitch).astype(np.float32)[None, :]
    down = ((np.arange(rows) - shift[1]) * pitch).astype(np.float32)[:, None]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return Frame(cos * across + sin * down, cos * down - sin * across, pitch, angle, (shift[0], shift[1]))


@functools.lru_cache(maxsize=256)
def _kernel(length: int, spacing: float) -> np.ndarray:
    """(length, n) Gaussian weights from n lattice points to pixels; the squares of a row sum to one."""
    centres = np.arange(-2, int(np.ceil(length / spacing)) + 3) * spacing
    weights = np.exp(-0.5 * ((np.arange(length)[:, None] - centres) / (0.6 * spacing)) ** 2)
    return (weights / np.sqrt((weights**2).sum(1, keepdims=True))).astype(np.float32)


def grain(frame: Frame, rng: np.random.Generator, size: float) -> np.ndarray:
    """Smooth noise of unit variance whose blobs are about `size` millimetres, (h, w)."""
    spacing = 2 ** (round(4 * np.log2(max(size / frame.pitch, 1.0))) / 4)  # few lattices, so that they can be kept
    down, across = (_kernel(length, spacing) for length in frame.shape)
    lattice = rng.standard_normal((down.shape[1], across.shape[1]), dtype=np.float32)
    return down @ lattice @ across.T


def fractal(frame: Frame, rng: np.random.Generator, size: float, octaves: int = 4) -> np.ndarray:
    """Noise of about unit variance with detail from `size` millimetres downwards, (h, w)."""
    layers = [grain(frame, rng, size * 0.5**k) * 0.6**k for k in range(octaves)]
    return sum(layers) / np.sqrt(sum(0.36**k for k in range(octaves)))


def ring_noise(theta: np.ndarray, rng: np.random.Generator, harmonics: int) -> np.ndarray:
    """Periodic noise of about unit variance over the angle `theta`; waviness grows with `harmonics`."""
    order = np.arange(1, harmonics + 1)
    weight = rng.standard_normal((2, harmonics)) / np.sqrt(harmonics)
    grid = np.linspace(-np.pi, np.pi, 721)
    table = weight[0] @ np.cos(order[:, None] * grid) + weight[1] @ np.sin(order[:, None] * grid)
    return np.interp(theta, grid, table).astype(np.float32)


def ramp(value: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 at and below `low`, 1 at and above `high`, smooth between; `low` may exceed `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def dome(t2: np.ndarray) -> np.ndarray:
    """Half a circle over the squared distance from its centre: 1 at 0, 0 from 1 on."""
    return np.sqrt(np.maximum(1 - t2, 0))


def paint(albedo: np.ndarray, colour: np.ndarray | tuple[float, float, float], cover: np.ndarray) -> None:
    """Lays `colour` (3,) or (h, w, 3) over `albedo` in place, by `cover` (h, w) in [0, 1]."""
    albedo += cover[..., None] * (np.asarray(colour, np.float32) - albedo)


def tint(rng: np.random.Generator, colour: tuple[float, float, float], spread: float) -> np.ndarray:
    """A colour near `colour`: brightness varies by `spread`, each channel by a third of that, (3,)."""
    scale = 1 + spread * rng.uniform(-1, 1) + spread / 3 * rng.uniform(-1, 1, 3)
    return np.clip(np.asarray(colour) * scale, 0, 1).astype(np.float32)


def stamps(
    frame: Frame, points: np.ndarray | Sequence[tuple[float, float]], radius: float
) -> Iterator[tuple[tuple[slice, slice], np.ndarray, np.ndarray]]:
    """For each point (x, y) in millimetres: its window, and the offsets of the window's pixels from it."""
    for x, y in points:
        at = frame.window(x, y, radius)
        yield at, frame.x[at] - np.float32(x), frame.y[at] - np.float32(y)
