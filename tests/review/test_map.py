from __future__ import annotations

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

from terralabel.core.scene import Scene
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.pictures import levels, tile_window
from terralabel.review.security import House


@pytest.fixture
def page(desk: Desk) -> TestClient:
    return TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")


def decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("width, height, top", [(1, 1, 0), (256, 256, 0), (257, 10, 1), (100, 513, 2), (200_000, 3, 10)])
def test_tiles_of_every_zoom_cover_a_scene_once(width: int, height: int, top: int) -> None:
    scene = Scene("a", "a.tif", "a", width, height)
    assert levels(scene) == top
    for z in (0, top // 2, top):
        count, area = 1 << z, 0
        if count > 64:
            continue
        windows = [tile_window(scene, z, x, y) for x in range(count) for y in range(count)]
        area = sum(w.area for w in windows if w)
        assert area == width * height
    assert tile_window(scene, top + 1, 0, 0) is None and tile_window(scene, -1, 0, 0) is None
    assert tile_window(scene, top, 1 << 40, 0) is None


def test_label_tiles_show_the_classes_of_now(page: TestClient, desk: Desk) -> None:
    tile = "/tiles/0/labels/0/0/0.png"
    before = decoded(page.get(tile).content)
    assert before.shape == (256, 256, 4) and not before[160:].any() and before[:160, :160, 3].any()
    page.post("/api/classes", json={"action": "color", "classes": [2], "color": "#102030", "seen": 0})
    changed = decoded(page.get(tile).content)
    assert (changed == [0x30, 0x20, 0x10, 255]).all(axis=-1).any()
    hidden = decoded(page.get(tile, params={"hide": "2"}).content)
    assert not (hidden == [0x30, 0x20, 0x10, 255]).all(axis=-1).any()
    page.post("/api/classes", json={"action": "merge", "classes": [1, 2], "seen": 1})
    merged = decoded(page.get(tile).content)
    assert not (merged == [0x30, 0x20, 0x10, 255]).all(axis=-1).any()
    assert desk.now().pending == 2, "nothing was painted for that"


def test_imagery_scenes_and_what_is_under_the_cursor(page: TestClient, desk: Desk) -> None:
    image = decoded(page.get("/tiles/0/image/0/0/0.jpg").content)
    assert image.shape == (256, 256, 3) and image[:160, :160].std() > 5
    assert decoded(page.get("/thumbs/1.jpg").content).shape == (160, 160, 3)
    told = page.get("/scenes.json").json()
    assert [row["index"] for row in told["scenes"]] == [0, 1] and told["pages"] == 1
    assert page.get("/scenes.json", params={"q": "scene_2"}).json()["count"] == 1
    assert page.get("/scenes.json", params={"only": "failed"}).json()["count"] == 0
    about = page.get("/map/0.json").json()
    assert about["levels"] == 0 and len(about["classes"]) == 6 and sum(c["share"] for c in about["classes"]) == pytest.approx(1)
    here = page.get("/at/0.json", params={"x": 80.5, "y": 80.5}).json()
    assert here["class"]["id"] in range(6) and (here["x"], here["y"]) == (80, 80)
    georeference = desk.run.scenes[0].georeference
    if georeference.is_placed:
        assert here["map"] == pytest.approx(georeference.to_map(np.array([[80.5, 80.5]]))[0].tolist())
    assert page.get("/at/0.json", params={"x": -5, "y": 1e8}).json()["class"] is None
    grid = page.get("/grid/0.json").json()["tiles"]
    assert sum(t["width"] * t["height"] for t in grid) == 160 * 160 and grid[0]["status"] == "ok"
    for address in ("/scenes", "/map/0"):
        assert "scene_1" in page.get(address).text
    for address in (
        "/map/9",
        "/map/9.json",
        "/tiles/9/image/0/0/0.jpg",
        "/tiles/0/image/1/0/0.jpg",
        "/tiles/0/labels/0/5/5.png",
        "/thumbs/2.jpg",
    ):
        assert page.get(address).status_code == 404


def test_a_split_says_that_the_map_must_be_painted(page: TestClient) -> None:
    assert page.get("/map/0.json").json()["mixed"] == []
    page.post("/api/classes", json={"action": "split", "clusters": [0], "seen": 0})
    page.post("/api/classes", json={"action": "merge", "classes": [0, 1], "seen": 1})
    assert page.get("/map/0.json").json()["mixed"] == []  # the files still know one cluster 0, all of it in one class
    assert page.get("/classes.json").json()["version"] == 2
