"""Builders of tensorflow-datasets over the readers of this package; TensorFlow itself is not needed.

Examples are written by shards and in the order of their names, not shuffled: shuffling more than a gigabyte takes
TensorFlow's file system.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

from pirn_jax.data.catalogue import DATASETS
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.data.sample import Record
from pirn_jax.data.tfds import examples

_SHARD_PIXELS = 2**25
"""Pixels of colour in a shard: tensorflow-datasets holds a shard's arrays in memory, here up to a gigabyte."""


class _Writer(tfds.core.ExampleWriter):
    """Writes the fields of an example in order, which otherwise differs from run to run: equal data, equal files."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        """Writes one shard."""
        return super().write(path, ((key, _ordered(example)) for key, example in examples))


def _ordered(example: bytes) -> bytes:
    message = tf_example_pb2.Example.FromString(example)  # pyright: ignore[reportAttributeAccessIssue]
    return message.SerializeToString(deterministic=True)


class Parts(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Base of the builders; `manual_dir` is the folder of the data set.

    Attributes:
      DATASET: its name in `pirn_jax.data.datasets`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First."}
    DATASET: ClassVar[str]
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str | None] = None
    CITATION: ClassVar[str | None] = None

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        self._contents = tfds.core.MetadataDict()
        super().__init__(file_format=file_format or "array_record", **kwargs)

    @classmethod
    def config_of(cls, options: Options) -> str | None:
        """Name of the configuration that some options ask for; None where there is no choice."""
        del options

    @property
    def options(self) -> Options:
        """The reader's options of the configuration."""
        return Options()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=examples.features(),
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            metadata=self._contents,
            disable_shuffling=True,
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        records = self._records(pathlib.Path(dl_manager.manual_dir))
        self._contents[examples.INDEX] = _index(records)
        done = []
        # One split at a time: tensorflow-datasets runs the Beam pipelines of earlier splits again with each split.
        for split, found in records.items():
            self._pending = {split: [functools.partial(examples.generate, shard) for shard in _shards(found)]}
            super()._download_and_prepare(dl_manager, download_config)
            done += self.info.splits.values()
        self.info.set_splits(tfds.core.SplitDict(done))

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[Any]]]]:
        del dl_manager
        return self._pending

    def _records(self, directory: pathlib.Path) -> dict[str, list[Record]]:
        """Sorted records of each split that has some; where the data set has normals of its own, with them."""

        def read(native_normals: bool) -> tuple[dict[str, Any], Problems]:
            problems = Problems()
            options = dataclasses.replace(self.options, native_normals=native_normals)
            found = DATASETS[self.DATASET].read(directory, (), options, problems)
            return _by_split(found), problems

        plain, problems = read(native_normals=False)
        native, native_problems = read(native_normals=True)
        # Parts may lack either the scan or the normals, if all of them have the other.
        if native_problems.found:
            problems.check()
        merged = {split: plain[split] | native[split] for split in plain}
        return {split: [parts[key] for key in sorted(parts)] for split, parts in merged.items() if parts}

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _Writer(self.info.file_format)  # pyright: ignore[reportArgumentType]


class PirnMvtec3d(Parts):
    """MVTec 3D-AD."""

    name = "pirn_mvtec3d"
    DATASET = "mvtec3d"
    DESCRIPTION = "MVTec 3D-AD: ten kinds of parts as RGB images and organised clouds, for unsupervised inspection."
    HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-3d-ad"
    CITATION = """@inproceedings{bergmann2022mvtec3d,
      title = {The {MVTec} {3D-AD} Dataset for Unsupervised {3D} Anomaly Detection and Localization},
      author = {Bergmann, Paul and Jin, Xin and Sattlegger, David and Steger, Carsten},
      booktitle = {International Conference on Computer Vision Theory and Applications (VISAPP)},
      year = {2022}}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Download MVTec 3D-AD from MVTec's page of the data set (see the homepage) and
    unpack it; manual_dir is the folder that holds bagel, cable_gland and the others."""


@dataclasses.dataclass(kw_only=True)
class Light(tfds.core.BuilderConfig):
    """Choice of one of Eyecandies' six images of a part, see `pirn_jax.data.options`."""

    light: int = Options.light


