"""The web service: the command's verdicts for programs and for people, and what it refuses."""

import base64
import io
import json
import socket
import threading
import time
import zlib

import numpy as np
import PIL.Image
import pytest
import tifffile

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

import uvicorn
from fastapi.testclient import TestClient

from pirn_jax.data import folder
from pirn_jax.data.options import Options
from pirn_jax.data.problems import Problems
from pirn_jax.inspection import bundle, verdicts
from tests import commands
from tests.browser import CHROMIUM, Browser
from tests.plates import SIZE, write_parts
from tools.pirn import service

FIT = ("--method=gaussian", "--encoder=chroma", "--input_size=56", "--foreground=none", "--false_alarms=.2")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    place = tmp_path_factory.mktemp("line")
    write_parts(place / "good", 5, masks=False)
    given = f"--parts={place / 'good'}", f"--output={place / 'plates.pirn'}"
    done = commands.run("tools.pirn", "fit", *given, *FIT, PIRN_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def model(home):
    return bundle.read(home / "plates.pirn")


@pytest.fixture(scope="module")
def client(model):
    app = service.build(model, verdicts.limits(model), "plates.pirn", most_bytes=1 << 20, most_pixels=100_000)
    with TestClient(app) as found:
        yield found


def files(home, name="001"):
    rgb, scan = home / "good" / "rgb" / f"{name}.png", home / "good" / "xyz" / f"{name}.tiff"
    return {"rgb": (rgb.name, rgb.read_bytes()), "scan": (scan.name, scan.read_bytes())}


def expected(home, model, name="001"):
    records = {of.id: of for of in folder.read_new(home / "good", Options(), Problems())}
    ready = verdicts.prepare(model, records[name])
    return verdicts.judge(model, verdicts.limits(model), [name], [ready])[0]


def test_a_part_gets_the_commands_verdict(home, model, client):
    verdict, values = expected(home, model)
    found = client.post("/v1/inspect?map=tiff", files=files(home)).json()
    assert found["verdict"] == verdict.verdict
    assert found["score"] == pytest.approx(verdict.score, abs=1e-6)
    assert found["p_value"] == verdict.p_value
    assert len(found["regions"]) == len(verdict.regions)
    limits = verdicts.limits(model)
    assert (found["threshold"], found["map_threshold"]) == (limits.score.value, limits.values.value)
    np.testing.assert_allclose(tifffile.imread(io.BytesIO(base64.b64decode(found["map"]))), values, atol=1e-6)
    raw = client.post("/v1/inspect?map=raw", files=files(home)).json()
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(raw["map"]), "<f4").reshape(SIZE), values, atol=1e-6)
    png = client.post("/v1/inspect?map=png", files=files(home)).json()
    with PIL.Image.open(io.BytesIO(base64.b64decode(png["map"]))) as picture:
        assert picture.size == SIZE[::-1]
    assert "map" not in client.post("/v1/inspect", files=files(home)).json()


def test_a_depth_image_comes_with_its_camera(home, client):
    buffer = io.BytesIO()
    depth = np.full(SIZE, 500, np.uint16)
    PIL.Image.fromarray(depth).save(buffer, "png")
    given = {"rgb": files(home)["rgb"], "depth": ("part.png", buffer.getvalue())}
    found = client.post("/v1/inspect", files=given, data={"scale": "0.001", "fx": "500", "fy": "500"})
    assert found.status_code == 200, found.text
    lacking = client.post("/v1/inspect", files=given, data={"fx": "500", "fy": "500"})
    assert lacking.status_code == 422
    assert lacking.json()["detail"] == "depth needs scale; give scale, fx and fy"


def test_what_the_model_is_and_counts_are_told(home, model, client):
    client.post("/v1/inspect", files=files(home))
    told = client.get("/v1/model").json()
    assert told["good_parts"] == 5
    assert told["threshold"]["kind"] == "guaranteed"
    assert told["threshold"]["value"] == verdicts.limits(model).score.value
    assert client.get("/healthz").json() == {"status": "ok"}
    assert 'pirn_parts_total{verdict="' in client.get("/metrics").text
    assert "/v1/inspect" in client.get("/openapi.json").json()["paths"]


