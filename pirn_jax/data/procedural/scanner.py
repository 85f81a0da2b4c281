"""The sensor: a colour camera under one lamp and a structured-light scanner, registered to each other."""

import dataclasses

import numpy as np
from scipy import ndimage

from pirn_jax.data.procedural.surface import Surface

DEPTH_STEP_M = 2.0**-17  # 7.6 micrometres; a power of two keeps the files small
DEPTH_NOISE_M = 1.0e-5
COLOUR_NOISE = 2.0  # of 255
_STEEPEST = 3.2  # slope, 73 degrees: a steeper wall returns too little light
_PROJECTOR = (-1.0, 0.15, 2.4)  # direction to the scanner's projector: left of the camera
_DROPOUT = 0.0015


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks down on the support, its principal point in the middle of the image.

    Attributes:
        width: Columns of the image.
        height: Rows of the image.
        pitch_mm: Millimetres of the support that one pixel covers.
        distance_m: Metres from the camera to the support.
    """

    width: int
    height: int
    pitch_mm: float
    distance_m: float

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return self.distance_m * 1e3 / self.pitch_mm


@dataclasses.dataclass(frozen=True)
class Scene:
    """Surroundings of a part in one shot.

    Attributes:
        lamp: (3,) unit vector to the lamp: right, down, towards the camera.
        power: (3,) strength of the lamp per colour channel.
        ambient: Share of light that comes from everywhere.
        tilt: (2,) slope of the support, right and down.
        offset_m: Metres by which the support is farther than the camera's nominal distance.
        support: (h, w, 3) reflectance of the support.
    """

    lamp: np.ndarray
    power: np.ndarray
    ambient: float
    tilt: np.ndarray
    offset_m: float
    support: np.ndarray


def scene(shape: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Draws a lamp, a tilt of at most 4 degrees and a support for an image of `shape` (rows, columns)."""
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(54, 75))
    lamp = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    power = rng.uniform(0.9, 1.08) * (1 + rng.uniform(-0.04, 0.04) * np.array([1.0, 0.2, -1.0]))
    coarse: np.ndarray = ndimage.zoom(  # pyright: ignore
        rng.normal(size=(7, 7)), (shape[0] / 7, shape[1] / 7), order=1, grid_mode=True, mode="nearest"
    )
    fine = rng.standard_normal(shape, dtype=np.float32)
    support = np.array([0.45, 0.46, 0.48]) * rng.uniform(0.9, 1.1) * (1 + 0.015 * coarse + 0.02 * fine)[..., None]
    tilt = np.tan(np.deg2rad(rng.uniform(-4, 4, 2)))
    return Scene(lamp, power, rng.uniform(0.42, 0.52), tilt, rng.uniform(-0.004, 0.004), support.astype(np.float32))


def occlusion(height: np.ndarray, toward: np.ndarray, pitch: float) -> np.ndarray:
    """Depth in millimetres of each pixel below the edge that hides it from a far source.

    Args:
        height: (h, w) millimetres.
        toward: (3,) direction to the source: right, down, up; need not be of unit length.
        pitch: Millimetres between pixels.

    Returns:
        (h, w) millimetres, 0 where the source is seen.
    """
    flat = np.hypot(toward[0], toward[1])
    rise = toward[2] / flat * pitch
    hidden = np.zeros_like(height)
    rows, columns = height.shape
    reach = min(float(height.max()) / rise, 60.0)
    for step in np.arange(1.0, reach + 1, 1.5):
        down, right = round(float(step * toward[1] / flat)), round(float(step * toward[0] / flat))
        here = slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), columns - max(0, right))
        there = slice(max(0, down), rows - max(0, -down)), slice(max(0, right), columns - max(0, -right))
        np.maximum(hidden[here], height[there] - height[here] - np.float32(step * rise), out=hidden[here])
    return hidden


def photograph(surface: Surface, view: Scene, pitch: float) -> np.ndarray:
    """The colour image without noise: Lambert and Blinn shading, cast shadow, ambient occlusion.

    Returns:
        (h, w, 3) in 0..255, float32.
    """
    height = surface.shaded
    down, right = np.gradient(height, np.float32(pitch))
    length = np.sqrt(1 + down**2 + right**2)
    lamp = view.lamp.astype(np.float32)
    halfway = lamp + np.array([0, 0, 1], np.float32)
    halfway /= np.linalg.norm(halfway)
    facing = np.maximum((lamp[2] - lamp[0] * right - lamp[1] * down) / length, 0)
    glint = np.maximum((halfway[2] - halfway[0] * right - halfway[1] * down) / length, 0) ** 32
    lit = 1 - np.clip(occlusion(height, lamp, pitch) / 0.5, 0, 1)
    buried = ndimage.uniform_filter(ndimage.uniform_filter(height, 11), 11) - height
    open_sky = 1 - np.clip(buried * 0.10, 0, 0.5)
    diffuse = view.ambient * open_sky + (1.12 - view.ambient) * facing * lit
    body = (height > 0.05)[..., None]
    albedo = np.where(body, surface.albedo, view.support)
    glare = 0.45 * surface.gloss * body[..., 0] * glint * lit
    image = (albedo * diffuse[..., None] + glare[..., None]) * view.power.astype(np.float32)
    return 255 * np.clip(ndimage.gaussian_filter(image, (0.5, 0.5, 0), truncate=3.0), 0, 1)


def seen(relief: np.ndarray, pitch: float) -> np.ndarray:
    """Pixels that the scanner sees, neither too steep nor hidden from the projector, (h, w) bool."""
    down, right = np.gradient(relief, np.float32(pitch))
    hidden = occlusion(relief, np.array(_PROJECTOR), pitch) > 0.15
    return (np.hypot(down, right) < _STEEPEST) & ~hidden


def scan(surface: Surface, view: Scene, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """The organised point cloud: (h, w, 3) float32 metres in the camera frame, (0, 0, 0) where nothing was seen."""
    column = np.arange(camera.width) - (camera.width - 1) / 2
    row = np.arange(camera.height)[:, None] - (camera.height - 1) / 2
    support = camera.distance_m + view.offset_m + (view.tilt[0] * column + view.tilt[1] * row) * camera.pitch_mm * 1e-3
    noise = rng.normal(0, DEPTH_NOISE_M, support.shape)
    depth = np.round((support - surface.relief * 1e-3 + noise) / DEPTH_STEP_M) * DEPTH_STEP_M
    points = np.stack([column * depth / camera.focal_px, row * depth / camera.focal_px, depth], -1)
    points[..., :2] = np.round(points[..., :2] / DEPTH_STEP_M) * DEPTH_STEP_M
    valid = seen(surface.relief, camera.pitch_mm) & (rng.random(support.shape) > _DROPOUT)
    return np.where(valid[..., None], points, 0).astype(np.float32)


def develop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Adds the sensor's noise to a clean image and rounds it to 8 bits, (h, w, 3) uint8."""
    noise = rng.standard_normal(image.shape, dtype=np.float32) * COLOUR_NOISE
    return np.clip(np.round(image + noise), 0, 255).astype(np.uint8)
