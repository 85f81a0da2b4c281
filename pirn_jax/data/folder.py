"""One's own parts: a folder of good ones and, where there are some, a folder for each defect.

<directory>/good/{rgb,xyz}/<name>.{png,tiff}            trained on
<directory>/good_test/{rgb,xyz}/<name>.{png,tiff}       good parts to test; without it, the last fifth of good/
<directory>/<defect>/{rgb,xyz,gt}/<name>.{png,tiff,png}

Instead of xyz/ there may be depth/ (PNG, TIFF, EXR or NPY) or cloud/ (PLY or PCD); masks in gt/ are optional. A
directory without good/ holds a folder like this for each category. docs/own_data.md says it at length. Parts of which
nothing is known lie in a folder with rgb/ and one of xyz/, depth/ and cloud/.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence

from pirn_jax.data import folders, settings
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import GOOD, Files, Record, Splits
from pirn_jax.data.scans import Cloud, Depth, Scan
from pirn_jax.data.settings import Settings

GOOD_TEST = "good_test"

_RGB = (".png", ".jpg", ".jpeg")
_GT = (".png",)
_GEOMETRY = {
    "xyz": (".tiff", ".tif"),
    "depth": (".png", ".tiff", ".tif", ".exr", ".npy"),
    "cloud": (".ply", ".pcd"),
}
_HELD_OUT = 5
"""One good part in so many is tested where no folder holds good parts to test: our choice."""


def read(
    directory: pathlib.Path,
    categories: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008
    problems: Problems | None = None,
) -> dict[str, Splits]:
    """Finds the parts of each category; no image is opened.

    Args:
      directory: folder of one category, then named after it, or of several.
      categories: names; none means all that are there.
      options: `unit` counts, before that of `dataset.toml`, for xyz images and clouds.
      problems: where problems are noted; None stops with all of them.

    Raises:
      InputError: if a folder is missing, has no part, a file has no partner, or `dataset.toml` cannot be used.
    """
    shared = settings.read(directory / settings.NAME)
    read_one = functools.partial(_read_category, shared=shared, unit=options.unit)
    if not os.path.isdir(directory / GOOD):
        return folders.read_categories(
            directory, categories, lambda path: os.path.isdir(path / GOOD), "good/rgb", read_one, problems
        )
    home = directory.resolve()
    return folders.read_each(directory, {home.name: home}, categories, read_one, problems)


def read_new(directory: pathlib.Path, options: Options, problems: Problems) -> list[Record]:
    """Finds parts to inspect, of which nothing is known; no image is opened.

    Args:
      directory: holds rgb/ and one of xyz/, depth/ and cloud/; `dataset.toml` lies in it or beside it.
      options: `unit` counts, before that of `dataset.toml`, for xyz images and clouds.
      problems: where parts that lack a file are noted.

    Returns:
      Records whose ids are the names of the files.

    Raises:
      InputError: if the folder is missing, or `dataset.toml` cannot be used.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory}: no such folder; name the one that holds rgb/ and scans")
    home = directory.resolve()
    chosen = _settings(home, settings.read(home.parent / settings.NAME), options.unit)
    found = _read_parts(home.parent, home.name, chosen, problems, masks=False)
    return [dataclasses.replace(record, category=home.name, id=record.id.rpartition("/")[2]) for record in found]


def _settings(folder: pathlib.Path, shared: Settings, unit: float | None) -> Settings:
    own = folder / settings.NAME
    chosen = settings.read(own) if os.path.isfile(own) else shared
    return chosen if unit is None else dataclasses.replace(chosen, unit=unit)


def _read_category(folder: pathlib.Path, problems: Problems, shared: Settings, unit: float | None) -> Splits:
    chosen = _settings(folder, shared, unit)
    good = _read_parts(folder, GOOD, chosen, problems)
    others = [path.name for path in folders.subfolders(folder) if path.name != GOOD]
    test = [record for name in others for record in _read_parts(folder, name, chosen, problems)]
    if GOOD_TEST not in others:
        good, held_out = _hold_out(good)
        test += held_out
        if held_out and not good:
            problems.add(f"{folder / GOOD}: its only part is held out for testing; add good parts, or {GOOD_TEST}/")
    return Splits(good, [], test)


def _hold_out(good: list[Record]) -> tuple[list[Record], list[Record]]:
    """Those to train on and those to test, the last ones by name: the same whenever the folder is the same."""
    count = max(1, len(good) // _HELD_OUT)
    tested = [
        dataclasses.replace(record, split="test", id="test" + record.id.removeprefix("train"))
        for record in good[-count:]
    ]
    return good[:-count], tested


def _read_parts(
    folder: pathlib.Path, name: str, chosen: Settings, problems: Problems, masks: bool = True
) -> list[Record]:
    """The parts in one folder of a category, by name; their masks may be left aside."""
    place = folder / name
    rgb, gt = (
        folders.files(place / kind, *suffixes, problems=problems) for kind, suffixes in (("rgb", _RGB), ("gt", _GT))
    )
    gt = gt if masks else {}
    kinds = [kind for kind in _GEOMETRY if os.path.isdir(place / kind)]
    if not rgb or len(kinds) != 1:
        found = " and ".join(f"{kind}/" for kind in kinds) if rgb else "no part"
        odd = [] if rgb else folders.others(place / "rgb", *_RGB)
        if odd:
            more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            problems.add(f"{odd[0]}{more}: neither PNG nor JPEG, which images are read from; save them as one of these")
            return []
        problems.add(
            f"{place}: {found or 'no scans'} in it; put <name>.png under rgb/ and scans under one of "
            + ", ".join(f"{kind}/" for kind in _GEOMETRY)
        )
        return []
    (kind,) = kinds
    scans = folders.files(place / kind, *_GEOMETRY[kind], problems=problems)
    folders.check_partners(rgb, scans, place / kind, " or ".join(_GEOMETRY[kind]), problems)
    folders.check_partners(scans, rgb, place / "rgb", " or ".join(_RGB), problems)
    folders.check_partners(gt, rgb, place / "rgb", " or ".join(_RGB), problems)
    if masks and os.path.isdir(place / "gt") and name not in (GOOD, GOOD_TEST):
        folders.check_partners(rgb, gt, place / "gt", " or ".join(_GT), problems)
    split, defect = {GOOD: ("train", GOOD), GOOD_TEST: ("test", GOOD)}.get(name, ("test", name))
    return [
        Record(
            folder.name,
            split,
            defect,
            f"{split}/{defect}/{part}",
            Files(rgb[part], _scan(kind, scans[part], rgb[part], chosen), gt.get(part)),
        )
        for part in sorted(set(rgb) & set(scans))
    ]


def _scan(kind: str, path: pathlib.Path, rgb: pathlib.Path, chosen: Settings) -> Scan:
    if kind == "depth":
        return Depth(path, chosen.camera(), chosen.scale)
    return Cloud(path, chosen.unit, nan_is_unseen=True, like=rgb if kind == "cloud" else None)
