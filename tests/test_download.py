"""Downloads from a server of these tests: whole, continued, changed in between, and what is refused."""

import hashlib
import http.server
import json
import threading

import pytest

from pirn_jax import threads
from pirn_jax.encoders import download

DATA = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `data`; the tests change how."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.tag, self.type = DATA, '"one"', "application/octet-stream"
        self.ranges, self.status, self.stop_after, self.asked = True, 200, None, []

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the whole file or, asked for the rest of the same version, with the rest."""

    def do_GET(self):  # noqa: N802
        """Answers a request."""
        server = self.server
        assert isinstance(server, Server)
        start = self.headers.get("Range")
        server.asked.append(start)
        first = int(start.removeprefix("bytes=").removesuffix("-")) if start and server.ranges else 0
        if self.headers.get("If-Range") != server.tag:
            first = 0
        if server.status != 200 or first >= len(server.data):
            self.send_error(server.status if server.status != 200 else 416)
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.data) - 1}/{len(server.data)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Type", server.type)
        self.send_header("Content-Length", str(len(server.data) - first))
        self.end_headers()
        self.wfile.write(server.data[first : server.stop_after])

    def log_message(self, format, *args):
        """Says nothing."""


@pytest.fixture
def server():
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    address = f"http://127.0.0.1:{server.server_port}/weights.pth"
    return lambda **options: download.fetch(address, tmp_path / "deep" / "weights.pth", **options)


def files(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "deep").iterdir())


def interrupt(fetch, server, after: int = 1 << 19, **options) -> None:
    """Leaves behind what has come of the file when the connection ends early."""
    server.stop_after = after
    with pytest.raises(download.DownloadError, match=rf"ended after {after} of .*run it again to continue"):
        fetch(**options)
    server.stop_after = None


@pytest.mark.parametrize("known", [{}, {"size": len(DATA), "sha256": DIGEST}])
def test_a_file_is_downloaded_once_and_recorded(fetch, server, tmp_path, known):
    seen = []
    assert fetch(progress=lambda done, total: seen.append((done, total)), **known) == DIGEST
    assert (tmp_path / "deep" / "weights.pth").read_bytes() == DATA
    assert files(tmp_path) == ["weights.pth", "weights.pth.json"]
    record = json.loads((tmp_path / "deep" / "weights.pth.json").read_text())
    assert (record["sha256"], record["size"]) == (DIGEST, len(DATA))
    assert seen[0] == (0, len(DATA))
    assert seen[-1] == (len(DATA), len(DATA))
    assert fetch(**known) == DIGEST
    assert server.asked == [None]


def test_of_two_downloads_at_once_one_waits_for_the_other(fetch, server):
    assert threads.each(lambda _: fetch(), range(4), at_once=4) == [DIGEST] * 4
    assert server.asked == [None]


def test_an_interrupted_download_continues_where_it_stopped(fetch, server, tmp_path):
    interrupt(fetch, server)
    assert (tmp_path / "deep" / "weights.pth.part").stat().st_size == 1 << 19
    seen = []
    assert fetch(progress=lambda done, total: seen.append((done, total)), size=len(DATA), sha256=DIGEST) == DIGEST
    assert server.asked == [None, f"bytes={1 << 19}-"]
    assert seen[0] == (1 << 19, len(DATA))
    assert files(tmp_path) == ["weights.pth", "weights.pth.json"]


def test_a_download_stopped_by_ctrl_c_continues(fetch, server, tmp_path):
    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=stop)
    assert "weights.pth.part" in files(tmp_path)
    assert fetch() == DIGEST


def test_a_file_that_changed_is_downloaded_anew(fetch, server):
    interrupt(fetch, server)
    server.data, server.tag = DATA[::-1], '"two"'
    assert fetch() == hashlib.sha256(DATA[::-1]).hexdigest()


def test_a_server_without_ranges_starts_over(fetch, server):
    interrupt(fetch, server)
    server.ranges = False
    assert fetch() == DIGEST


@pytest.mark.parametrize("tag", ['W/"weak"', ""])
def test_a_version_that_cannot_be_told_is_downloaded_anew(fetch, server, tag):
    server.tag = tag
    interrupt(fetch, server)
    assert fetch() == DIGEST
    assert server.asked == [None, None]


def test_a_part_file_that_is_too_long_is_replaced_and_a_whole_one_is_used(fetch, server, tmp_path):
    interrupt(fetch, server)
    part = tmp_path / "deep" / "weights.pth.part"
    part.write_bytes(DATA + b"more")
    assert fetch() == DIGEST
    (tmp_path / "deep" / "weights.pth").rename(part)
    server.asked.clear()
    assert fetch(size=len(DATA), sha256=DIGEST) == DIGEST
    assert server.asked == []


def test_another_hash_or_size_is_refused_and_nothing_stays(fetch, server, tmp_path):
    with pytest.raises(download.DownloadError, match=f"SHA-256 is {DIGEST}, expected 0000"):
        fetch(sha256="0" * 64)
    with pytest.raises(download.DownloadError, match=f"server has {len(DATA)} bytes, expected 5"):
        fetch(size=5)
    assert files(tmp_path) == []


def test_a_file_that_is_there_is_checked_against_its_record(fetch, tmp_path):
    fetch()
    path = tmp_path / "deep" / "weights.pth"
    path.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(download.DownloadError, match=f"expected {DIGEST}; delete it"):
        fetch()
    path.write_bytes(DATA[:-1])
    with pytest.raises(download.DownloadError, match=f"{len(DATA) - 1} bytes, expected {len(DATA)}"):
        fetch(size=len(DATA))


def test_a_damaged_record_is_made_anew(fetch, tmp_path):
    fetch()
    record = tmp_path / "deep" / "weights.pth.json"
    for text in ("{", "[]"):
        record.write_text(text)
        assert fetch() == DIGEST
        assert json.loads(record.read_text())["sha256"] == DIGEST


PAGE = b"\n<!DOCTYPE html><html>Sign in</html>"


@pytest.mark.parametrize(
    ("kind", "page"),
    [("text/html; charset=utf-8", PAGE), ("application/octet-stream", PAGE), ("text/html", b"Please sign in")],
)
def test_web_pages_are_refused(fetch, server, tmp_path, kind, page):
    server.data, server.type = page, kind
    with pytest.raises(download.DownloadError, match="a web page in place of the file"):
        fetch()
    assert not {"weights.pth", "weights.pth.part"} & set(files(tmp_path))


@pytest.mark.parametrize("status", [403, 404, 503])
def test_errors_of_the_server_are_told_with_the_way_out(fetch, server, status):
    server.status = status
    with pytest.raises(download.DownloadError, match=rf"HTTP Error {status}.*--source"):
        fetch()


def test_errors_of_the_server_leave_what_has_come(fetch, server, tmp_path):
    interrupt(fetch, server)
    server.status = 503
    with pytest.raises(download.DownloadError, match="HTTP Error 503"):
        fetch()
    server.status = 200
    assert fetch() == DIGEST
    assert server.asked[-1] == f"bytes={1 << 19}-"


def test_no_server_is_told_with_the_way_out(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        port = other.server_port
    with pytest.raises(download.DownloadError, match="Connection refused.*--source"):
        download.fetch(f"http://127.0.0.1:{port}/x", tmp_path / "x")
