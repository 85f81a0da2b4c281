"""The web service: parts in, verdicts out, for programs under /v1 and for people at /."""

import asyncio
import contextlib
import hmac
import pathlib
import queue
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

import tifffile
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from pirn_jax import __version__
from pirn_jax.data import folder, images
from pirn_jax.data.problems import InputError, Problems
from pirn_jax.data.sample import Record
from pirn_jax.inspection.bundle import Bundle
from pirn_jax.inspection.verdicts import Limits
from pirn_jax.report import figures, page
from tools.pirn import answers, samples
from tools.pirn.worker import Worker

_SUFFIXES = {
    ".png": "rgb",
    ".jpg": "rgb",
    ".jpeg": "rgb",
    ".tif": "xyz",
    ".tiff": "xyz",
    ".ply": "cloud",
    ".pcd": "cloud",
}
_CAMERA = ("scale", "fx", "fy", "cx", "cy")


class _Counted:
    """ASGI middleware that reads no more of a request than it may have."""

    def __init__(self, app: Any, most: int):
        self._app, self._most = app, most

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
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


def build(
    model: Bundle,
    limit: Limits,
    name: str,
    *,
    waiting: int = 32,
    most_bytes: int = 64 << 20,
    most_pixels: int = 16_000_000,
    token: str = "",
) -> FastAPI:
    """The service of one model.

    Args:
      model: the model.
      limit: where good parts end.
      name: of the model, for people.
      waiting: parts that may wait; further ones are refused with status 429.
      most_bytes: of a request.
      most_pixels: of an image or a scan, looked up before it is decoded.
      token: that requests under /v1 must bear; none if empty.
    """
    worker = Worker(model, limit, waiting)
    registry = CollectorRegistry()
    answered = Counter("pirn_parts", "Parts by verdict.", ["verdict"], registry=registry)
    refused = Counter("pirn_refused", "Requests by status.", ["status"], registry=registry)
    seconds = Histogram("pirn_seconds", "Time from request to answer.", registry=registry)
    Gauge("pirn_waiting", "Parts that wait.", registry=registry).set_function(lambda: worker.waiting)

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="pirn", version=__version__, lifespan=living)
    app.add_middleware(_Counted, most=most_bytes)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        del request
        refused.labels(error.status_code).inc()
        return JSONResponse({"detail": error.detail}, error.status_code)

    def check(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token and not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(401, "give the token as 'Authorization: Bearer TOKEN'")

    @app.post("/v1/inspect")
    async def inspect(request: Request, map: str = "none") -> dict[str, Any]:
        """Verdict on a part: multipart form with `rgb`, and `scan` (xyz TIFF, organised PLY or PCD) or `depth`.

        With `depth` also `scale` (metres in one unit of the file), `fx`, `fy` and, if known, `cx` and `cy`. `?map=png`
        adds the map over the photo, `tiff` the map as float32 TIFF, `raw` its little-endian float32 values, in base64;
        with `raw` also what the page shows: the surface as PNG, and a thinned scan.
        """
        begin = time.perf_counter()
        check(request)
        if map not in answers.MAPS:
            raise HTTPException(422, f"map={map}: choose from {', '.join(answers.MAPS)}")
        with tempfile.TemporaryDirectory() as place:
            record = await _received(request, pathlib.Path(place), model, most_pixels)
            try:
                answer = await asyncio.wrap_future(worker.submit(record))
            except queue.Full as error:
                raise HTTPException(429, f"{waiting} parts wait already; try again later") from error
            except InputError as error:
                raise HTTPException(422, str(error).replace(f"{place}/", "")) from error
        answered.labels(answer.verdict.verdict).inc()
        seconds.observe(time.perf_counter() - begin)
        return answers.told(answer, limit, map)

    @app.get("/v1/model")
    async def about(request: Request) -> dict[str, Any]:
        """What the model is, and what its threshold promises."""
        check(request)
        settings = model.ready.settings
        kept = ("method", "encoder", "members", "false_alarms", "pirn_jax", "input_size", "grid", "geometry")
        told = {"model": name, "good_parts": len(model.good.parts), "samples": len(model.samples)}
        told["image_size"] = model.good.size
        return told | {key: settings[key] for key in kept} | {"threshold": limit.score.as_json()}

    @app.get("/v1/samples/{number}/{kind}")
    async def sample(request: Request, number: int, kind: Literal["rgb", "scan"]) -> Response:
        """Image, a PNG, or scan, a TIFF, of a good part that the model carries, from 0."""
        check(request)
        if not 0 <= number < len(model.samples):
            raise HTTPException(404, f"sample {number}: the model carries {len(model.samples)}, counted from 0")
        media = {"rgb": "image/png", "scan": "image/tiff"}[kind]
        return Response(getattr(model.samples[number], kind), media_type=media)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Counters for Prometheus."""
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def people() -> HTMLResponse:
        """A page to try parts by hand."""
        told = {"model": name, "promise": limit.score.text, "token": bool(token), "gradient": figures.heat_gradient()}
        told["samples"] = model.good.parts[: len(model.samples)]
        told["geometry"] = model.ready.settings["geometry"]
        return HTMLResponse(page.render("service.html.jinja", **told))

    return app


async def _received(request: Request, place: pathlib.Path, model: Bundle, most_pixels: int) -> Record:
    """The part of a request, whose files are put into a folder like one's own parts."""
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
        kind = key if key == "depth" else _SUFFIXES.get(suffix)
        if kind is None or (kind == "rgb") != (key == "rgb"):
            what = "image" if key == "rgb" else "scan"
            raise HTTPException(422, f"{key}: a file named *{suffix} is no {what} that is read")
        # Of the name that a client gives only a known suffix is taken.
        path = place / kind / f"part{suffix}"
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
                height, width = file.pages[0].shape[:2]
        elif path.suffix in (".ply", ".pcd"):
            return  # As many points as the file has bytes for.
        else:
            height, width = images.read_size(path)
    except InputError as error:
        raise HTTPException(422, f"{key}: {str(error).replace(str(path), path.name)}") from error
    except Exception as error:
        raise HTTPException(422, f"{key}: {path.name} cannot be read ({error})") from error
    if height * width > most:
        raise HTTPException(413, f"{key}: {width}x{height} pixels, {most} may be sent")


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
