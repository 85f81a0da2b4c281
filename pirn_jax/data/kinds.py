"""Kinds of files by their first bytes: what lies under the name of another file, in words."""

import os
import pathlib

_PAGE = "a web page, probably an error or a login in place of the file; download the file itself"

_STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS in place of the file; fetch the file itself with git lfs pull",
    **dict.fromkeys((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml"), _PAGE),
}
"""Texts in place of data, in lower case."""

_IMAGES = {
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"8BPS": "Photoshop file",
    b"%!PS": "PostScript file",
}


def first_bytes(path: str | os.PathLike[str]) -> bytes:
    """Beginning of a file; empty where it cannot be read."""
    try:
        with pathlib.Path(path).open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def stranger(head: bytes) -> str:
    """Text in place of data that a file begins with, and the remedy; empty if there is none."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((told for begin, told in _STRANGERS.items() if text.startswith(begin)), "")


def image(head: bytes) -> str:
    """Format of the image that begins so; empty if it is none."""
    return next((name for begin, name in _IMAGES.items() if head.startswith(begin)), "")
