"""Load on `pirn serve` over the loopback: 1, 8 and 32 clients, each with one request at a time.

A plate of 224 pixels, RGB and xyz, `gaussian` on the default encoders; a request goes from files to normals to verdict.
A client that is told to wait (429) asks again, and its time goes on. `parts_per_s`, `p50_ms` and `p99_ms` are of
answered parts, `refused` counts the 429s, `lost` parts without an answer; `apart` is the largest difference of a score
from the command's. `memory_mb` is the server's resident memory at the end, `growth_mb` its growth since the first fifth
of the requests. Each number of clients sends 100 requests a repeat: `--repeats=34` are some 10,000 in all.
"""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import tifffile

from pirn_jax.data import folder
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.inspection import bundle, verdicts

CLIENTS = (1, 8, 32)
_SIDE, _PARTS, _REQUESTS = 224, 6, 100
_BOUNDARY = "part-of-a-form"


class Server(NamedTuple):
    """A server in a process of its own.

    Attributes:
      port: on the loopback.
      pid: of the process.
    """

    port: int
    pid: int


def measure(repeats: int, side: int = _SIDE, flags: tuple[str, ...] = ()) -> dict[str, dict[str, float]]:
    """Runs the load.

    Args:
      repeats: hundreds of requests of each number of clients.
      side: of the plates' images.
      flags: further ones of `pirn fit`.
    """
    with tempfile.TemporaryDirectory() as place:
        home = pathlib.Path(place)
        _write_plates(home / "plates", side)
        model = home / "plates.pirn"
        given = f"--parts={home / 'plates'}", f"--output={model}", "--method=gaussian", "--foreground=none"
        subprocess.run(_command("fit", *given, *flags), check=True, stdout=subprocess.DEVNULL)
        bodies, scores = _requests(home / "plates"), _scores(model, home / "plates")
        with _serving(model, home / "log") as server:
            return {f"{of} clients": _load(server, of, repeats * _REQUESTS, bodies, scores) for of in CLIENTS}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tools.pirn", *arguments]


def _write_plates(place: pathlib.Path, side: int) -> None:
    rng = np.random.default_rng(0)
    for kind in ("rgb", "xyz"):
        (place / kind).mkdir(parents=True)
    rows, columns = np.mgrid[:side, :side] / 2000
    for i in range(_PARTS):
        depth = 0.5 + 0.2 * rows + rng.normal(scale=1e-4, size=rows.shape)
        xyz = np.stack([columns, rows, depth], -1).astype(np.float32)
        tifffile.imwrite(place / "xyz" / f"{i}.tiff", xyz, photometric="rgb")
        image = rng.integers(256, size=(*rows.shape, 3), dtype=np.uint8)
        PIL.Image.fromarray(image).save(place / "rgb" / f"{i}.png")


def _requests(place: pathlib.Path) -> list[bytes]:
    """Multipart forms of the parts."""
    found = []
    for i in range(_PARTS):
        pieces = []
        for field, path in (("rgb", place / "rgb" / f"{i}.png"), ("scan", place / "xyz" / f"{i}.tiff")):
            named = f'form-data; name="{field}"; filename="{path.name}"'
            head = f"--{_BOUNDARY}\r\nContent-Disposition: {named}\r\n\r\n"
            pieces += [head.encode(), path.read_bytes(), b"\r\n"]
        found.append(b"".join([*pieces, f"--{_BOUNDARY}--\r\n".encode()]))
    return found


def _scores(path: pathlib.Path, plates: pathlib.Path) -> list[float]:
    """Scores of the parts by the command's own way."""
    model = bundle.read(path)
    limit, records = verdicts.limits(model), folder.read_new(plates, Options(), Problems())
    judged = [verdicts.judge(model, limit, [of.id], [verdicts.prepare(model, of)]) for of in records]
    return [verdict.score for ((verdict, _),) in judged]


@contextlib.contextmanager
def _serving(model: pathlib.Path, log: pathlib.Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as told:
        process = subprocess.Popen(
            _command("serve", f"--model={model}", f"--port={port}"), stdout=told, stderr=subprocess.STDOUT
        )
    try:
        while not _answers(port):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended: {log.read_text()}")
            time.sleep(0.1)
        yield Server(port, process.pid)
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False


def _load(server: Server, clients: int, count: int, bodies: list[bytes], scores: list[float]) -> dict[str, float]:
    numbers, lock = itertools.count(), threading.Lock()
    seconds: list[float] = []
    apart, memory = [0.0], [_memory(server.pid)]
    refused = [0]

    def work() -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)) as connection:
            while (number := next(numbers)) < count:
                begin = time.perf_counter()
                score, again = _ask(connection, bodies[number % len(bodies)])
                with lock:
                    seconds.append(time.perf_counter() - begin)
                    refused[0] += again
                    apart[0] = max(apart[0], abs(score - scores[number % len(scores)]))
                    if len(seconds) == count // 5:
                        memory.append(_memory(server.pid))

    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work) for _ in range(clients)]:
            done.result()
    took, end = time.perf_counter() - begin, _memory(server.pid)
    middle, late = (1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99))
    return {
        "clients": clients,
        "requests": count,
        "parts_per_s": len(seconds) / took,
        "p50_ms": middle,
        "p99_ms": late,
        "refused": refused[0],
        "lost": count - len(seconds),
        "apart": apart[0],
        "memory_mb": end,
        "growth_mb": end - memory[-1],
    }


def _ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[float, int]:
    """Score of a part, and how often the client was told to wait."""
    head = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    for refused in itertools.count():
        connection.request("POST", "/v1/inspect", body, head)
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == 200:
            return json.loads(content)["score"], refused
        if answer.status != 429:
            raise RuntimeError(f"status {answer.status}: {content[:200]!r}")
        time.sleep(0.05)
    raise AssertionError("counting ended")


def _memory(pid: int) -> float:
    """Resident megabytes of a process; not a number where the system does not tell."""
    path = pathlib.Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if path.exists() else float("nan")
