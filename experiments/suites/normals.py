"""Surface normals beside Open3D's, the library that the paper used: speed, and agreement.

`ours` is `normals.estimate`. The reference is Open3D's estimate with the same 30 neighbours, without signs or with
those of `orient_normals_consistent_tangent_plane(50)`. Of the valid points, `within_tenth_degree` is the share whose
planes agree to 0.1 degrees, `same_sign` the share with the same sign, and `tree` the share that went through the
KD-tree. `exact` is the share of some points whose planes are within 0.1 degrees of those of all points as far as the
last neighbour, in float64. The last three shapes are like scans of stereo cameras, of a Kinect and of structured light:
depth scatters by about a pixel's width, comes in steps, or has shadows and flying pixels. The picture of
docs/normals.md:

    python -m experiments.suites.normals docs/normals.png
"""

import functools
import sys
from typing import Any

import numpy as np
import PIL.Image
import scipy.ndimage
import scipy.spatial

from experiments.suites import timing
from pirn_jax.geometry import neighbours_window, normal_images, normals, normals_open3d

_SHAPES = ("bumpy", "tilted", "stepped", "noisy", "holed", "stereo", "kinect", "structured light")
_SIDES = (388, 800)
_CHECKED = 2000
"""Points whose planes are computed in float64 as well."""

_ORIENTED_SIDE = 388
"""150,544 points; more would take Open3D minutes to orient."""


def scan(side: int, shape: str) -> np.ndarray:
    """A part seen by a pinhole camera, (side, side, 3) float32 in metres; exactly zero where invalid."""
    rng = np.random.default_rng(0)
    v, u = (np.mgrid[:side, :side] - side / 2) / (1.75 * side)
    z = 0.6 + 0.01 * np.sin(35 * u + 0.3) * np.cos(45 * v) + 0.004 * np.cos(70 * (u + v))
    if shape == "tilted":
        z = z / (1 - 1.2 * u - 0.5 * v)
    if shape == "stepped":
        z = z + 0.03 * ((13 * u // 1 + 17 * v // 1) % 2)
    if shape == "noisy":
        z = z + 1e-4 * rng.normal(size=z.shape)
    pixel = 0.6 / (1.75 * side)
    if shape == "stereo":  # Matching windows smooth the noise; disparities have 16 steps a pixel or so.
        noise = scipy.ndimage.gaussian_filter(rng.normal(size=z.shape), 1) * 3.5
        z = np.round((z + 0.8 * pixel * noise) / (0.05 * pixel)) * 0.05 * pixel
    if shape == "kinect":  # Equal steps of disparity.
        step = 1.2 * pixel / 0.6**2
        z = 1 / (np.round(1 / z / step) * step)
    if shape == "structured light":
        z = z + 0.4 * pixel * rng.normal(size=z.shape) + 0.03 * ((13 * u // 1) % 2)
        z = np.where(rng.random(z.shape) < 0.005, z * rng.uniform(0.9, 1.1, z.shape), z)
    xyz = np.stack([u * z, v * z, z], axis=-1)
    if shape == "structured light":  # What a step hides from the projector, and lost pixels.
        xyz[((13 * u) % 1 < 0.08) | (rng.random(z.shape) < 0.02)] = 0
    if shape == "holed":
        xyz[(rng.random(z.shape) < 0.15) | ((u + 0.1) ** 2 + (v + 0.05) ** 2 < 0.07**2)] = 0
    return xyz.astype(np.float32)


def _planes(open3d: Any, xyz: np.ndarray) -> np.ndarray:
    """Open3D's normals of the valid points, signs as they come."""
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(xyz[xyz.any(axis=-1)].astype(np.float64)))
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamKNN(normals.NEIGHBOURS))
    return np.asarray(cloud.normals)


def _agreement(xyz: np.ndarray, theirs: np.ndarray) -> timing.Case:
    ours, counts = normals.count(xyz, normals.NEIGHBOURS)
    ours = ours[xyz.any(axis=-1)].astype(np.float64)
    some = np.random.default_rng(0).choice(len(ours), min(len(ours), _CHECKED), replace=False)
    return {
        "within_tenth_degree": float(np.mean(_apart(ours, theirs) < 0.1)),
        "exact": float(np.mean(_apart(ours[some], _exact(xyz[xyz.any(axis=-1)], some)) < 0.1)),
        "same_sign": float(np.mean(np.sum(ours * theirs, axis=-1) > 0)),
        "tree": counts.tree / sum(counts),
    }


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees between lines."""
    along = np.abs(np.sum(one * other, axis=-1))
    return np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other), axis=-1), along))


def _exact(points: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Normals at some of the points by the definition, in float64."""
    points = points.astype(np.float64)
    tree = scipy.spatial.KDTree(points)
    distances, nearest = map(np.asarray, tree.query(points[some], 2 * normals.NEIGHBOURS))
    near = distances <= distances[:, normals.NEIGHBOURS - 1, None] * (1 + neighbours_window.TIE / 2)
    groups = (points[row[taken]] for row, taken in zip(nearest, near, strict=True))
    return np.array([np.linalg.eigh(np.cov(group.T))[1][:, 0] for group in groups])


def measure(repeats: int) -> dict[str, timing.Case]:
    """Compares every shape without signs in two sizes, then smooth ones with signs in the smaller size."""
    import open3d

    found = {}
    for side in _SIDES:
        for shape in _SHAPES:
            xyz = scan(side, shape)
            ours, theirs = functools.partial(normals.estimate, xyz), functools.partial(_planes, open3d, xyz)
            agreement = _agreement(xyz, theirs())
            del agreement["same_sign"]  # Open3D's signs are arbitrary here.
            found[f"{shape} {side}x{side}, planes"] = {**timing.alternate(ours, theirs, repeats), **agreement}
    for shape in ("bumpy", "tilted", "noisy"):
        xyz = scan(_ORIENTED_SIDE, shape)
        ours, theirs = functools.partial(normals.estimate, xyz), functools.partial(normals_open3d.estimate, xyz)
        agreement = _agreement(xyz, theirs()[xyz.any(axis=-1)])
        case = f"{shape} {_ORIENTED_SIDE}x{_ORIENTED_SIDE}, with signs"
        found[case] = {**timing.alternate(ours, theirs, repeats), **agreement}
    return found


def draw(path: str) -> None:
    """Ours (above) and Open3D's (below) for three shapes, as images."""
    columns = []
    for shape in ("bumpy", "stepped", "holed"):
        xyz = scan(144, shape)
        both = (normals.estimate(xyz), normals_open3d.estimate(xyz))
        columns.append(np.concatenate([np.pad(normal_images.to_image(n), ((2, 2), (2, 2), (0, 0))) for n in both]))
    PIL.Image.fromarray(np.concatenate(columns, axis=1)).save(path, optimize=True)


if __name__ == "__main__":
    draw(sys.argv[1])
