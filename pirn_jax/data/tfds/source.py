"""Parts of a data set that tensorflow-datasets has prepared, read one by one as if they lay in files."""

import dataclasses
import functools
import hashlib
import importlib.util
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image

from pirn_jax.data import images
from pirn_jax.data.options import Options
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Splits
from pirn_jax.data.tfds.examples import INDEX, Row

_SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Example:
    """A part in a prepared data set; it can be pickled, files are opened when it is read.

    Attributes:
      folder: the prepared data set, such as pirn_mvtec3d/1.0.0.
      split: split of the data set.
      position: of the example within its split.
      row: what the index says of it.
      native_normals: whether the data set's own normals are taken, where it has some.
    """

    folder: pathlib.Path
    split: str
    position: int
    row: Row
    native_normals: bool = False

    @property
    def name(self) -> str:
        """Name used in messages."""
        return f"{self.folder}, {self.row.key}"

    def size(self) -> tuple[int, int]:
        """Height and width of the image, from the index."""
        return self.row.height, self.row.width

    def digest(self) -> bytes:
        """SHA-256 of the stored bytes of image and geometry.

        Raises:
          InputError: naming the file, if it cannot be read.
        """
        geometry = ("xyz", "normals") if self.native_normals else ("xyz",)
        stored = self._fields("rgb", *geometry, encoded=True)
        parts = [stored["rgb"]]
        for name in geometry:
            parts += [np.asarray(stored[name]["shape"], np.int64).tobytes(), stored[name]["value"]]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()

    def mask(self) -> tuple[str, np.ndarray] | None:
        """Name and (h, w) bool of the ground truth; None where there was none to store.

        Raises:
          InputError: naming the file, if it cannot be read.
        """
        stored = self._fields("gt", "has_gt")
        return (self.name, stored["gt"] > 0) if stored["has_gt"] else None

    def arrays(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Image, points and normals of the part.

        Raises:
          InputError: naming the file, if it cannot be read, or the part, if it has no scan.
        """
        stored = self._fields("rgb", "xyz", *(["normals"] if self.native_normals else []))
        xyz, normals = (stored[name] if name in stored and stored[name].size else None for name in ("xyz", "normals"))
        if xyz is None and normals is None:
            raise InputError(f"{self.name}: no scan; take the data set's own normals, --normals=native")
        return stored["rgb"], xyz, normals

    def _fields(self, *names: str, encoded: bool = False) -> dict[str, Any]:
        """Some of the example's fields, decoded or as they are stored."""
        import tensorflow_datasets as tfds

        builder = _opened(self.folder)
        place = f"{self.split}[{self.position}:{self.position + 1}]"
        pictures = {"rgb", "gt"} & set(names)
        kept = names if encoded else pictures
        try:
            # Of one example, so that only the file that holds it is opened.
            stored = builder.as_data_source(place, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)[0]
            # What array_record makes of a file that has been cut off.
            if not stored:
                raise EOFError("the file ends early")
            wanted: Any = tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})
            fields = wanted.deserialize_example_np(stored, decoders={name: tfds.decode.SkipDecoding() for name in kept})
            if not encoded:
                fields |= {name: _decoded(fields[name]) for name in pictures}
        # array_record tells whatever is wrong with a file as a RuntimeError, which is among these.
        except images.DAMAGE as error:
            file = builder.info.splits[place].filepaths[0]
            raise InputError(f"{file}: cannot be read ({error}); prepare the data set again") from error
        return fields


def read(
    name: str,
    directory: pathlib.Path | None,
    categories: Sequence[str] = (),
    options: Options = Options(),  # noqa: B008
    problems: Problems | None = None,
) -> dict[str, Splits]:
    """Finds the parts of a prepared data set in its index; no example is opened.

    Args:
      name: of the builder, with or without configuration and version: "pirn_mvtec3d", "pirn_eyecandies/light_4:1.0.0".
      directory: where tensorflow-datasets keeps what it has prepared; None for its default.
      categories: names; none means all that are there.
      options: `light` picks the configuration where `name` names none; `native_normals` counts.
      problems: where missing files are noted; None stops with all of them.

    Returns:
      The records of each category, lists sorted by id.

    Raises:
      InputError: if the data set is unknown or not prepared, a category or a file is missing.
    """
    builder = _find(name, directory, options)
    folder = pathlib.Path(builder.data_dir)
    _check_files(builder, problems)
    found: dict[str, Splits] = {}
    for split in _SPLITS:
        for position, entry in enumerate(_index(builder).get(split, [])):
            row = Row(*entry)
            example = Example(folder, split, position, row, options.native_normals)
            records = getattr(found.setdefault(row.category, Splits([], [], [])), split)
            records.append(Record(row.category, split, row.defect, row.id, example))
    unknown = sorted(set(categories) - set(found))
    if unknown:
        raise InputError(f"{folder}: no category {', '.join(unknown)}; there are {', '.join(sorted(found))}")
    return {category: found[category] for category in categories or sorted(found)}


def _find(name: str, directory: pathlib.Path | None, options: Options) -> Any:
    """The builder of a prepared data set.

    Raises:
      InputError: if there is none.
    """
    flag = f"--dataset=tfds:{name}"
    if not importlib.util.find_spec("tensorflow_datasets"):
        raise InputError(f"{flag}: tensorflow-datasets is not installed; pip install 'pirn_jax[tfds]'")
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    from pirn_jax.data.tfds.builders import BUILDERS

    known = re.split("[/:]", name)[0]
    if known not in BUILDERS:
        raise InputError(f"{flag}: unknown; choose from {', '.join(f'tfds:{other}' for other in BUILDERS)}")
    config = BUILDERS[known].config_of(options)
    full_name = name if config is None or "/" in name else name.replace(known, f"{known}/{config}")
    try:
        builder = tfds.builder(full_name, data_dir=directory)
    except (ValueError, AssertionError) as error:
        raise InputError(
            f"{flag}: no such configuration or version; write {known}, {known}/<configuration> or {known}:<version>, "
            f"configurations are {', '.join(BUILDERS[known].builder_configs) or 'none'}"
        ) from error
    except json_format.ParseError as error:
        raise InputError(f"{flag}: its dataset_info.json is damaged; prepare the data set again") from error
    if not builder.is_prepared():
        raise InputError(
            f"{builder.data_dir}: not prepared; import pirn_jax.data.tfds and run tfds.builder({full_name!r}, "
            f"data_dir={str(builder.data_dir_root)!r}).download_and_prepare(download_config="
            "tfds.download.DownloadConfig(manual_dir=<folder of the data set>)), see docs/tfds.md"
        )
    return builder


def _check_files(builder: Any, problems: Problems | None) -> None:
    collected = Problems() if problems is None else problems
    for split in builder.info.splits.values():
        for path in split.filepaths:
            if not path.exists():
                collected.add(f"{path}: no such file; prepare the data set again")
    if problems is None:
        collected.check()


def _index(builder: Any) -> dict[str, list[list[Any]]]:
    try:
        return builder.info.metadata[INDEX]
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{builder.data_dir}: no index of parts in it; prepare the data set again") from error


@functools.lru_cache(maxsize=8)
def _opened(folder: pathlib.Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(folder)
    except (ValueError, OSError) as error:
        raise InputError(f"{folder}: its features.json is damaged; prepare the data set again") from error


def _decoded(image: bytes) -> np.ndarray:
    """As the readers decode: tensorflow-datasets would take OpenCV where it is installed, whose JPEGs differ."""
    with PIL.Image.open(io.BytesIO(image), formats=images.FORMATS) as opened:
        return np.asarray(opened)
