"""The data set on disk, in the layout of MVTec 3D-AD."""

import dataclasses
import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tifffile
from PIL import Image

from pirn_jax.data.procedural.catalogue import CATEGORIES, VERSION, check, defects, render

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Counts:
    """Numbers of parts of each category: good ones of three splits, and test parts of each of its five defects."""

    train: int = 50
    validation: int = 5
    good: int = 20
    per_defect: int = 8

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 0:
            raise ValueError(f"counts must not be negative, got {self}")

    def parts(self, category: str) -> Iterator[tuple[str, str, int]]:
        """Every part of a category as (split, `good` or a defect, index)."""
        folders = [("train", "good", self.train), ("validation", "good", self.validation), ("test", "good", self.good)]
        folders += [("test", defect, self.per_defect) for defect in defects(category)]
        for split, kind, count in folders:
            yield from ((split, kind, index) for index in range(count))

    @property
    def name(self) -> str:
        """The counts as part of a folder's name."""
        return "-".join(map(str, dataclasses.astuple(self)))


DEFAULT_COUNTS = Counts()


def write(
    directory: pathlib.Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    counts: Counts = DEFAULT_COUNTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Writes parts to `<directory>/<category>/<split>/<good or defect>/{rgb,xyz,gt}/NNN.{png,tiff,png}`.

    Only the test split has `gt`. `progress` is called with (parts written, parts in all) after each part.

    Raises:
        ValueError: A category does not exist.
    """
    check(*categories)
    plan = [(category, *part) for category in categories for part in counts.parts(category)]
    for done, (category, split, kind, index) in enumerate(plan, 1):
        _write_part(
            pathlib.Path(directory) / category / split / kind,
            index,
            split == "test",
            *render(category, split, kind, index, seed=seed),
        )
        if progress is not None:
            progress(done, len(plan))


def _write_part(
    folder: pathlib.Path, index: int, labelled: bool, rgb: np.ndarray, xyz: np.ndarray, gt: np.ndarray
) -> None:
    """Writes the two or three files of one part."""
    for kind in ("rgb", "xyz", "gt")[: 2 + labelled]:
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(folder / "rgb" / f"{index:03}.png", compress_level=1)
    tifffile.imwrite(
        folder / "xyz" / f"{index:03}.tiff",
        xyz,
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": 1},
        metadata=None,
        software="pirn_jax",
    )
    if labelled:
        Image.fromarray(gt.astype(np.uint8) * 255).save(folder / "gt" / f"{index:03}.png", compress_level=1)


def ensure(
    cache: pathlib.Path,
    *,
    categories: Sequence[str] = CATEGORIES,
    counts: Counts = DEFAULT_COUNTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Generates the categories that are not yet below `cache`, and returns the folder that holds them.

    A category is written beside that folder under a name of its own and then renamed into it, so a category that is
    there is complete. Safe with several processes; what an interrupted process leaves behind is never read.

    Raises:
        ValueError: A category does not exist.
    """
    check(*categories)
    root = pathlib.Path(cache) / f"procedural-v{VERSION}-seed{seed}-{counts.name}"
    root.mkdir(parents=True, exist_ok=True)
    missing = [category for category in dict.fromkeys(categories) if not (root / category).is_dir()]
    for position, category in enumerate(missing):
        draft = root.with_name(f".{root.name}-{os.getpid()}-{secrets.token_hex(4)}")
        (draft / category).mkdir(parents=True)
        try:
            share = _share(progress, position, len(missing))
            write(draft, categories=(category,), counts=counts, seed=seed, progress=share)
            _publish(draft / category, root / category)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return root


def _share(progress: Progress | None, position: int, categories: int) -> Progress | None:
    """Reports one category's progress as that of all of them; all have the same number of parts."""
    if progress is None:
        return None
    return lambda done, total: progress(position * total + done, categories * total)


def _publish(draft: pathlib.Path, final: pathlib.Path) -> None:
    """Renames a finished category; keeps the other one if another process was faster."""
    try:
        draft.rename(final)
    except OSError:
        if not final.is_dir():
            raise
