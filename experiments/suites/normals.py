"""Surface normals beside Open3D's, the library that the paper used: speed, and agreement.

`ours` is `normals.estimate`. The reference is Open3D's estimate with the same 30 neighbours, without signs or with
those of `orient_normals_consistent_tangent_plane(50)`. Of the valid points, `within_tenth_degree` is the share whose
planes agree to 0.1 degrees, `same_sign` the share with the same sign, and `tree` the share that went through the
KD-tree. The picture of docs/normals.md:

    python -m experiments.suites.normals docs/normals.png
"""

import functools
import sys
from typing import Any

import numpy as np
import PIL.Image

from experiments.suites import timing
from pirn_jax.geometry import normal_images, normals, normals_open3d

_SHAPES = ("bumpy", "tilted", "stepped", "noisy", "holed")
_SIDES = (388, 800)
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
    xyz = np.stack([u * z, v * z, z], axis=-1)
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
    along = np.sum(ours * theirs, axis=-1)
    apart = np.degrees(np.arctan2(np.linalg.norm(np.cross(ours, theirs), axis=-1), np.abs(along)))
    return {
        "within_tenth_degree": float(np.mean(apart < 0.1)),
        "same_sign": float(np.mean(along > 0)),
        "tree": counts.tree / sum(counts),
    }


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
