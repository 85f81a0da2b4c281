"""Eyecandies on disk (Bonfiglioli et al., 2022): rendered sweets, all files of a split in one folder.

<candy>/{train,val,test_public,test_private}/data/
  NNN_image_{0..5}.png        colour, one image a light: 0 all spots, 1 bottom, 2 right, 3 top, 4 left, 5 global
  NNN_depth.png               16 bit, and NNN_info_depth.yaml with the depths that 0 and 65535 stand for
  NNN_normals.png             normals as colours
  NNN_metadata.yaml           whether the part is anomalous
  NNN_{bumps,dents,colors,normals}_mask.png, NNN_mask.png    the defects, and all of them together

NNN is of any length: a part's files are those of the same digits. Other files are passed over. The private test parts
come without labels; one takes part in the test only where someone has added its metadata and, if anomalous, its mask.
"""

import collections
import functools
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pirn_jax.data import folders, images
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import GOOD, Files, Record, Splits
from pirn_jax.data.scans import Depth, Intrinsics, NormalMap

PUBLISHED: dict[str, dict[str, int]] = {
    candy: {"train": 1000, "validation": 100, "test good": 25, "test defective": 25}
    for candy in (
        "CandyCane",
        "ChocolateCookie",
        "ChocolatePraline",
        "Confetto",
        "GummyBear",
        "HazelnutTruffle",
        "LicoriceSandwich",
        "Lollipop",
        "Marshmallow",
        "PeppermintCandy",
    )
}
"""Parts of each category with public labels; the private test set has 200 good and 200 defective ones besides."""

_LIGHTS = range(6)
_ENDLESS = 1e6
"""Metres that no depth reaches."""

_FOCAL_LENGTH = 711.11 / 512
"""In widths of the image: the one camera of all images, its principal point at their centre (the documentation)."""

_KINDS = ("bumps", "dents", "colors", "normals")
_PICTURE = re.compile(r"([0-9]+)_(image_[0-5]|depth|normals|mask|(?:bumps|dents|colors|normals)_mask)")
_TEXT = re.compile(r"([0-9]+)_(info_depth|metadata)")


def read(
    directory: pathlib.Path,
    categories: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008
    problems: Problems | None = None,
) -> dict[str, Splits]:
    """Finds the parts of each category; only texts, headers and the masks that name a defect are opened.

    Args:
      directory: folder of the data set.
      categories: names; none means all that are there.
      options: `light` and `native_normals` count.
      problems: where problems are noted; None stops with all of them.

    Raises:
      InputError: if the light is unknown, a folder is missing, a split is empty or a part is not whole.
    """
    if options.light not in _LIGHTS:
        raise InputError(f"{directory}: no images of light {options.light}; choose a light from 0 to 5")
    return folders.read_categories(
        directory,
        categories,
        lambda path: any(os.path.isdir(path / split / "data") for split in ("train", "test_public")),
        "train/data and test_public/data",
        functools.partial(_read_category, options=options),
        problems,
    )


def _read_category(folder: pathlib.Path, problems: Problems, options: Options) -> Splits:
    found = {name: _parts(folder / name / "data", problems) for name in ("train", "val", "test_public", "test_private")}
    for name in ("train", "test_public"):
        if not found[name]:
            problems.add(f"{folder / name / 'data'}: no part in it; put the files of the data set there")

    def records(name: str, split: str) -> list[Record]:
        whole = []
        for part, items in found[name].items():
            with problems.collecting():
                if name != "test_private" or _is_labelled(items):
                    whole.append(_read_part(folder / name / "data", part, items, split, options))
        return whole

    test = records("test_public", "test") + records("test_private", "test")
    return Splits(records("train", "train"), records("val", "validation"), test)


def _parts(data: pathlib.Path, problems: Problems) -> dict[str, dict[str, pathlib.Path]]:
    """The files of each part: its digits to what follows them to the path."""
    parts = collections.defaultdict(dict)
    for pattern, suffixes in ((_PICTURE, (".png",)), (_TEXT, (".yaml", ".yml"))):
        for stem, path in folders.files(data, *suffixes, problems=problems).items():
            if name := pattern.fullmatch(stem):
                parts[name[1]][name[2]] = path
    return parts


