"""MVTec 3D-AD on disk (Bergmann et al., 2022), which is also the layout of the built-in parts.

<category>/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
<category>/test/<defect or good>/{rgb,xyz,gt}/NNN.{png,tiff,png}

Suffixes may be in capitals; names that begin with a dot are passed over.
"""

import pathlib
from collections.abc import Sequence

from pirn_jax.data.images import InputError
from pirn_jax.data.sample import GOOD, Record, Splits


def find_categories(directory: pathlib.Path) -> list[str]:
    """Names of the categories in a data set's folder, sorted.

    Raises:
      InputError: if the folder is missing or holds no category.
    """
    if not directory.is_dir():
        raise InputError(f"{directory}: no such folder; point --data_dir at the folder that holds the categories")
    found = sorted(path.name for path in _folders(directory) if (path / "train").is_dir() or (path / "test").is_dir())
    if not found:
        raise InputError(
            f"{directory}: no category in it; a category is a folder with train/good/rgb and train/good/xyz"
        )
    return found


def read(directory: pathlib.Path, categories: Sequence[str] = ()) -> dict[str, Splits]:
    """Finds the parts of each category; no image is opened.

    Args:
      directory: folder of the data set.
      categories: names; none means all that are there.

    Raises:
      InputError: if a folder is missing, a split is empty or a file has no partner.
    """
    found = find_categories(directory)
    unknown = sorted(set(categories) - set(found))
    if unknown:
        raise InputError(f"{directory}: no category {', '.join(unknown)}; there are {', '.join(found)}")
    return {category: _read_category(directory / category) for category in categories or found}


def _read_category(folder: pathlib.Path) -> Splits:
    splits = {
        "train": _read_defect(folder, "train", GOOD),
        "validation": _read_defect(folder, "validation", GOOD) if (folder / "validation" / GOOD).is_dir() else [],
        "test": _read_test(folder),
    }
    return Splits(**splits)


def _read_test(folder: pathlib.Path) -> list[Record]:
    if not (folder / "test").is_dir():
        raise InputError(f"{folder / 'test'}: no such folder; test parts go to test/good and test/<defect>")
    defects = [path.name for path in _folders(folder / "test")]
    if not defects:
        raise InputError(f"{folder / 'test'}: no folder in it; test parts go to test/good and test/<defect>")
    records = [record for defect in defects for record in _read_defect(folder, "test", defect)]
    return sorted(records, key=lambda record: record.id)


def _read_defect(folder: pathlib.Path, split: str, defect: str) -> list[Record]:
    place = folder / split / defect
    rgb, xyz, gt = _files(place / "rgb", ".png"), _files(place / "xyz", ".tiff"), _files(place / "gt", ".png")
    _check_partners(rgb, xyz, place / "xyz", ".tiff")
    _check_partners(xyz, rgb, place / "rgb", ".png")
    _check_partners(gt, rgb, place / "rgb", ".png")
    if split == "test" and defect != GOOD:
        _check_partners(rgb, gt, place / "gt", ".png")
    if not rgb:
        raise InputError(f"{place}: no part in it; put <name>.png under rgb/ and <name>.tiff under xyz/")
    return [
        Record(folder.name, split, defect, f"{split}/{defect}/{name}", rgb[name], xyz[name], gt.get(name))
        for name in sorted(rgb)
    ]


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."]


def _files(folder: pathlib.Path, suffix: str) -> dict[str, pathlib.Path]:
    if not folder.is_dir():
        return {}
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() != suffix or path.name[0] == ".":
            continue
        if path.stem in files:
            raise InputError(f"{path}: {files[path.stem].name} has the same name; remove one of them")
        files[path.stem] = path
    return files


def _check_partners(
    files: dict[str, pathlib.Path], partners: dict[str, pathlib.Path], folder: pathlib.Path, suffix: str
) -> None:
    alone = sorted(set(files) - set(partners))
    if alone:
        first = files[alone[0]]
        more = f" ({len(alone)} such files)" if len(alone) > 1 else ""
        raise InputError(f"{first}: no partner {folder / (alone[0] + suffix)}{more}; add it or remove this file")
