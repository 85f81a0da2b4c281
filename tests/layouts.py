"""Writes small data sets as their authors lay them out, without the project's own code."""

import json
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import tifffile

KINDS = ("bumps", "dents", "colors", "normals")


def save(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an image file, with the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.startswith(".tif"):
        tifffile.imwrite(path, array, photometric="rgb")
    else:
        PIL.Image.fromarray(array).save(path)


def marked(size: tuple[int, int]) -> np.ndarray:
    """A mask with one pixel set, in row 1 and column 2."""
    mask = np.zeros(size, np.uint8)
    mask[1, 2] = 255
    return mask


def eyecandies_part(
    data: pathlib.Path,
    prefix: str,
    kinds: tuple[str, ...] = (),
    size: tuple[int, int] = (4, 6),
    bounds: tuple[float, float] = (0.5, 1.5),
    depth: np.ndarray | None = None,
    told: bool = True,
) -> None:
    """Writes the 17 files of one part of Eyecandies.

    Args:
      data: folder of a split.
      prefix: digits before each name.
      kinds: defects of the part.
      size: height and width.
      bounds: depths that 0 and 65535 stand for, metres.
      depth: (h, w) uint16; by default a ramp.
      told: whether the metadata names the kinds of defects.
    """
    for light in range(6):
        save(data / f"{prefix}_image_{light}.png", np.full((*size, 3), 10 * light, np.uint8))
    ramp = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size) * 100
    save(data / f"{prefix}_depth.png", ramp if depth is None else depth)
    save(data / f"{prefix}_normals.png", np.full((*size, 3), (128, 128, 255), np.uint8))
    for kind in KINDS:
        save(data / f"{prefix}_{kind}_mask.png", marked(size) if kind in kinds else np.zeros(size, np.uint8))
    save(data / f"{prefix}_mask.png", marked(size) if kinds else np.zeros(size, np.uint8))
    metadata = [f"anomalous: {int(bool(kinds))}", *(f"{kind}: {int(kind in kinds)}" for kind in KINDS if told)]
    texts = {
        "info_depth.yaml": f"normalization:\n  max: {bounds[1]}\n  min: {bounds[0]}\n",
        "metadata.yaml": "\n".join(metadata) + "\n",
        "obj_params.yaml": "seed: 7\n",
        "pose.txt": "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n",
    }
    for name, text in texts.items():
        (data / f"{prefix}_{name}").write_text(text)


def eyecandies(root: pathlib.Path, candy: str = "Lollipop") -> pathlib.Path:
    """Two train, one validation, three public and two unlabelled private parts of 6x4 pixels."""
    folder = root / candy
    for prefix in ("000", "001"):
        eyecandies_part(folder / "train" / "data", prefix)
    eyecandies_part(folder / "val" / "data", "00")
    public = folder / "test_public" / "data"
    eyecandies_part(public, "00", ("bumps",))
    eyecandies_part(public, "01")
    eyecandies_part(public, "02", ("colors", "normals"))
    private = folder / "test_private" / "data"
    for prefix in ("000", "001"):
        eyecandies_part(private, prefix)
        for path in private.iterdir():
            if path.stem.endswith(("mask", "metadata", "obj_params")):
                path.unlink()
    return folder


def realiad_d3_part(
    place: pathlib.Path,
    part: str,
    gt: bool = False,
    rgb_size: tuple[int, int] = (4, 6),
    xyz_size: tuple[int, int] = (5, 7),
    stem: str = "{part}_{kind}",
) -> None:
    """Writes five lights, cloud, pseudo-3D and, if asked, mask of one part of Real-IAD D3.

    Args:
      place: folder of a split and a defect.
      part: name of the part.
      gt: whether the part has a mask.
      rgb_size: height and width of colour image and mask.
      xyz_size: those of the cloud.
      stem: name of the other files, with `{part}` and `{kind}`.
    """
    for light in range(1, 6):
        image = np.full((*rgb_size, 3), 10 * light, np.uint8)
        save(place / "rgb" / part / f"{part}_L0{light}_RGB_0.jpg", image)
    v, u = np.indices(xyz_size, dtype=np.float32)
    cloud = np.stack([u, v, 100 + u], axis=-1)
    cloud[0, 0, 2] = np.nan
    save(place / "xyz" / f"{stem.format(part=part, kind='XYZ')}.tiff", cloud)
    save(place / "ps" / f"{stem.format(part=part, kind='PS')}.jpg", np.full((8, 8, 3), (128, 128, 255), np.uint8))
    if gt:
        save(place / "gt" / "rgb" / f"{stem.format(part=part, kind='GT')}.png", marked(rgb_size))


def realiad_d3(root: pathlib.Path, category: str = "fuse_holder", good: str = "GOOD") -> pathlib.Path:
    """Two train parts, one good and two scratched test parts."""
    folder = root / category
    for part in ("0001", "0002"):
        realiad_d3_part(folder / "train" / good, part)
        realiad_d3_part(folder / "test" / "scratch", part, gt=True)
    realiad_d3_part(folder / "test" / good, "0003")
    return folder


def realiad_d3_entry(
    raw: pathlib.Path, folder: str, defect: str = "OK", number: int = 1, category: str = "fuse_holder"
) -> dict[str, str | None]:
    """Writes the files of one part as the archive of Real-IAD D3 holds them; returns its entry in the list.

    Args:
      raw: folder that the paths start from.
      folder: where the files lie in it.
      defect: "OK" or a defect, which then has a mask.
      number: of the part, also the height of its cloud.
      category: the names of files begin with it.
    """
    name = f"{folder}/{category}_{number:04}_{defect}_{{}}_00000000000000".format
    for light in range(1, 6):
        save(raw / f"{name(f'RGBL0{light}')}.jpg", np.full((4, 6, 3), 10 * light, np.uint8))
    v, u = np.indices((number, 7), dtype=np.float32)
    save(raw / f"{name('XYZ')}.tiff", np.stack([u, v, 100 + u], axis=-1))
    save(raw / f"{name('PS')}.jpg", np.full((8, 8, 3), (128, 128, 255), np.uint8))
    mask = None if defect == "OK" else f"{name('RGBL05')}.png"
    if mask:
        save(raw / mask, marked((4, 6)))
    return {
        "anomaly_class": defect,
        "image_path": f"{name('RGBL05')}.jpg",
        "ps_path": f"{name('PS')}.jpg",
        "xyz_path": f"{name('XYZ')}.tiff",
        "mask_path": mask,
    }


def realiad_d3_archive(root: pathlib.Path, category: str = "fuse_holder") -> dict[str, Any]:
    """Two train parts, two validation and three test ones, some scratched; returns the list that names them."""
    raw = root / "realiad_d3_raw" / category
    parts = {
        "train": [("OK/S0003", "OK", 3), ("OK/S0001", "OK", 1)],
        "validation": [("OK/S0002", "OK", 2), ("scratch/S0001", "scratch", 1)],
        "test": [("scratch/S0003", "scratch", 3), ("OK/S0004", "OK", 4), ("scratch/S0002", "scratch", 2)],
    }
    content: dict[str, Any] = {"meta": {"normal_class": "OK", "prefix": f"{category}/"}}
    for split, found in parts.items():
        content[split] = [realiad_d3_entry(raw, *part, category) for part in found]
    realiad_d3_list(root, content, category)
    return content


def realiad_d3_list(root: pathlib.Path, content: Any, category: str = "fuse_holder") -> pathlib.Path:
    """Writes the list of a category."""
    path = root / "realiad_d3_jsons" / f"{category}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
