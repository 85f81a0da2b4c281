"""The web service: parts in, verdicts out, for programs under /v1 and for people at /."""

import asyncio
import contextlib
import hmac
import pathlib
import queue
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any, Literal, NamedTuple

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pirn_jax import __version__
from pirn_jax.data.problems import InputError
from pirn_jax.inspection.bundle import Bundle
from pirn_jax.inspection.verdicts import Limits
from pirn_jax.report import figures, page
from tools.pirn import answers, uploads
from tools.pirn.worker import Worker


class _Service(NamedTuple):
    """State that the answers to requests need.

    Attributes:
      model: the model.
      limit: where good parts end.
      name: of the model, for people.
      worker: that inspects.
      waiting: parts that may wait for it.
      most_pixels: of an image or a scan.
      token: that requests under /v1 must bear; none if empty.
      counts: for Prometheus.
    """

    model: Bundle
    limit: Limits
    name: str
    worker: Worker
    waiting: int
    most_pixels: int
    token: str
    counts: "_Counts"

    def check(self, request: Request) -> None:
        """Refuses a request that does not bear the token."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            raise HTTPException(401, "give the token as 'Authorization: Bearer TOKEN'")


class _Counts:
    """Counters of one service.

    Attributes:
      registry: that holds them.
      answered: parts by verdict.
      refused: requests by status.
      seconds: from request to answer.
    """

    def __init__(self, worker: Worker):
        self.registry = CollectorRegistry()
        self.answered = Counter("pirn_parts", "Parts by verdict.", ["verdict"], registry=self.registry)
        self.refused = Counter("pirn_refused", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram("pirn_seconds", "Time from request to answer.", registry=self.registry)
        Gauge("pirn_waiting", "Parts that wait.", registry=self.registry).set_function(lambda: worker.waiting)


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
    service = _Service(model, limit, name, worker, waiting, most_pixels, token, _Counts(worker))

    @contextlib.asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(worker.close)

    app = FastAPI(title="pirn", version=__version__, lifespan=living)
    app.add_middleware(uploads.Limited, most=most_bytes)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        del request
        service.counts.refused.labels(error.status_code).inc()
        return JSONResponse({"detail": error.detail}, error.status_code)

    app.include_router(_for_programs(service))
    app.include_router(_for_all(service))
    return app


def _for_programs(service: _Service) -> APIRouter:
    """Routes that ask for the token, if there is one."""
    router, model = APIRouter(prefix="/v1"), service.model

    @router.post("/inspect")
    async def inspect(request: Request, map: str = "none") -> dict[str, Any]:
        """Verdict on a part: multipart form with `rgb`, and `scan` (xyz TIFF, organised PLY or PCD) or `depth`.

        With `depth` also `scale` (metres in one unit of the file), `fx`, `fy` and, if known, `cx` and `cy`. `?map=png`
        adds the map over the photo, `tiff` the map as float32 TIFF, `raw` its little-endian float32 values, in base64;
        with `raw` also what the page shows: the surface as PNG, and a thinned scan.
        """
        begin = time.perf_counter()
        service.check(request)
        if map not in answers.MAPS:
            raise HTTPException(422, f"map={map}: choose from {', '.join(answers.MAPS)}")
        with tempfile.TemporaryDirectory() as place:
            record = await uploads.receive(request, pathlib.Path(place), model, service.most_pixels)
            try:
                answer = await asyncio.wrap_future(service.worker.submit(record))
            except queue.Full as error:
                raise HTTPException(429, f"{service.waiting} parts wait already; try again later") from error
            except InputError as error:
                raise HTTPException(422, str(error).replace(f"{place}/", "")) from error
        service.counts.answered.labels(answer.verdict.verdict).inc()
        service.counts.seconds.observe(time.perf_counter() - begin)
        return answers.told(answer, service.limit, map)

    @router.get("/model")
    async def about(request: Request) -> dict[str, Any]:
        """What the model is, and what its threshold promises."""
        service.check(request)
        settings = model.ready.settings
        kept = ("method", "encoder", "members", "false_alarms", "pirn_jax", "input_size", "grid", "geometry")
        told = {"model": service.name, "good_parts": len(model.good.parts), "samples": len(model.samples)}
        told |= {"image_size": model.good.size} | {key: settings[key] for key in kept}
        return told | {"threshold": service.limit.score.as_json()}

    @router.get("/samples/{number}/{kind}")
    async def sample(request: Request, number: int, kind: Literal["rgb", "scan"]) -> Response:
        """Image, a PNG, or scan, a TIFF, of a good part that the model carries, from 0."""
        service.check(request)
        if not 0 <= number < len(model.samples):
            raise HTTPException(404, f"sample {number}: the model carries {len(model.samples)}, counted from 0")
        media = {"rgb": "image/png", "scan": "image/tiff"}[kind]
        return Response(getattr(model.samples[number], kind), media_type=media)

    return router


def _for_all(service: _Service) -> APIRouter:
    """Routes for anybody who reaches the service."""
    router, model = APIRouter(), service.model

    @router.get("/healthz")
    async def health() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok"}

    @router.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Counters for Prometheus."""
        text = generate_latest(service.counts.registry)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @router.get("/", include_in_schema=False)
    async def people() -> HTMLResponse:
        """A page to try parts by hand."""
        told = {"model": service.name, "promise": service.limit.score.text, "token": bool(service.token)}
        told |= {"gradient": figures.heat_gradient(), "geometry": model.ready.settings["geometry"]}
        told["samples"] = model.good.parts[: len(model.samples)]
        return HTMLResponse(page.render("service.html.jinja", **told))

    return router
