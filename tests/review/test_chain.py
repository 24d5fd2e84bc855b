"""The whole work of a person, in one go: label, judge, review in Chromium, export; what the file says is what was done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

from terralabel.recipes.quality.recipe import quality_score  # noqa: E402
from terralabel.recipes.run import Run, export_run, open_run  # noqa: E402
from tests.review.test_serving import served  # noqa: E402

expect = playwright.expect


@pytest.fixture
def opened() -> Iterator[Any]:
    """Chromium with a page in it; nothing may go wrong in it."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
        page.set_default_timeout(15000)
        expect.set_options(timeout=15000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        browser.close()
    assert not problems


def versions(page: Any, count: int) -> None:
    """Wait until the page shows so many changes."""
    expect(page.locator("html")).to_have_attribute("data-version", str(count))
    expect(page.locator("html")).not_to_have_attribute("data-loading", "yes")


def labels_of(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            found[path.stem] = file.read(1)
    return found


def objects_of(run: Run) -> dict[str, tuple[np.ndarray, dict[int, int]]]:
    """Scene -> (ids of the objects that its pixels show, the cluster of each id), whatever the classes are."""
    found = {}
    for scene in run.scenes:
        ids = np.zeros((scene.height, scene.width), np.int64)
        for window, part in run.instances(scene.key):
            ids[window.slices()] = part
        cluster = {int(i): int(c) for b in run.objects(scene.key) for i, c in zip(b.id, b.cluster_id, strict=True)}
        found[scene.stem] = ids, cluster
    return found


def name_classes(page: Any) -> None:
    """Ten changes: two names, two merges, a split, a drop that is undone, and another drop."""
    page.goto(f"{page.base}classes?sort=id")
    page.fill("#class-1 input.name", "water")
    page.keyboard.press("Enter")
    versions(page, 1)
    page.drag_and_drop("#class-4 .facts", "#class-1 .facts")
    versions(page, 2)
    for card in ("#class-2", "#class-3"):
        page.focus(card)
        page.keyboard.press("x")
    page.keyboard.press("m")
    versions(page, 3)
    page.focus("#class-2")
    page.keyboard.press("n")
    page.keyboard.type("field")
    page.keyboard.press("Enter")
    versions(page, 4)
    page.click("#class-0 .split")
    page.click("#split-go")
    versions(page, 5)
    page.focus("#class-0")
    page.keyboard.press("d")
    versions(page, 6)
    page.keyboard.press("u")
    versions(page, 7)
    page.focus("#class-5")
    page.keyboard.press("d")
    versions(page, 8)


def work_queue(page: Any) -> dict[str, Any]:
    """A mask fixed by a click, a new class, a mask of it added, a label accepted, one rejected; returns the box that the new mask was clicked in."""
    page.goto(f"{page.base}queue?sort=gain")
    page.wait_for_selector("#stage path.edge")
    row = int(page.get_attribute(".unit[aria-current]", "data-row"))
    unit = page.evaluate("(row) => fetch(`/units/${row}.json`).then((a) => a.json())", row)
    page.select_option("#class", "2")
    page.click("#fix")
    page.click("#stage svg", position={"x": 130, "y": 130})
    page.wait_for_selector("#stage path.fresh")
    mask = page.evaluate("document.querySelector('#stage path.fresh').getAttribute('d')")
    page.click("#keep")
    versions(page, 9)
    page.wait_for_selector("#stage path.edge")
    page.fill("#new-name", "pool")
    page.click("#new-class button")
    versions(page, 10)
    expect(page.locator("#class option", has_text="pool")).to_have_count(1)
    page.wait_for_selector("#stage path.edge")
    page.select_option("#class", label="pool")
    page.keyboard.press("Tab")  # out of the list of classes: keys are the page's again
    page.click("#fix")
    page.click("#stage svg", position={"x": 60, "y": 60})
    page.wait_for_selector("#stage path.fresh")
    page.keyboard.press("+")
    versions(page, 11)
    page.keyboard.press("Escape")
    for count, button in ((12, "#accept"), (13, "#reject")):
        page.wait_for_selector("#stage path.edge")
        page.click(button)
        versions(page, count)
    return {**unit, "mask": mask}


def test_from_clusters_to_a_file_that_says_what_was_done(run: Run, opened: Any, tmp_path: Path) -> None:
    scored = quality_score(run.path, review="60%", pixels=False)
    assert scored.verdicts.counts["review"] >= 3
    before = objects_of(run)
    with served(run.path, "--author", "ada") as (process, url):
        opened.base = url
        name_classes(opened)
        fixed = work_queue(opened)
        opened.goto(f"{url}classes?sort=id")
        opened.reload()
        names = {
            card.get_attribute("data-id"): card.query_selector("input.name").input_value()
            for card in opened.query_selector_all(".card:not(.dropped)")
        }
        assert names == {"0": "cluster 0", "1": "water", "2": "field", "6": "cluster 0 / 2", "7": "pool"}
        assert opened.locator("#cluster-5.dropped").count() == 1
        opened.goto(f"{url}journal")
        assert opened.locator("tbody tr").count() == 13 and "ada" in opened.inner_text("tbody")
        process.kill()  # nothing was painted yet; the journal has it all
    export_run(open_run(run.path), ["geotiff"], tmp_path / "out")
    told = {entry["name"]: entry["id"] for entry in json.loads((tmp_path / "out" / "classes.json").read_text())["classes"]}
    assert told == {"cluster 0": 0, "water": 1, "field": 2, "cluster 0 / 2": 6, "pool": 7}
    _check(labels_of(tmp_path / "out"), before, open_run(run.path), fixed)


def _check(labels: dict[str, np.ndarray], before: Any, run: Run, fixed: dict[str, Any]) -> None:
    """Pixel by pixel: every object has the class its cluster was given, where no correction lies."""
    wanted = {1: {1}, 4: {1}, 2: {2}, 3: {2}, 0: {0, 6}, 5: {255}}
    for stem, (ids, cluster) in before.items():
        free = np.ones(ids.shape, bool)
        for item in run.corrections.of(next(s.key for s in run.scenes if s.stem == stem)).items:
            box = item.shown.box
            free[box.slices()] &= ~item.shown.crop(box)
        for number, old in cluster.items():
            there = (ids == number) & free
            assert set(np.unique(labels[stem][there]).tolist()) <= wanted[old], (stem, number, old)
    kinds = [item.kind for item in run.corrections.items]
    assert (
        kinds.count("shape") == 1
        and [i.class_id for i in run.corrections.items if i.kind == "drawn"] == [7]
        and "class" in kinds
        and "deleted" in kinds
    )
    drawn = next(item for item in run.corrections.items if item.kind == "shape")
    shown = drawn.shown.crop(drawn.shown.box)
    assert drawn.class_id == 2 and drawn.author == "ada" and fixed["mask"].startswith("M") and shown.any()
    painted = labels[next(s.stem for s in run.scenes if s.key == drawn.scene)][drawn.shown.box.slices()]
    assert (painted[shown] == 2).all()
