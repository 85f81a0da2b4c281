"""Parts that arrive as requests: bounded before they are read, checked before they are decoded."""

import asyncio
import pathlib
from collections.abc import Mapping
from typing import Any

import tifffile
from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from pirn_jax.data import folder, images
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.inspection.bundle import Bundle
from tools.pirn import samples

_KINDS = {
    "rgb": dict.fromkeys((".png", ".jpg", ".jpeg"), "rgb"),
    "scan": {".tif": "xyz", ".tiff": "xyz", ".ply": "cloud", ".pcd": "cloud"},
    "depth": dict.fromkeys((".png", ".tif", ".tiff"), "depth"),
}
"""Folders of the files of a request, by form field and suffix."""

_CAMERA = ("scale", "fx", "fy", "cx", "cy")


class Limited:
    """ASGI middleware that reads no more of a request than it may have."""

    def __init__(self, app: Any, most: int):
        """Wraps an app, whose requests may have so many bytes."""
        self._app, self._most = app, most

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answers a request, or refuses it with status 413."""
        read = 0

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise HTTPException(413, f"a request may have {self._most} bytes")
            return message

        if scope["type"] == "http":
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > self._most:
                refusal = JSONResponse(
                    {"detail": f"a request may have {self._most} bytes, this one has {int(length)}"}, 413
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, counted, send)


async def receive(request: Request, place: pathlib.Path, model: Bundle, most_pixels: int) -> Record:
    """The part of a request, whose files are put into a folder like one's own parts.

    Args:
      request: a multipart form, see `/v1/inspect`.
      place: an empty folder.
      model: that the part is for.
      most_pixels: of an image or a scan.

    Raises:
      HTTPException: with status 413 if it is too large, 422 if it cannot be used, and a sentence.
    """
    try:
        async with request.form(max_files=2, max_fields=len(_CAMERA)) as form:
            await _store(form, place / "part", most_pixels)
    except MultiPartException as error:
        raise HTTPException(422, f"no multipart form ({error.message}); send rgb and scan as files") from error
    problems = Problems()
    try:
        records = folder.read_new(place / "part", samples.options(model), problems)
        problems.check()
    except InputError as error:
        raise HTTPException(422, str(error).replace(f"{place}/part/", "")) from error
    return records[0]


async def _store(form: Mapping[str, Any], place: pathlib.Path, most_pixels: int) -> None:
    uploads = {key: value for key, value in form.items() if isinstance(value, UploadFile)}
    if set(uploads) not in ({"rgb", "scan"}, {"rgb", "depth"}):
        raise HTTPException(422, f"files {', '.join(sorted(uploads)) or 'none'}: send rgb, and scan or depth")
    for key, upload in uploads.items():
        suffix = pathlib.PurePath(upload.filename or "").suffix.lower()
        kinds = _KINDS[key]
        if suffix not in kinds:
            what = {"rgb": "image", "scan": "scan", "depth": "depth image"}[key]
            raise HTTPException(
                422, f"{key}: a file named *{suffix} is no {what} that is read; send {', '.join(kinds)}"
            )
        # Of the name that a client gives only a known suffix is taken.
        path = place / kinds[suffix] / f"part{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(await upload.read())
        await asyncio.to_thread(_check_pixels, key, path, most_pixels)
    if "depth" in uploads:
        (place / "dataset.toml").write_text(_camera(form))


def _check_pixels(key: str, path: pathlib.Path, most: int) -> None:
    """Looks up the size of an image in its header, before anything of that size is made."""
    try:
        if path.suffix in (".tif", ".tiff"):
            with tifffile.TiffFile(path) as file:
                # Colours or coordinates may come first or last.
                height, width = sorted(file.pages[0].shape)[-2:]
        elif path.suffix in (".ply", ".pcd"):
            return  # As many points as the file has bytes for.
        else:
            height, width = images.read_size(path)
    except InputError as error:
        raise HTTPException(422, f"{key}: {str(error).replace(str(path), path.name)}") from error
    except Exception as error:
        raise HTTPException(422, f"{key}: {path.name} cannot be read ({error})") from error
    if height * width > most:
        raise HTTPException(413, f"{key}: {height * width} pixels, {most} may be sent")


def _camera(form: Mapping[str, Any]) -> str:
    """`dataset.toml` of a depth image."""
    lines = ["[depth]"]
    for name in _CAMERA:
        text = form.get(name)
        if text is None and name in ("scale", "fx", "fy"):
            raise HTTPException(422, f"depth needs {name}; give scale, fx and fy")
        if text is not None:
            try:
                lines.append(f"{name} = {float(text)!r}")
            except (TypeError, ValueError) as error:
                raise HTTPException(422, f"{name}={text}: give a number") from error
    return "\n".join(lines)