def test_samples_of_the_model_are_given_out_and_judged_as_the_parts_that_they_were(home, model, client):
    assert client.get("/v1/model").json()["samples"] == len(model.samples) == 2
    rgb, scan = (client.get(f"/v1/samples/1/{kind}") for kind in ("rgb", "scan"))
    assert rgb.headers["content-type"] == "image/png"
    given = {"rgb": ("part.png", rgb.content), "scan": ("part.tiff", scan.content)}
    verdict, _ = expected(home, model)
    assert client.post("/v1/inspect", files=given).json()["score"] == pytest.approx(verdict.score, abs=1e-6)
    lacking = client.get("/v1/samples/2/rgb")
    assert lacking.status_code == 404
    assert lacking.json()["detail"] == "sample 2: the model carries 2, counted from 0"


def png_that_claims(width, height):
    """A PNG's header without its pixels."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(buffer, "png")
    content = bytearray(buffer.getvalue())
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def planar(height, width):
    """A TIFF of coordinates one behind the other."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((3, height, width), np.uint8), photometric="rgb", planarconfig="separate")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "status", "sentence"),
    [
        (lambda of: of.pop("scan"), 422, "send rgb, and scan or depth"),
        (lambda of: of.update(rgb=("part.txt", b"x")), 422, "is no image that is read"),
        (lambda of: of.update(scan=("part.png", b"x")), 422, "is no scan that is read; send .tif, .tiff, .ply, .pcd"),
        (lambda of: of.update(depth=("part.npy", of.pop("scan")[1])), 422, "is no depth image that is read; send .png"),
        (lambda of: of.update(scan=("part.tiff", planar(300, 400))), 413, "120000 pixels, 100000 may be sent"),
        (lambda of: of.update(rgb=("part.png", b"no picture")), 422, "part.png"),
        (lambda of: of.update(scan=("part.tiff", b"no scan")), 422, "part.tiff cannot be read"),
        (lambda of: of.update(rgb=("part.png", png_that_claims(5_000, 2_000))), 413, "100000 may be sent"),
        (lambda of: of.update(rgb=("part.png", png_that_claims(50_000, 20_000))), 422, "not a readable image"),
        (lambda of: of.update(scan=("part.tiff", bytes(2 << 20))), 413, "a request may have 1048576 bytes"),
        (lambda of: of.update(scan=("../../part.tiff", of["scan"][1])), 200, ""),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(home, client, change, status, sentence):
    given = files(home)
    change(given)
    found = client.post("/v1/inspect", files=given)
    assert found.status_code == status, found.text
    if status != 200:
        assert sentence in found.json()["detail"]
        assert "/tmp" not in found.json()["detail"]
    assert client.post("/v1/inspect", files=files(home)).status_code == 200


def test_a_body_that_does_not_tell_its_length_is_limited_too(client):
    def endless():
        for _ in range(64):
            yield bytes(1 << 15)

    found = client.post("/v1/inspect", content=endless(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert found.status_code == 413


def test_a_gibibyte_is_refused_before_it_is_read(client):
    head = {"content-type": "multipart/form-data; boundary=x", "content-length": str(1 << 30)}
    found = client.post("/v1/inspect", content=b"--x", headers=head)
    assert found.status_code == 413
    assert found.json()["detail"] == "a request may have 1048576 bytes, this one has 1073741824"


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded"])
def test_other_content_types_are_told_what_to_send(client, kind):
    found = client.post("/v1/inspect", content=b"{}", headers={"content-type": kind})
    assert found.status_code == 422
    assert "send rgb, and scan or depth" in found.json()["detail"]


def test_a_scan_without_a_number_in_it_is_told_or_judged_finitely(home, client):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.full((*SIZE, 3), np.nan, np.float32), photometric="rgb")
    found = client.post("/v1/inspect?map=raw", files=files(home) | {"scan": ("part.tiff", buffer.getvalue())})
    assert found.status_code == 422, found.text
    assert "part.tiff" in found.json()["detail"]


def test_a_token_is_asked_for(home, model):
    with TestClient(service.build(model, verdicts.limits(model), "plates.pirn", token="secret")) as guarded:
        assert guarded.post("/v1/inspect", files=files(home)).status_code == 401
        assert guarded.get("/v1/model", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert guarded.get("/v1/samples/0/rgb").status_code == 401
        right = {"Authorization": "Bearer secret"}
        assert guarded.post("/v1/inspect", files=files(home), headers=right).status_code == 200


@pytest.fixture(scope="module")
def address(model):
    """A server in a thread of this process."""
    app = service.build(model, verdicts.limits(model), "plates.pirn", waiting=4)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_of_many_clients_at_once_each_gets_its_answer_or_is_told_to_wait(home, model, address):
    import httpx

    names = [f"{i % 5:03}" for i in range(200)]
    scores = {name: expected(home, model, name)[0].score for name in set(names)}
    found = {}

    def ask(i):
        found[i] = httpx.post(f"{address}/v1/inspect", files=files(home, names[i]), timeout=60)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {status: sum(of.status_code == status for of in found.values()) for status in (200, 429)}
    assert sum(counts.values()) == len(names)
    assert counts[200] > 0
    for i, answer in found.items():
        if answer.status_code == 200:
            assert answer.json()["score"] == pytest.approx(scores[names[i]], abs=1e-6)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_person_inspects_a_part_in_a_browser(home, address, tmp_path, width):
    browser = Browser(tmp_path)
    try:
        browser.open(address, width)
        assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        places = {"rgb": home / "good" / "rgb" / "001.png", "scan": home / "good" / "xyz" / "001.tiff"}
        for field, path in places.items():
            node = browser.call("DOM.querySelector", nodeId=root, selector=f"#{field}")["nodeId"]
            browser.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)
        browser.click("#send")
        deadline = time.monotonic() + 90
        while browser.evaluate('document.querySelector("#history").hidden'):
            assert time.monotonic() < deadline, browser.evaluate('document.querySelector("#verdict").textContent')
            time.sleep(0.05)
        told = browser.evaluate('document.querySelector("#verdict").textContent')
        assert told.startswith("001.png: ")
        assert "of good parts score as high" in told
        colours = 'new Set(document.querySelector("#canvas").getContext("2d").getImageData(0, 0, 60, 40).data).size'
        assert browser.evaluate(colours) > 20
        pixels = 'document.querySelector("#canvas").toDataURL()'
        before = browser.evaluate(pixels)
        slide = 'e => { e.value = 0; e.dispatchEvent(new Event("input")); }'
        browser.evaluate(f'({slide})(document.querySelector("#limit"))')
        outlined = browser.evaluate(pixels)
        assert outlined != before
        browser.evaluate(f'({slide})(document.querySelector("#opacity"))')
        assert browser.evaluate(pixels) != outlined
        assert browser.evaluate('document.querySelectorAll("#rows tr").length') == 1
        pictures = '["photo", "surface"].map(i => document.getElementById(i).naturalWidth)'
        assert browser.evaluate(pictures) == [SIZE[1], 56]
        scan = 'document.querySelector("#scan3d").toDataURL()'
        inked = """(() => { const c = document.querySelector("#scan3d"), context = c.getContext("2d");
          const d = context.getImageData(0, 0, c.width, c.height).data;
          let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n / (d.length / 4); })()"""
        assert browser.evaluate(inked) > 0.1
        seen = browser.evaluate(scan)
        browser.evaluate('document.querySelector("#scan3d").focus()')
        browser.press("ArrowRight")
        turned = browser.evaluate(scan)
        assert turned != seen
        middle = browser.evaluate("""(() => { const e = document.querySelector("#scan3d");
          e.scrollIntoView({block: "center"}); const b = e.getBoundingClientRect();
          return [b.x + b.width / 2, b.y + b.height / 2]; })()""")
        for kind, along in (("touchStart", 0), ("touchMove", 30), ("touchMove", 60)):
            touch = [{"x": middle[0] + along, "y": middle[1]}]
            browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=touch)
        browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        touched = browser.evaluate(scan)
        assert touched != turned
        for kind, along in (("mousePressed", 0), ("mouseMoved", 40), ("mouseReleased", 40)):
            mouse = {"x": middle[0] + along, "y": middle[1], "button": "left", "buttons": 1, "clickCount": 1}
            browser.call("Input.dispatchMouseEvent", type=kind, **mouse)
        assert browser.evaluate(scan) != touched
        assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        pick = 'e => { e.value = "0"; e.dispatchEvent(new Event("change")); }'
        browser.evaluate(f'({pick})(document.querySelector("#sample"))')
        while browser.evaluate('document.querySelectorAll("#rows tr").length') == 1:
            assert time.monotonic() < deadline, browser.evaluate('document.querySelector("#verdict").textContent')
            time.sleep(0.05)
        assert browser.evaluate('document.querySelector("#verdict").textContent').startswith("000.png: ")
        assert browser.evaluate("[1, 0.125, 0.02].map(percent)") == ["100 %", "13 %", "2.0 %"]
        wrong = [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
        assert [e for e in wrong if "favicon" not in json.dumps(e)] == []
    finally:
        browser.close()
