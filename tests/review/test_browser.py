"""The page in a real browser: Debian's Chromium, headless, driven by Playwright; the server in a thread of its own."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra terralabel[review]")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

from terralabel.recipes.run import Run, export_run, open_run  # noqa: E402
from terralabel.recipes.survey import survey_clusters  # noqa: E402
from terralabel.review.app import create_app  # noqa: E402
from terralabel.review.desk import Desk  # noqa: E402
from terralabel.review.security import House  # noqa: E402

CONTRAST = """() => {
  const channel = (v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(node).backgroundColor);
      if (a > 0.99 && r !== undefined) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const bad = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility() || node.closest("svg, :disabled, option, dialog")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push([node.tagName, walker.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def site(judged: Run) -> Iterator[str]:
    """The address of a server over the judged run."""
    desk = Desk(judged, author="ada", names={2: [("<img src=x onerror=window.pwned=1>", 0.9)]})
    desk.survey = survey_clusters(judged)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        house = House("127.0.0.1", listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(create_app(desk, house), log_level="error", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield house.url
        server.should_exit = True
        thread.join(10)
    desk.close()


@pytest.fixture
def page(chromium: Any, site: str) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, base_url=site)
    opened = context.new_page()
    opened.set_default_timeout(8000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if line.type == "error" and "409" not in line.text else None)
    yield opened
    assert opened.evaluate("window.pwned") is None
    context.close()
    assert not problems


def until(page: Any, expression: str, seconds: float = 10) -> None:
    """Wait until an expression is true; `wait_for_function` evaluates text inside the page, which its policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)


def version(page: Any, at_least: int) -> None:
    until(page, f"Number(document.documentElement.dataset.version) >= {at_least} && !document.documentElement.dataset.loading")


@pytest.mark.slow
def test_name_merge_split_drop_undo_reload_and_export(page: Any, judged: Run, tmp_path: Path) -> None:
    page.goto("/classes?sort=id")
    page.fill("#class-1 input.name", "water")
    page.keyboard.press("Enter")
    version(page, 1)
    page.fill("#class-3 input.name", "water")  # the same name: one class
    page.keyboard.press("Enter")
    page.wait_for_selector("#class-3", state="detached")
    page.click("#class-2 .chip")  # a suggested name that is a script
    version(page, 3)
    assert page.input_value("#class-2 input.name") == "<img src=x onerror=window.pwned=1>"
    page.drag_and_drop("#class-4 .facts", "#class-2 .facts")
    page.wait_for_selector("#class-4", state="detached")
    page.click("#class-0 .split")
    page.click("#split-go")
    page.wait_for_selector("#class-6")
    page.focus("#class-5")
    page.keyboard.press("d")
    page.wait_for_selector("#cluster-5.dropped")
    page.keyboard.press("u")
    page.wait_for_selector("#class-5")
    page.evaluate(
        "const box = document.querySelector('#class-5 .color'); box.value = '#0044ff'; box.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    version(page, 8)
    page.reload()
    names = {
        int(card.get_attribute("data-id")): card.query_selector("input.name").input_value()
        for card in page.query_selector_all(".card")
    }
    assert names[1] == "water" and 3 not in names and 4 not in names and 6 in names
    page.click("#write")
    until(page, "document.querySelector('#pending').textContent === 'Labels show every change'", 30)
    export_run(open_run(judged.path), ["geotiff"], tmp_path / "out")
    with rasterio.open(tmp_path / "out" / "scene_1.tif") as labels:
        found = set(np.unique(labels.read(1)).tolist())
        assert labels.colormap(1)[5][:3] == (0, 0x44, 0xFF)
    assert found <= {0, 1, 2, 5, 6, 255} and {0, 6} <= found


@pytest.mark.slow
def test_keys_alone_do_everything(page: Any) -> None:
    page.goto("/classes?sort=id")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press(" ")
    page.keyboard.press("m")
    page.wait_for_selector("#class-1", state="detached")
    page.keyboard.press("n")
    page.keyboard.type("field")
    page.keyboard.press("Enter")
    version(page, 2)
    assert page.input_value("#class-0 input.name") == "field"
    page.keyboard.press("s")
    page.wait_for_selector("#split-dialog[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+z")
    version(page, 3)
    page.keyboard.press("r")
    version(page, 4)
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")


@pytest.mark.slow
def test_a_second_tab_is_told_what_was_changed(page: Any) -> None:
    page.goto("/classes")
    other = page.context.new_page()
    other.goto("/classes")
    page.fill("#class-1 input.name", "water")
    page.keyboard.press("Enter")
    version(page, 1)
    other.fill("#class-1 input.name", "road")
    other.keyboard.press("Enter")
    until(other, "document.querySelector('#alert').textContent.includes('Changed since you looked')")
    until(other, "document.querySelector('#class-1 input.name').value === 'water'")


def test_a_mask_is_fixed_by_a_click_and_the_queue_goes_on(page: Any, judged: Run) -> None:
    page.goto("/queue")
    page.wait_for_selector("#stage path.edge")
    first = page.get_attribute(".unit[aria-current]", "data-row")
    page.keyboard.press("f")
    page.click("#stage svg", position={"x": 150, "y": 150})
    page.wait_for_selector("#stage path.fresh")
    assert "expected IoU" in page.inner_text("#fix-note")
    page.keyboard.press("Enter")
    version(page, 1)
    until(page, f"document.querySelector('.unit[aria-current]')?.dataset.row !== '{first}'")
    for count, key in ((2, "a"), (3, "x")):
        page.wait_for_selector("#stage path.edge")
        page.keyboard.press(key)
        version(page, count)
    until(page, "document.querySelector('#progress').textContent.startsWith('3 of')")
    page.keyboard.press("u")
    version(page, 4)
    assert page.inner_text("#progress").startswith("2 of")


def test_the_map_shows_imagery_labels_and_where_one_is(page: Any) -> None:
    page.goto("/map/0?hide=2")
    page.wait_for_selector(".leaflet-tile-loaded")
    until(page, "document.querySelectorAll('.labels .leaflet-tile-loaded').length > 0")
    until(page, "document.querySelector('#place').textContent.includes('column')")
    assert not page.is_checked("#legend input[data-id='2']") and page.is_checked("#legend input[data-id='1']")
    page.uncheck("#legend input[data-id='1']")
    page.evaluate("window.reviewMap.setView([40, 50], 2, {animate: false})")
    until(page, "location.hash === '#50/40/2' && location.search === '?hide=2,1'")
    page.reload()
    until(page, "window.reviewMap && window.reviewMap.getZoom() === 2")
    page.check("#grid")
    page.wait_for_selector("path.leaflet-interactive")
    page.keyboard.press("]")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_a_phone_wide_window(chromium: Any, site: str, scheme: str) -> None:
    context = chromium.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme, base_url=site)
    opened = context.new_page()
    for address in ("/classes", "/scenes", "/map/0", "/queue", "/journal", "/nothing"):
        opened.goto(address)
        opened.wait_for_load_state("networkidle")
        assert opened.evaluate(CONTRAST) == [], address
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
        unnamed = "[...document.querySelectorAll('button, a, input, select')].filter((e) => e.checkVisibility() && !(e.labels?.length || e.ariaLabel || e.textContent.trim() || e.querySelector('img[alt]')?.alt)).map((e) => e.outerHTML)"
        assert opened.evaluate(unnamed) == [], address
    context.close()
