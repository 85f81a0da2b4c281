"""MVTec 3D-AD on disk (Bergmann et al., 2022), which is also the layout of the built-in parts.

<category>/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
<category>/test/<defect or good>/{rgb,xyz,gt}/NNN.{png,tiff,png}

Suffixes may be in capitals; names that begin with a dot are passed over.
"""

import functools
import os
import pathlib
from collections.abc import Sequence

from pirn_jax.data import folders
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import GOOD, Files, Record, Splits
from pirn_jax.data.scans import Cloud

PUBLISHED: dict[str, dict[str, int]] = {
    category: dict(zip(("train", "validation", "test good", "test defective"), counts, strict=True))
    for category, counts in {
        "bagel": (244, 22, 22, 88),
        "cable_gland": (223, 23, 21, 87),
        "carrot": (286, 29, 27, 132),
        "cookie": (210, 22, 28, 103),
        "dowel": (288, 34, 26, 104),
        "foam": (236, 27, 20, 80),
        "peach": (361, 42, 26, 106),
        "potato": (300, 33, 22, 92),
        "rope": (298, 33, 32, 69),
        "tire": (210, 29, 25, 87),
    }.items()
}
"""Parts of each category, from Table 1 of the paper; together 2656, 294, 249 and 948."""


def read(
    directory: pathlib.Path,
    categories: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008
    problems: Problems | None = None,
) -> dict[str, Splits]:
    """Finds the parts of each category; no image is opened.

    Args:
      directory: folder of the data set.
      categories: names; none means all that are there.
      options: `unit` counts.
      problems: where problems are noted; None stops with all of them.

    Raises:
      InputError: if a folder is missing, a split is empty or a file has no partner.
    """
    return folders.read_categories(
        directory,
        categories,
        lambda path: os.path.isdir(path / "train") or os.path.isdir(path / "test"),
        "train/good/rgb and train/good/xyz",
        functools.partial(_read_category, unit=options.unit or 1.0),
        problems,
    )


def _read_category(folder: pathlib.Path, problems: Problems, unit: float) -> Splits:
    def read_all(split: str, defects: Sequence[str]) -> list[Record]:
        records = []
        for defect in defects:
            with problems.collecting():
                records += _read_defect(folder, split, defect, unit, problems)
        return records

    defects = [path.name for path in folders.subfolders(folder / "test")] if os.path.isdir(folder / "test") else []
    if not defects:
        problems.add(f"{folder / 'test'}: no folder in it; test parts go to test/good and test/<defect>")
    validation = [GOOD] if os.path.isdir(folder / "validation" / GOOD) else []
    return Splits(read_all("train", [GOOD]), read_all("validation", validation), read_all("test", defects))


def _read_defect(folder: pathlib.Path, split: str, defect: str, unit: float, problems: Problems) -> list[Record]:
    place = folder / split / defect
    rgb, xyz, gt = (
        folders.files(place / kind, suffix, problems=problems)
        for kind, suffix in (("rgb", ".png"), ("xyz", ".tiff"), ("gt", ".png"))
    )
    folders.check_partners(rgb, xyz, place / "xyz", ".tiff", problems)
    folders.check_partners(xyz, rgb, place / "rgb", ".png", problems)
    folders.check_partners(gt, rgb, place / "rgb", ".png", problems)
    whole = set(rgb) & set(xyz)
    if split == "test" and defect != GOOD:
        folders.check_partners(rgb, gt, place / "gt", ".png", problems)
        whole &= set(gt)
    if not (rgb or xyz or gt):
        problems.add(f"{place}: no part in it; put <name>.png under rgb/ and <name>.tiff under xyz/")
    return [
        Record(
            folder.name,
            split,
            defect,
            f"{split}/{defect}/{name}",
            Files(rgb[name], Cloud(xyz[name], unit), gt.get(name)),
        )
        for name in sorted(whole)
    ]
