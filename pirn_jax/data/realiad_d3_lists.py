"""Real-IAD D3 as its archive holds it: a list of parts for each category, and the files that the lists name.

realiad_d3_jsons/<category>.json    or jsons/realiad_d3_jsons/<category>.json
realiad_d3_raw/<prefix>/            the unpacked <category>.zip; the prefix is <category>/ unless the list has another

A list is {"meta": {"prefix": ...}, "train": [...], "validation": [...], "test": [...]}; "meta" and "validation" may be
missing. Each entry has an "anomaly_class" ("OK" or the name of a defect) and, relative to the prefix, an "image_path",
"xyz_path", "ps_path" and, if defective, "mask_path". Nothing is paired by name.

The validation list of the archive holds defective parts as well, for choosing thresholds. Public evaluations test on
the test list alone, and so do we: defective parts of the other two lists are left out.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from pirn_jax.data import folders
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.realiad_d3_folders import files_of, is_good, respelled
from pirn_jax.data.sample import GOOD, Files, Record, Splits

_PLACES = ("realiad_d3_jsons", "jsons/realiad_d3_jsons")


def find(directory: pathlib.Path) -> pathlib.Path | None:
    """The folder of lists in a data set's folder, if there is one."""
    return next((directory / place for place in _PLACES if os.path.isdir(directory / place)), None)


def read(
    lists: pathlib.Path, raw: pathlib.Path, categories: Sequence[str], options: Options, problems: Problems | None
) -> dict[str, Splits]:
    """Finds the parts of each category.

    Args:
      lists: folder of the lists.
      raw: folder of the files that they name.
      categories: as in `realiad_d3.read`, like the others.
      options: what is read.
      problems: where problems are noted.

    Raises:
      InputError: as in `realiad_d3.read`.
    """
    twice = Problems()
    there = folders.files(lists, ".json", problems=twice)
    twice.check()
    if not there:
        raise InputError(f"{lists}: no list in it; unpack realiad_d3_jsons.zip")
    read_one = functools.partial(_read_list, raw=raw, options=options)
    return folders.read_each(lists, there, respelled(categories, there), read_one, problems)


def _read_list(path: pathlib.Path, problems: Problems, raw: pathlib.Path, options: Options) -> Splits:
    content = _load(path)
    home = _home(path, raw, content.get("meta"))
    splits: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
    parts: dict[str, str] = {}
    for split, records in splits.items():
        with problems.collecting():
            entries = content.get(split, [])
            if not isinstance(entries, list):
                raise InputError(f"{path}: {split} is a {type(entries).__name__}, not a list; download it again")
            for i, values in enumerate(entries):
                with problems.collecting():
                    entry = _Entry(f"{path}: {split}[{i}]", home, values)
                    defect = entry.defect()
                    if split == "test" or defect == GOOD:
                        part = entry.part(parts)
                        records.append(Record(path.stem, split, defect, f"{split}/{part}", entry.files(split, options)))
            if not records and split != "validation":
                raise InputError(f"{path}: no part in its {split} list that can be used; download it again")
    return Splits(**splits)


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a {type(content).__name__} where train and test belong; download it again")
    return content


def _home(path: pathlib.Path, raw: pathlib.Path, meta: Any) -> pathlib.Path:
    """The folder that the paths of a list start from."""
    home = raw / _inside(meta.get("prefix", path.stem) if isinstance(meta, dict) else path.stem, f"{path}: meta.prefix")
    if not os.path.isdir(home):
        archive = raw / f"{path.stem}.zip"
        remedy = f"unpack {archive}" if os.path.isfile(archive) else f"put the files there that {path} names"
        raise InputError(f"{home}: no such folder; {remedy}")
    return home


def _inside(value: Any, where: str) -> pathlib.PurePath:
    """A relative path that stays where it starts."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {value!r}; write a relative path or remove the entry")
    path = pathlib.PurePath(value)
    if path.anchor or ".." in path.parts:
        raise InputError(f"{where} is {value!r}, which leaves the data set; write a path within it")
    return path


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One part of a list: what messages call it, the folder that its paths start from, and what is written."""

    where: str
    home: pathlib.Path
    values: Any

    def __post_init__(self):
        if not isinstance(self.values, dict):
            raise InputError(f"{self.where} is {self.values!r}; write the part's class and paths, or remove the entry")

    def defect(self) -> str:
        name = self.values.get("anomaly_class")
        if not isinstance(name, str) or not name:
            raise InputError(f"{self.where}.anomaly_class is {name!r}; write OK or a defect, or remove the entry")
        return GOOD if is_good(name) else name

    def part(self, known: dict[str, str]) -> str:
        """Name of the part: the path of its image, which must not be among those that are known."""
        path = _inside(self.values.get("image_path"), f"{self.where}.image_path")
        part = path.parent.joinpath(path.stem).as_posix()
        if part in known:
            raise InputError(f"{self.where}.image_path is that of {known[part]} as well; remove one of them")
        known[part] = self.where.rpartition(" ")[2]
        return part

    def files(self, split: str, options: Options) -> Files:
        xyz, ps, gt = self._needed, None, None
        if options.native_normals:
            xyz, ps = self._optional, self._needed("ps_path")
        if split == "test":
            gt = self._optional("mask_path") if self.defect() == GOOD else self._needed("mask_path")
        return files_of(self._needed("image_path"), xyz("xyz_path"), ps, gt, options)

    def _needed(self, key: str) -> pathlib.Path:
        path = self.home / _inside(self.values.get(key), f"{self.where}.{key}")
        if not os.path.isfile(path):  # Unlike Path.is_file, it does not raise where a folder cannot be read.
            raise InputError(f"{self.where}.{key}: no file {path}; add it or remove the entry")
        return path

    def _optional(self, key: str) -> pathlib.Path | None:
        if not self.values.get(key):
            return None
        path = self.home / _inside(self.values[key], f"{self.where}.{key}")
        return path if os.path.isfile(path) else None
