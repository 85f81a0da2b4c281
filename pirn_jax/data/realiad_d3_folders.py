"""Real-IAD D3 in the folders that its authors' loader reads.

<category>/{train,test}/{GOOD or defect}/
  rgb/<part>/*L05*RGB*.jpg    the five lights of a part; the fifth one is read
  xyz/*.tiff                  organised clouds
  ps/*.jpg                    pseudo-3D
  gt/rgb/*.png                masks of the size of the colour image; gt/*.png where there is no gt/rgb

The colour image may also lie in rgb/ itself; the part is then what its name has before the light. A file under xyz, ps
or gt belongs to the part whose name it has in its own: name_0007_XYZ.tiff to part 0007, but not name_00071.tiff; where
it has the names of several parts, to that of the most words. Position in a sorted list never counts. GOOD may be
spelled in small letters, or as OK.
"""

import functools
import os
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from pirn_jax.data import folders
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import GOOD, Files, Record, Splits
from pirn_jax.data.scans import Cloud, NormalMap

_GOOD_NAMES = ("good", "ok")
_JPEG = (".jpg", ".jpeg")
_LIGHT = re.compile(r"[^_\W]*(?:L05|RGB)", re.IGNORECASE)


def read(
    directory: pathlib.Path, categories: Sequence[str], options: Options, problems: Problems | None
) -> dict[str, Splits]:
    """Finds the parts of each category; there are no validation parts.

    Args and errors are those of `realiad_d3.read`.
    """
    there = [path.name for path in folders.subfolders(directory)] if os.path.isdir(directory) else []
    return folders.read_categories(
        directory,
        respelled(categories, there),
        lambda path: os.path.isdir(path / "train") or os.path.isdir(path / "test"),
        "train/GOOD/rgb and train/GOOD/xyz, or has a list in realiad_d3_jsons, unpacked",
        functools.partial(_read_category, options=options),
        problems,
    )


def respelled(categories: Iterable[str], there: Collection[str]) -> list[str]:
    """Names of categories as they are spelled there: `-` and `_` count as one."""
    spelling = {name.replace("-", "_"): name for name in there}
    return [name if name in there else spelling.get(name.replace("-", "_"), name) for name in categories]


def is_good(name: str) -> bool:
    """True if a defect's name says that there is none."""
    return name.lower() in _GOOD_NAMES


def files_of(
    rgb: pathlib.Path,
    xyz: pathlib.Path | None,
    ps: pathlib.Path | None,
    gt: pathlib.Path | None,
    options: Options,
) -> Files:
    """The source of a part, read as `realiad_d3` tells."""
    scan = None if xyz is None else Cloud(xyz, options.unit or 1.0, nan_is_unseen=True)
    return Files(rgb, scan, gt, None if ps is None else NormalMap(ps), one_size=False)


def _read_category(folder: pathlib.Path, problems: Problems, options: Options) -> Splits:
    def places(split: str) -> list[pathlib.Path]:
        return folders.subfolders(folder / split) if os.path.isdir(folder / split) else []

    train = [place for place in places("train") if is_good(place.name)]
    if not train:
        problems.add(f"{folder / 'train'}: no folder GOOD in it; good parts for training go to train/GOOD")
    if not places("test"):
        problems.add(f"{folder / 'test'}: no folder in it; test parts go to test/GOOD and test/<defect>")
    return Splits(
        [record for place in train for record in _read_defect(place, options, problems)],
        [],
        [record for place in places("test") for record in _read_defect(place, options, problems)],
    )


def _read_defect(place: pathlib.Path, options: Options, problems: Problems) -> list[Record]:
    split, defect = place.parent.name, GOOD if is_good(place.name) else place.name
    native = options.native_normals
    rgb = _colour_images(place / "rgb", problems)
    if not rgb:
        problems.add(f"{place}: no part in it; put <part>/<name>_L05_RGB.jpg under rgb/ and <part>.tiff under xyz/")
    masks = next((path for path in (place / "gt" / "rgb", place / "gt") if os.path.isdir(path)), place / "gt" / "rgb")
    none = dict.fromkeys(rgb)
    xyz = _partners(rgb, place / "xyz", (".tiff", ".tif"), not native, problems)
    ps = _partners(rgb, place / "ps", (*_JPEG, ".png"), True, problems) if native else none
    gt = _partners(rgb, masks, (".png",), defect != GOOD, problems) if split == "test" else none
    return [
        Record(
            place.parents[1].name,
            split,
            defect,
            f"{split}/{place.name}/{part}",
            files_of(rgb[part], xyz[part], ps[part], gt[part], options),
        )
        for part in set(rgb) & set(xyz) & set(ps) & set(gt)
    ]


def _colour_images(folder: pathlib.Path, problems: Problems) -> dict[str, pathlib.Path]:
    """The image of the fifth light of each part."""
    images: dict[str, pathlib.Path] = {}

    def add(part: str, path: pathlib.Path) -> None:
        if part in images:
            problems.add(f"{path}: {images[part].name} shows part {part} as well; remove one of them")
        else:
            images[part] = path

    for path in _fifth_light(folder, problems):
        add(_LIGHT.split(path.stem)[0].rstrip("_- ") or path.stem, path)
    for place in folders.subfolders(folder) if os.path.isdir(folder) else []:
        with problems.collecting():
            found = _fifth_light(place, problems)
            if not found:
                problems.add(f"{place}: no JPEG with L05 and RGB in its name; add it or remove this folder")
            for path in found:
                add(place.name, path)
    return images


def _fifth_light(folder: pathlib.Path, problems: Problems) -> list[pathlib.Path]:
    found = folders.files(folder, *_JPEG, problems=problems)
    return [path for stem, path in found.items() if "L05" in stem.upper() and "RGB" in stem.upper()]


def _partners(
    rgb: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    suffixes: Sequence[str],
    needed: bool,
    problems: Problems,
) -> dict[str, pathlib.Path | None]:
    """The one file of each part in a folder; None where it is not needed, without the parts that it is missing for."""
    found: dict[str, list[pathlib.Path]] = {part: [] for part in rgb}
    for stem, path in folders.files(folder, *suffixes, problems=problems).items():
        owners = _owners(stem, rgb)
        if len(owners) == 1:
            found[owners[0]].append(path)
        else:
            whose = f"of parts {' and '.join(owners)}" if owners else "of no part under rgb/"
            problems.add(f"{path}: has the name {whose}; name it after its part or remove it")
    partners: dict[str, pathlib.Path | None] = {}
    for part, paths in found.items():
        if len(paths) > 1:
            problems.add(f"{folder}: {', '.join(path.name for path in paths)} all belong to part {part}; keep one")
        elif paths or not needed:
            partners[part] = paths[0] if paths else None
        else:
            problems.add(f"{rgb[part]}: no {suffixes[0]} file of part {part} in {folder}; add it or remove this part")
    return partners


def _owners(stem: str, parts: Iterable[str]) -> list[str]:
    """The parts whose name is in a file's, word for word; of several, those of the most words."""
    words = _words(stem)
    inside = {part: name.count(" ") for part in parts if (name := _words(part)) in words}
    return [part for part, count in inside.items() if count == max(inside.values())]


@functools.cache
def _words(name: str) -> str:
    """Letters and digits of a name, each run of them between single spaces."""
    runs = re.findall(r"[^_\W]+", name)
    return f" {' '.join(runs)} "