class PirnEyecandies(Parts):
    """Eyecandies."""

    name = "pirn_eyecandies"
    DATASET = "eyecandies"
    DESCRIPTION = "Eyecandies: ten kinds of rendered sweets as RGB images, depth and normals, under six lights."
    HOMEPAGE = "https://eyecan-ai.github.io/eyecandies/"
    CITATION = """@inproceedings{bonfiglioli2022eyecandies,
      title = {The {Eyecandies} Dataset for Unsupervised Multimodal Anomaly Detection and Localization},
      author = {Bonfiglioli, Luca and Toschi, Marco and Silvestri, Davide and Fioraio, Nicola and De Gregorio, Daniele},
      booktitle = {Asian Conference on Computer Vision (ACCV)},
      year = {2022}}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Download Eyecandies from its authors' page (see the homepage) and unpack it;
    manual_dir is the folder that holds CandyCane, ChocolateCookie and the others."""
    BUILDER_CONFIGS: ClassVar[list[Light]] = [
        Light(name=f"light_{i}", description=f"The image under light {i}.", light=i) for i in range(6)
    ]
    DEFAULT_BUILDER_CONFIG_NAME = f"light_{Options.light}"

    @classmethod
    def config_of(cls, options: Options) -> str:
        """Name of the configuration of a light."""
        return f"light_{options.light}"

    @property
    def options(self) -> Options:
        """The light of the configuration."""
        return Options(light=self.builder_config.light)  # pyright: ignore[reportOptionalMemberAccess]


class PirnRealiadD3(Parts):
    """Real-IAD D3."""

    name = "pirn_realiad_d3"
    DATASET = "realiad_d3"
    DESCRIPTION = "Real-IAD D3: twenty kinds of small parts as RGB images, photometric normals and fine clouds."
    HOMEPAGE = "https://realiad4ad.github.io/Real-IAD_D3/"
    CITATION = """@inproceedings{zhu2025realiadd3,
      title = {{Real-IAD D3}: A Real-World {2D}/Pseudo-{3D}/{3D} Dataset for Industrial Anomaly Detection},
      author = {Zhu, Wenbing and others},
      booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
      year = {2025}}"""
    MANUAL_DOWNLOAD_INSTRUCTIONS = """Ask the authors of Real-IAD D3 for the data set on their page (see the homepage)
    and unpack it; manual_dir is the folder that holds audio_jack_socket, common_mode_filter and the others, or
    realiad_d3_jsons and realiad_d3_raw."""


class PirnFolder(Parts):
    """A folder of one's own parts."""

    name = "pirn_folder"
    DATASET = "folder"
    DESCRIPTION = "Parts of one's own, seen in RGB and 3D."
    MANUAL_DOWNLOAD_INSTRUCTIONS = "manual_dir is the folder of one's own parts; docs/own_data.md tells its layout."


BUILDERS = {cls.name: cls for cls in (PirnMvtec3d, PirnEyecandies, PirnRealiadD3, PirnFolder)}


def _by_split(found: dict[str, Any]) -> dict[str, dict[tuple[str, str], Record]]:
    return {
        split: {(r.category, r.id): r for splits in found.values() for r in getattr(splits, split)}
        for split in ("train", "validation", "test")
    }


def _index(records: dict[str, list[Record]]) -> dict[str, list[examples.Row]]:
    """Rows of each split.

    Raises:
      InputError: with all images that cannot be read.
    """
    index: dict[str, list[examples.Row]] = {}
    problems = Problems()
    for split, found in records.items():
        index[split] = []
        for record in found:
            with problems.collecting():
                index[split].append(examples.row(record))
    problems.check()
    return index


def _shards(records: Sequence[Record]) -> list[list[Record]]:
    shards: list[list[Record]] = [[]]
    room = _SHARD_PIXELS
    for record in records:
        height, width = record.source.size()
        room -= height * width
        if room < 0 and shards[-1]:
            shards.append([])
            room = _SHARD_PIXELS - height * width
        shards[-1].append(record)
    return shards
