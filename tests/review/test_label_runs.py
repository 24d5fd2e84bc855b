"""Labels without clusters, as `annotate apply` and `quality score` leave them: named, looked at, corrected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from starlette.testclient import TestClient

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.grid import Window
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.export.rasters import write_label_raster
from terralabel.recipes.ingest import load_radiometry
from terralabel.recipes.labels_run import LabelsRun, write_labels_run
from terralabel.recipes.quality.store import label_hashes, save_verdicts
from terralabel.recipes.reviewed import settled
from terralabel.recipes.run import open_run
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House
from terralabel.runs.folder import RunFolder


@pytest.fixture
def desk(reviewed: Path, tmp_path: Path) -> Iterator[Desk]:
    came_from = open_run(reviewed / "run")
    scene, folder = came_from.scenes[0], RunFolder(tmp_path / "labels-run")
    classes = Classes((ClassEntry(0, "ground", "#888888"), ClassEntry(1, "water", "#0000ff")))
    labels = np.zeros((160, 160), np.uint8)
    labels[20:60, 30:90] = 1
    write_label_raster(folder.labels_path / f"{scene.key}.tif", scene, classes, [(Window(0, 0, 160, 160), labels)])
    radiometry = load_radiometry(came_from.folder)
    run = write_labels_run(
        folder, made_by="test 1", scenes=[scene], classes=classes, settings={}, radiometry=radiometry, background=0
    )
    units = Units.of_rows([(1, 1, (30, 20, 60, 40), 2400), (-1, 0, (0, 0, 160, 160), 0)])
    quality = np.array([0.4, np.nan], np.float32)
    windows = np.tile(np.array([[0, 0, 160, 160]], dtype=np.int64), (2, 1))
    verdicts = Verdicts((scene.key,) * 2, windows, units, quality, ("review",) * 2, ("ragged", ""))
    notes = {"labels": label_hashes({scene.key: run.label_path(scene.key)})}
    save_verdicts(folder, verdicts, notes, Signals(("area",), quality[:, None], units))
    made = Desk(run, author="ada")
    yield made
    made.close()


@pytest.fixture
def page(desk: Desk) -> TestClient:
    return TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765", follow_redirects=False)


def test_every_page_opens(page: TestClient) -> None:
    for address in (
        "/classes",
        "/scenes",
        "/map/0",
        "/queue",
        "/journal",
        "/classes.json",
        "/map/0.json",
        "/grid/0.json",
        "/at/0.json?x=40&y=30",
    ):
        assert page.get(address, headers={"accept": "text/html"}).status_code == 200, address
    assert page.get("/at/0.json?x=40&y=30").json()["class"]["name"] == "water"
    assert [unit["quality"] for unit in page.get("/queue.json").json()["units"]] == [None, 0.4]
    assert page.get("/units/1.json").json()["outline"] == ""


def test_classes_are_named_and_coloured_only(page: TestClient, desk: Desk) -> None:
    change = {"action": "name", "classes": [1], "name": "lake", "seen": 0}
    assert page.post("/api/classes", json=change).status_code == 200
    refused = page.post("/api/classes", json={"action": "merge", "classes": [0, 1], "seen": 1})
    assert refused.status_code == 400 and "without clusters" in refused.json()["error"]
    settled(desk.run)
    assert desk.run.classes[1].name == "lake"


def test_what_a_person_says_is_in_the_rasters_and_in_the_verdicts(page: TestClient, desk: Desk) -> None:
    assert isinstance(desk.run, LabelsRun)
    found = page.post("/api/prompt", json={"row": 0, "box": [30, 20, 95, 62]}).json()
    done = page.post("/api/verdict", json={"row": 0, "decision": "fix", "mask": found["mask"], "class_id": 1, "seen": 0})
    assert done.status_code == 200
    assert page.post("/api/verdict", json={"row": 1, "decision": "accept", "seen": 1}).status_code == 200
    settled(desk.run)
    again = LabelsRun(desk.run.folder)
    with rasterio.open(again.label_path(again.scenes[0].key)) as labels:
        assert (labels.read(1) == 1).sum() == found["area"]
    assert again.verdicts is not None and again.verdicts.decision == ("accept", "accept")
    assert again.judged is not None and again.judged.stale == ()
