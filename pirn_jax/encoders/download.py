"""Downloads that can be interrupted, continue where they stopped, and are checked before they count."""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

from pirn_jax import atomic

_CHUNK = 1 << 20
_TIMEOUT_S = 60


class DownloadError(ValueError):
    """A file could not be downloaded, or is not what it should be; the message names the remedy."""


def fetch(
    address: str,
    path: pathlib.Path,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
    size: int | None = None,
    sha256: str | None = None,
) -> str:
    """Downloads a file unless it is there already.

    What has come of an interrupted download stays in a `.part` beside the file, and is continued if the server still
    has the same file. The SHA-256 is recorded in a `.json` beside the file and checked whenever the file is used again.

    Args:
      address: of the file.
      path: where it goes; its folders are made.
      progress: told how many bytes are there, and of how many if that is known.
      size: bytes that it has, None if unknown.
      sha256: in hexadecimal, None if unknown.

    Returns:
      its SHA-256.

    Raises:
      DownloadError: if the server does not answer, answers with a web page or too little, or the file is not the one
        that `size`, `sha256` or the record tell of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path.parent):
        if path.exists():
            digest = _verify(path, size, sha256 or _read_record(path).get("sha256"))
        else:
            part = path.with_name(path.name + ".part")
            _download(address, part, progress, size)
            try:
                digest = _verify(part, size, sha256)
            except DownloadError:
                _discard(part)
                raise
            part.replace(path)
            _discard(part)
        _write_record(path, {"address": address, "size": path.stat().st_size, "sha256": digest})
    return digest


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes from downloading into a folder meanwhile: they wait, and find the file."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def file_sha256(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass(frozen=True)
class _Part:
    """State of a download: bytes so far, and the server's mark of the version they belong to, empty if it gave none."""

    done: int
    mark: str


def _download(address: str, part: pathlib.Path, progress: Callable[[int, int | None], None], size: int | None) -> None:
    have = _Part(part.stat().st_size if part.exists() else 0, _read_record(part).get("mark", ""))
    if size is not None and have.done == size:
        return
    try:
        with _open(address, have) as answer:
            done = have.done if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            rest = answer.headers.get("Content-Length")
            total = done + int(rest) if rest else None
            if size is not None and total not in (None, size):
                raise DownloadError(f"{address}: the server has {total} bytes, expected {size}; it is another file")
            if answer.headers.get_content_type() == "text/html":
                raise DownloadError(f"{address}: a web page in place of the file; open it in a browser to see why")
            _write_record(part, {"mark": _mark(answer)})
            with part.open("ab" if done else "wb") as file:
                progress(done, total)
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    progress(done, total)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(
            f"{address}: {error}; run it again to continue, or fetch the file by other means and give it with --source"
        ) from error
    if total is not None and done < total:
        raise DownloadError(f"{address}: the connection ended after {done} of {total} bytes; run it again to continue")


def _open(address: str, have: _Part) -> Any:
    """The server's answer: the rest of the file if it still has the version that the part belongs to, else the whole.

    Whether a version is still the same is left to the server (If-Range), so that nothing can change in between.
    """
    if have.done and have.mark:
        headers = {"Range": f"bytes={have.done}-", "If-Range": have.mark}
        try:
            answer = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        else:
            whole = answer.status != http.HTTPStatus.PARTIAL_CONTENT
            if whole or answer.headers.get("Content-Range", "").startswith(f"bytes {have.done}-"):
                return answer
            answer.close()
    return urllib.request.urlopen(urllib.request.Request(address), timeout=_TIMEOUT_S)


def _mark(answer: Any) -> str:
    """A strong ETag, or the date of the last change; a weak ETag does not promise the same bytes."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _verify(path: pathlib.Path, size: int | None, sha256: str | None) -> str:
    with path.open("rb") as file:
        if file.read(64).lstrip().startswith(b"<"):
            raise DownloadError(
                f"{path}: a web page in place of the file; delete it and look at the address in a browser"
            )
    found = path.stat().st_size
    if size is not None and found != size:
        raise DownloadError(f"{path}: {found} bytes, expected {size}; delete it and run this again")
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256:
        raise DownloadError(f"{path}: its SHA-256 is {digest}, expected {sha256}; delete it and run this again")
    return digest


def _record(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".json")


def _write_record(path: pathlib.Path, record: dict[str, Any]) -> None:
    atomic.write_text(_record(path), json.dumps(record, indent=2) + "\n")


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    """Record of a file; empty where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads(_record(path).read_text("utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def _discard(part: pathlib.Path) -> None:
    part.unlink(missing_ok=True)
    _record(part).unlink(missing_ok=True)
