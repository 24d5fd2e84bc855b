"""How long the pages of `terralabel review` take, and what the server holds, on a run of many scenes and judged labels.

    python benchmarks/review_scale.py [--scenes N] [--units N] [--clusters N] [--tiles N] [--real] [--masks tree|nano] [--size N] [--browser]
        [--keep DIR]

The run is of painted scenes: a few are labelled, and the lists are filled up with copies (as many scenes and judged labels as
asked for), so that only the page is measured; with --real all scenes are labelled and nothing is copied. CPU seconds of
the server, the first request and the median of five more. --browser: the same pages in headless Chromium through Playwright, wall time from
the start of a navigation to the first paint of content and to the end of the document, and from a click to its mask, with the CPU time of the server
beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvicorn
from starlette.testclient import TestClient

import terralabel as tl
from terralabel.core.classes import Classes
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.imagery.painter import write_demo
from terralabel.recipes.quality.store import save_verdicts
from terralabel.recipes.survey import Survey, survey_clusters
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House

BASE = "http://127.0.0.1:8765"
PAGES = ("/classes", "/classes?page=2", "/scenes", "/scenes?page=3", "/map/0", "/queue", "/queue?sort=gain&page=50")
#: What the page tells of its own loading, ms since the navigation began.
TIMES = """() => {
  const [about] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [paint?.startTime ?? NaN, about.domContentLoadedEventEnd, about.responseEnd - about.requestStart];
}"""
#: Notes when the pointer was let go and when the mask was there.
WATCH = """() => {
  window.noted = {};
  addEventListener("pointerup", () => { window.noted.up = performance.now(); }, true);
  new MutationObserver(() => { if (document.querySelector("#stage path.fresh")) window.noted.shown ??= performance.now(); })
    .observe(document.querySelector("#stage"), { childList: true, subtree: true });
}"""


def judge(run: tl.Run, count: int, size: int, classes: int) -> None:
    """Give the run `count` judged labels, 60 px each, spread over its scenes; seven of ten for review."""
    dice = np.random.default_rng(0)
    scenes = run.scenes
    at = dice.integers(0, len(scenes), count)
    corner = dice.integers(0, size - 60, (count, 2))
    class_ids = dice.integers(0, min(classes, 12), count).astype(np.int32)
    box = np.concatenate([corner, np.full((count, 2), 60)], axis=1).astype(np.int64)
    units = Units(class_ids, np.zeros(count, np.int32), box, np.full(count, 3600, np.int64))
    quality = dice.uniform(0.2, 0.95, count).astype(np.float32)
    decision = tuple("review" if q < 0.7 else "accept" for q in quality.tolist())
    window = np.tile(np.array([[0, 0, size, size]], dtype=np.int64), (count, 1))
    keys = tuple(scenes[i].key for i in at.tolist())
    signals = Signals(("area",), quality[:, None], units)
    save_verdicts(run.folder, Verdicts(keys, window, units, quality, decision, ("the views disagree",) * count), {}, signals)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(the first, the median of five more) in CPU seconds."""
    spent = []
    for _ in range(6):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return spent[0], statistics.median(spent[1:])


def crowded(run: tl.Run, scenes: int, clusters: int) -> Survey:
    """Fill up the lists of a run with copies of its scenes and clusters; returns the survey."""
    survey = survey_clusters(run)
    real = run.scenes
    run.scenes = tuple(
        replace(real[i % len(real)], key=real[i % len(real)].key if i < len(real) else f"copy_{i}") for i in range(scenes)
    )
    run.folder.classes_path.write_text(Classes.of_clusters(clusters).to_json(), encoding="utf-8")
    cards = {k: replace(survey.cards[k % len(survey.cards)], cluster=k) for k in range(clusters)}
    return Survey(cards, survey.touching)


def ask(page: TestClient, row: int) -> None:
    """CPU time of the pages' answers and of a click."""
    print("CPU ms of the server: the first request, the median of later ones")
    for address in (*PAGES, "/classes.json", "/units/7.json", "/units/7.jpg", "/state.json"):
        first, later = seconds(lambda a=address: page.get(a).raise_for_status())  # type: ignore[misc]
        print(f"  {address:<28} {1000 * first:8.0f} {1000 * later:8.0f}")
    x, y, width, height = page.get(f"/units/{row}.json").json()["box"]
    click = {"row": row, "points": [[x + width / 2, y + height / 2, 1]]}
    first, later = seconds(lambda: page.post("/api/prompt", json=click))
    print(f"  {'click to mask':<28} {1000 * first:8.0f} {1000 * later:8.0f}")