def _read_part(
    data: pathlib.Path, part: str, items: Mapping[str, pathlib.Path], split: str, options: Options
) -> Record:
    test = split == "test"
    image = f"image_{options.light}"
    optional = ["normals"] * options.native_normals + ["metadata"] * test
    _check(data, part, items, [image, "depth", "info_depth", *optional])
    defect = _defect(items) if test else GOOD
    if defect != GOOD:
        _check(data, part, items, ["mask"])
    files = Files(
        items[image],
        _scan(items["depth"], items["info_depth"]),
        items.get("mask") if test else None,
        NormalMap(items["normals"]) if options.native_normals else None,
    )
    return Record(data.parents[1].name, split, defect, f"{data.parent.name}/{part}", files)


def _check(data: pathlib.Path, part: str, items: Mapping[str, pathlib.Path], needed: Sequence[str]) -> None:
    missing = [f"{part}_{item}" for item in needed if item not in items]
    if missing:
        names = ", ".join(name + (".yaml" if _TEXT.fullmatch(name) else ".png") for name in missing)
        raise InputError(f"{data / part}_*: no {names}; add what is missing or remove this part")


def _scan(depth: pathlib.Path, info: pathlib.Path) -> Depth:
    nearest, farthest = _depth_range(info)
    height, width = images.read_size(depth)
    bits = images.png_bit_depth(depth)
    if bits != 16:
        raise InputError(f"{depth}: depth of {bits} bits, but 65535 stands for the farthest; download it again")
    focal_length = _FOCAL_LENGTH * width
    camera = Intrinsics(focal_length, focal_length, width / 2, height / 2)
    return Depth(depth, camera, (farthest - nearest) / 65535, nearest, zero_is_unseen=False)


def _depth_range(path: pathlib.Path) -> tuple[float, float]:
    bounds = _read_yaml(path).get("normalization")
    if not isinstance(bounds, dict):
        raise InputError(f"{path}: normalization is {bounds!r}; write min and max under it, in metres")
    for key in ("min", "max"):
        value = bounds.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _ENDLESS:
            raise InputError(f"{path}: normalization.{key} is {value!r}; write a number of metres")
    if bounds["min"] >= bounds["max"]:
        raise InputError(
            f"{path}: normalization.min is {bounds['min']} and max {bounds['max']}; write the nearer depth as min"
        )
    return float(bounds["min"]), float(bounds["max"])


def _defect(items: Mapping[str, pathlib.Path]) -> str:
    """Name of a part's defects: from its metadata where that has them, otherwise from the masks that are not empty."""
    metadata = _read_yaml(items["metadata"])
    anomalous = metadata.get("anomalous")
    if anomalous not in (0, 1):
        raise InputError(f"{items['metadata']}: anomalous is {anomalous!r}; write 0 for a good part and 1 for another")
    if not anomalous:
        return GOOD
    if any(kind in metadata for kind in _KINDS):
        kinds = [kind for kind in _KINDS if metadata.get(kind)]
    else:
        masks = {kind: items[f"{kind}_mask"] for kind in _KINDS if f"{kind}_mask" in items}
        kinds = [kind for kind, mask in masks.items() if images.read_mask(mask).any()]
    return "+".join(kinds) or "anomalous"


def _is_labelled(items: Mapping[str, pathlib.Path]) -> bool:
    if "metadata" not in items:
        return False
    anomalous = _read_yaml(items["metadata"]).get("anomalous")
    return anomalous is not None and ("mask" in items or not anomalous)


class _Loader(yaml.SafeLoader):
    """Plain values alone: with aliases, a few lines can stand for more than a memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_bytes(), _Loader)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    # PyYAML lets through what a value that contradicts its tag makes of its constructors.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not readable YAML ({' '.join(str(error).split())}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a {type(content).__name__} where `key: value` lines belong; download it again")
    return content
