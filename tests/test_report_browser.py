"""The page of a report in a real browser: it opens quietly, fits the screen, enlarges images by mouse and keyboard."""

import json

import numpy as np
import pytest

from pirn_jax.report import comparison, page, sweep
from pirn_jax.study import grid
from tests import reports
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


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
