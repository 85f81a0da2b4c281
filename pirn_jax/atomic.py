"""Files that are whole or not there: what readers and interrupted processes rely on."""

import contextlib
import csv
import errno
import io
import os
import pathlib
import re
import secrets
import struct
import time
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import BinaryIO

import numpy as np

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Numbers of the errors of a place that can be read only."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_LONG_AGO = 86400.0
"""Seconds after which no writer is still at its temporary file (our choice)."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Opens a temporary sibling of a file for writing, and renames it to the file if the block ends well."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def obstacle(directory: pathlib.Path) -> pathlib.Path | None:
    """File or folder that keeps files out of a directory, which may not exist yet; None where they can be written."""
    existing = next(path for path in (directory, *directory.absolute().parents) if os.path.exists(path))
    return None if existing.is_dir() and os.access(existing, os.W_OK) else existing


def sweep(place: pathlib.Path) -> None:
    """Deletes the temporary files that killed writers left anywhere below a folder, a day ago or longer."""
    # Unlike `rglob` this passes over folders that another process removes meanwhile.
    for folder, _, names in os.walk(place):
        for path in (pathlib.Path(folder, name) for name in names if _TEMPORARY.fullmatch(name)):
            # Another process may sweep, too, or the folder can only be read.
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _LONG_AGO:
                    path.unlink()


def load_arrays(path: pathlib.Path, without: Collection[str] = ()) -> dict[str, np.ndarray] | None:
    """Arrays of an .npz, but for some; None where there is no whole and readable file. Nothing in it is executed."""
    try:
        # NumPy leaves a file open that it opened itself and that is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name not in without}
    except (OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, MemoryError):
        return None
    except (SyntaxError, ArithmeticError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, struct.error):
        return None


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8; what UTF-8 has no place for, such as undecodable bytes of a folder's name, is escaped."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


def write_csv(path: str | os.PathLike[str], rows: Iterable[Iterable[object]]) -> None:
    """Writes rows of values, numbers in full precision and None as nothing."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    write_text(path, buffer.getvalue())