def fill(page: TestClient, tiles: int, scenes: int) -> None:
    """Memory before and after many pictures."""
    before = psutil.Process(os.getpid()).memory_info().rss
    for i in range(tiles):
        page.get(f"/tiles/{i % scenes}/image/0/0/0.jpg")
        page.get(f"/tiles/{i % scenes}/labels/0/0/0.png?hide={i}")
        page.get(f"/crops/{i % 12}/typical/{i % 5}.jpg")
    after = psutil.Process(os.getpid()).memory_info().rss
    print(f"memory: {before / 1e6:,.0f} MB, after {3 * tiles:,} pictures {after / 1e6:,.0f} MB")


@contextmanager
def served(desk: Desk) -> Iterator[str]:
    """The address of a server over a desk, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        house = House("127.0.0.1", listening.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(create_app(desk, house), log_level="error", access_log=False, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield house.url.rstrip("/")
        server.should_exit = True
        thread.join(10)


def browse(url: str) -> None:
    """Wall times of the pages, and of a click, in Chromium; every page three times, each time without a cache."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        print(
            f"in Chromium, ms, least and median of three: first content, document ready, answer; load {os.getloadavg()[0]:.1f}"
        )
        for address in PAGES:
            told = []
            for _ in range(3):
                page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
                page.goto(url + address, wait_until="load")
                page.wait_for_timeout(300)
                told.append(page.evaluate(TIMES))
                page.context.close()
            shown = "  ".join(f"{min(c):6.0f} {statistics.median(c):6.0f}" for c in zip(*told, strict=True))
            print(f"  {address:<28} {shown}")
        for label, wait in (("at once", 0), ("after 3 s of looking", 3000)):
            print(
                f"  click to mask, {label}: "
                + ", ".join(f"{ms:.0f} ms ({cpu:.0f} ms CPU)" for ms, cpu in clicked(browser, url, wait))
            )
        browser.close()


def clicked(browser: Any, url: str, wait: int) -> list[tuple[float, float]]:
    """(ms from a click to its mask, CPU ms of this process meanwhile) of four labels that nobody looked at before, and of a second click."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{url}/queue?page={2 if wait else 1}")
    found = []
    for n in range(5):
        page.wait_for_selector("#stage image")
        page.wait_for_timeout(wait)
        if n < 4:
            page.keyboard.press("f")
        page.evaluate(WATCH)
        page.evaluate("document.querySelector('#stage path.fresh')?.remove()")
        box = page.locator("#stage svg").bounding_box()
        began = time.process_time()
        page.mouse.click(box["x"] + box["width"] / 2 + 3 * n, box["y"] + box["height"] / 2)
        while not page.evaluate("window.noted.shown"):
            page.wait_for_timeout(20)
        found.append((page.evaluate("window.noted.shown - window.noted.up"), 1000 * (time.process_time() - began)))
        if n < 3:
            page.keyboard.press("Escape")
            page.keyboard.press("j")
            page.wait_for_timeout(100)
    page.context.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=5000)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--clusters", type=int, default=48)
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--size", type=int, default=512, help="Side of a scene, pixels.")
    parser.add_argument("--masks", default="tree")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--keep", type=Path, help="Folder of the run, used again where it is there.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        if not (folder / "images").is_dir():
            write_demo(folder, seed=3, scenes=args.scenes if args.real else 2, size=args.size)
        clusters = args.clusters if args.real else 12
        run = tl.label(folder / "images", folder / "run", clusters=str(clusters), masks=args.masks, workers=0)
        judge(run, args.units, args.size, len(run.classes))
        began = time.process_time()
        survey = survey_clusters(run)
        spent = time.process_time() - began
        print(f"survey: {1e6 * spent / run.object_count():.0f} us CPU a mask ({run.object_count():,} masks)")
        real = len(run.scenes)
        survey = survey if args.real else crowded(run, args.scenes, args.clusters)
        desk = Desk(run)
        desk.survey = survey
        print(f"{len(run.scenes):,} scenes, {args.units:,} judged labels, {len(run.classes)} clusters, masks {args.masks}")
        page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url=BASE)
        row = page.get("/queue.json").json()["units"][0]["row"]
        ask(page, row)
        fill(page, args.tiles, real)
        if args.browser:
            with served(desk) as url:
                browse(url)
            print(f"memory: {psutil.Process(os.getpid()).memory_info().rss / 1e6:,.0f} MB")
        desk.close()


if __name__ == "__main__":
    main()
