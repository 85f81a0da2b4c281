"""Finding a data set's files: by name, never by position, with whatever is missing or left over told."""

import contextlib
import os
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence

from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record, Splits


def subfolders(folder: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name; hidden ones are passed over.

    Raises:
      InputError: if the folder cannot be read.
    """
    with _reading(folder):
        # Unlike Path.is_dir, it does not raise where a folder cannot be read.
        return sorted(path for path in folder.iterdir() if path.name[0] != "." and os.path.isdir(path))


def files(folder: pathlib.Path, *suffixes: str, problems: Problems) -> dict[str, pathlib.Path]:
    """The files of a folder with one of some suffixes, in lower case or capitals, by name without suffix.

    Hidden files are passed over; a missing folder has none. Two files of one name are a problem.

    Raises:
      InputError: if the folder cannot be read.
    """
    found: dict[str, pathlib.Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() not in suffixes:
            continue
        if _is_pipe(path):
            problems.add(f"{path}: a pipe, which is never read to its end; remove it")
        elif path.stem in found:
            problems.add(f"{path}: {found[path.stem].name} has the same name; remove one of them")
        else:
            found[path.stem] = path
    return found


def others(folder: pathlib.Path, *suffixes: str) -> list[pathlib.Path]:
    """The visible files of a folder with none of some suffixes."""
    return [path for path in _visible(folder) if os.path.isfile(path) and path.suffix.lower() not in suffixes]


def _is_pipe(path: pathlib.Path) -> bool:
    """True for a pipe, or a link to one; what cannot be looked at is told where it is read."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _visible(folder: pathlib.Path) -> list[pathlib.Path]:
    """Entries of a folder by name but for hidden ones; a missing folder has none."""
    with _reading(folder):
        paths = sorted(folder.iterdir()) if os.path.isdir(folder) else []
    return [path for path in paths if path.name[0] != "."]


def check_partners(
    found: Mapping[str, pathlib.Path],
    partners: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    suffix: str,
    problems: Problems,
) -> None:
    """Notes every file that has no partner of the same name.

    Args:
      found: files by name.
      partners: those that should be there as well.
      folder: where they belong.
      suffix: what their names end with, in words.
      problems: where it is noted.
    """
    for name in sorted(set(found) - set(partners)):
        problems.add(f"{found[name]}: no partner {folder / name}{suffix}; add it or remove this file")


def read_categories(
    directory: pathlib.Path,
    wanted: Sequence[str],
    looks_like_one: Callable[[pathlib.Path], bool],
    description: str,
    read_one: Callable[[pathlib.Path, Problems], Splits],
    problems: Problems | None,
) -> dict[str, Splits]:
    """Reads the categories of a data set that has a folder for each.

    Args:
      directory: folder of the data set.
      wanted: names of categories; none means all that are there.
      looks_like_one: whether a folder is a category.
      description: what makes a folder a category, for messages.
      read_one: reads one category.
      problems: where problems are noted; None stops with all of them at the end.

    Returns:
      The records of each category, lists sorted by id.

    Raises:
      InputError: if the folder is missing, or holds no category or not the wanted ones.
    """
    if not os.path.isdir(directory):
        raise InputError(f"{directory}: no such folder; point --data_dir at the folder that holds the categories")
    collected = Problems() if problems is None else problems
    there = {}
    for path in subfolders(directory):
        if looks_like_one(path):
            there[path.name] = path
        elif not os.access(path, os.R_OK | os.X_OK):
            collected.add(f"{path}: cannot be read; check the folder and its permissions")
    if not there:
        collected.check()
        raise InputError(f"{directory}: no category in it; a category is a folder with {description}")
    splits = read_each(directory, there, wanted, read_one, collected)
    if problems is None:
        collected.check()
    return splits


def read_each(
    directory: pathlib.Path,
    there: Mapping[str, pathlib.Path],
    wanted: Sequence[str],
    read_one: Callable[[pathlib.Path, Problems], Splits],
    problems: Problems | None,
) -> dict[str, Splits]:
    """Reads categories of which the places are known.

    Args:
      directory: where they were found, for messages.
      there: place of each category.
      wanted: names of categories; none means all that are there.
      read_one: reads one category.
      problems: where problems are noted; None stops with all of them at the end.

    Returns:
      The records of each category, lists sorted by id; a category that cannot be read at all is left out.

    Raises:
      InputError: if a wanted category is not there.
    """
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise InputError(f"{directory}: no category {', '.join(unknown)}; there are {', '.join(there)}")
    collected = Problems() if problems is None else problems
    splits = {}
    for category in wanted or there:
        with collected.collecting():
            splits[category] = by_id(read_one(there[category], collected))
    if problems is None:
        collected.check()
    return splits


def by_id(splits: Splits) -> Splits:
    """Sorts each split by the parts' ids."""

    def ordered(records: list[Record]) -> list[Record]:
        return sorted(records, key=lambda record: record.id)

    return Splits(ordered(splits.train), ordered(splits.validation), ordered(splits.test))


@contextlib.contextmanager
def _reading(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); check the folder and its permissions"
        ) from error
