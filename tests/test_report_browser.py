"""The page of a report in a real browser: it opens quietly, fits the screen, and enlarges images by mouse and keyboard.

Chromium is driven through a pipe by the Chrome DevTools protocol, which needs no further package.
"""

import json
import os
import pathlib
import select
import shutil
import subprocess
import time

import numpy as np
import pytest

from pirn_jax.report import comparison, page, sweep
from pirn_jax.study import grid
from tests import reports

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
QUIET = ["disable-background-networking", "disable-component-update", "disable-sync", "disable-quic", "no-first-run"]
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, "")}


class Browser:
    """One headless Chromium with one tab; every event is kept."""

    def __init__(self, profile: pathlib.Path):
        """Starts it; the browser reads its commands from descriptor 3 and answers on 4."""
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()
        pipes = f"3<&{commands} 4>&{answers}"
        flags = " ".join(f"--{flag}" for flag in [*QUIET, "headless", "no-sandbox", "disable-gpu"])
        shell = f'exec "$0" {flags} --remote-debugging-pipe --user-data-dir="$1" about:blank {pipes}'
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", shell, str(CHROMIUM), str(profile)],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self.events, self.buffer, self.count, self.session = [], b"", 0, None
        tab = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self):
        """The next message."""
        deadline = time.monotonic() + 15
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], max(0, deadline - time.monotonic()))[0], "the browser is silent"
            received = os.read(self.read, 1 << 20)
            assert received, "the browser has gone"
            self.buffer += received
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def call(self, method, **parameters):
        """The result of a command."""
        self.count += 1
        command = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while (message := self.message()).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, expression):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def open(self, path, width=1280, scheme="light"):
        """Opens a file and waits until it has loaded."""
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=media)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def press(self, key):
        """Presses and releases a key."""
        code, text = KEYS[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def click(self, selector):
        """Clicks into the middle of the first element of a selector."""
        middle = f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
          element.scrollIntoView({{block: "center"}}); const box = element.getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        self.click_at(*self.evaluate(middle))

    def click_at(self, x, y):
        """Clicks at a point of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def close(self):
        """Ends the browser."""
        self.call("Browser.close")
        self.process.wait(15)
        os.close(self.read)
        os.close(self.write)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report, a comparison and a sweep with long names, by name."""
    folder, results = tmp_path_factory.mktemp("pages"), reports.results() | {"dataset": "mvtec3d"}
    results["settings"]["a_setting_of_a_very_long_name"] = "averylongvalue" * 12
    histories = {"2": {"loss": np.ones((1, 5))}, "10": {"loss": np.ones((1, 25)), "gate": np.ones((1, 25))}}
    page.write_page(folder / "report.html", results, [reports.gallery()] * 2, histories)
    runs = {"a-long-name-of-a-run-" * 2 + str(i): results | {"settings": {"epochs": i}} for i in range(16)}
    comparison.write_page(folder / "comparison.html", runs)
    grid.write_plan(folder, {"a_hyperparameter_of_a_long_name": [1, 2], "epsilon": [i / 100 for i in range(1, 17)]})
    for name in list(grid.cells(grid.read(folder).parameters))[1:]:
        (folder / name).mkdir()
        (folder / name / "results.json").write_text(json.dumps(results))
    sweep.write(folder)
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["report", "comparison", "sweep"])
def test_page_opens_without_messages_or_requests_and_fits_the_width(browser, pages, name, width, scheme):
    browser.open(pages[name], width, scheme)
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.evaluate("innerWidth") == width
    told = [e for e in browser.events if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
    told += [e for e in browser.events if e["method"] == "Runtime.consoleAPICalled"]
    assert told == []
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:image/")] == [pages[name].as_uri()]
    assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_the_content_security_policy_refuses_requests(browser, pages):
    browser.open(pages["report"])
    asked = 'fetch("https://example.org/").then(() => "answered", () => "refused")'
    assert browser.evaluate(asked) == "refused"
    assert any(
        "Content Security Policy" in e["params"]["entry"]["text"] for e in browser.events if "entry" in e["params"]
    )


OPEN = 'document.querySelector("dialog").open'


def test_mouse_enlarges_an_image_and_a_click_beside_it_closes(browser, pages):
    browser.open(pages["report"])
    small = browser.evaluate('document.querySelectorAll("a.enlarge img")[0].getBoundingClientRect().width')
    browser.click("a.enlarge")
    assert browser.evaluate(OPEN)
    assert browser.evaluate('document.querySelector("dialog img").getBoundingClientRect().width') > 2 * small
    shown = 'document.querySelector("dialog img").src === document.querySelector("a.enlarge img").src'
    assert browser.evaluate(shown)
    browser.click_at(5, 5)
    assert not browser.evaluate(OPEN)
    browser.click("a.enlarge")
    browser.click("dialog button")
    assert not browser.evaluate(OPEN)


def test_keyboard_enlarges_an_image_escape_closes_and_focus_returns(browser, pages):
    browser.open(pages["report"])
    focused = '[...document.querySelectorAll("a.enlarge")].indexOf(document.activeElement)'
    for _ in range(60):
        browser.press("Tab")
        if browser.evaluate(focused) == 2:
            break
    assert browser.evaluate(focused) == 2
    browser.press("Enter")
    assert browser.evaluate(OPEN)
    assert browser.evaluate('document.querySelector("dialog").contains(document.activeElement)')
    name = browser.evaluate('document.getElementById("enlarged-name").textContent')
    assert name == f"RGB map of {reports.HOSTILE}"
    browser.press("Escape")
    assert not browser.evaluate(OPEN)
    assert browser.evaluate(focused) == 2


def test_without_script_a_link_widens_its_image_in_place(browser, pages):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["report"])
        width = 'document.querySelector("a.enlarge img").getBoundingClientRect().width'
        small = browser.evaluate(width)
        browser.click("a.enlarge")
        assert browser.evaluate(width) > 1.5 * small
        assert not browser.evaluate(OPEN)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


CONTRAST = """(() => {
  const numbers = colour => colour.match(/[0-9.]+/g).map(Number);
  const light = colour => numbers(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => { for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor; if ((numbers(colour)[3] ?? 1) > 0) return colour; } };
  const ratios = [];
  for (const element of document.querySelectorAll("body *:not(svg *):not(script)")) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    ratios.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.slice(0, 40)]);
  }
  return ratios.sort((a, b) => a[0] - b[0]).slice(0, 3);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_headings_are_in_order(browser, pages, scheme):
    for path in pages.values():
        browser.open(path, scheme=scheme)
        assert browser.evaluate(CONTRAST)[0][0] >= 4.5
        levels = browser.evaluate('[...document.querySelectorAll("h1,h2,h3,h4")].map(h => Number(h.tagName[1]))')
        assert levels[0] == 1
        assert all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False))
        assert levels.count(1) == 1
