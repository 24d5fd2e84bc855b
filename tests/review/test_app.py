from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House


@pytest.fixture
def page(desk: Desk) -> TestClient:
    client = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765", follow_redirects=False)
    client.headers["accept"] = "text/html"
    return client


def test_the_classes_page_and_its_json_say_the_same(page: TestClient) -> None:
    html = page.get("/classes").text
    told = page.get("/classes.json").json()
    assert [card["id"] for card in told["cards"]] and told["count"] == 6 and told["version"] == 0
    for card in told["cards"]:
        assert f'id="class-{card["id"]}"' in html and f'value="{card["name"]}"' in html
    shares = [card["share"] for card in told["cards"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    for sort in ("certainty", "separability", "name", "id", "nonsense"):
        assert page.get("/classes.json", params={"sort": sort}).status_code == 200
    assert [c["id"] for c in page.get("/classes.json", params={"q": "cluster 3"}).json()["cards"]] == [3]
    assert page.get("/").headers["location"] == "/classes"


def test_crops_are_pictures_and_cached(page: TestClient, desk: Desk) -> None:
    first = page.get("/crops/0/typical/0.jpg")
    assert first.status_code == 200 and first.content[:3] == b"\xff\xd8\xff"
    assert list((desk.run.path / "review" / "cache" / "crops").rglob("*.jpg"))
    assert page.get("/crops/0/typical/0.jpg").content == first.content
    for wrong in ("/crops/0/typical/999.jpg", "/crops/99/typical/0.jpg", "/crops/0/other/0.jpg", "/crops/-1/typical/0.jpg"):
        assert page.get(wrong).status_code == 404


def test_changes_come_back_with_the_new_version(page: TestClient) -> None:
    done = page.post("/api/classes", json={"action": "name", "classes": [2], "name": "water", "seen": 0})
    assert done.status_code == 200 and done.json()["version"] == 1 and "water" in done.json()["undo"]
    assert "water" in page.get("/classes").text
    stale = page.post("/api/classes", json={"action": "name", "classes": [2], "name": "lake", "seen": 0})
    assert stale.status_code == 409 and stale.json()["changes"][0]["version"] == 1
    assert page.post("/api/undo", json={"seen": 1}).json()["redo"]
    assert page.post("/api/redo", json={"seen": 2}).json()["version"] == 3
    rows = page.get("/journal.json").json()["rows"]
    assert [row["kind"] for row in rows] == ["redo", "undo", "do"] and rows[0]["who"] == "ada"
    assert "redo: " in page.get("/journal").text
    assert page.post("/api/write", json={}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "name"},
        {"action": "explode", "seen": 0},
        {"action": "name", "classes": [10**9], "name": "x", "seen": 0},
        {"action": "name", "classes": [2], "name": "", "seen": 0},
        {"action": "name", "classes": [2], "name": "\ud800", "seen": 0},
        {"action": "name", "classes": [2], "name": "x" * 999, "seen": 0},
        {"action": "name", "classes": ["2"], "name": "x", "seen": 0},
        {"action": "name", "classes": [2], "name": "x", "seen": -1},
        {"action": "name", "classes": [2], "name": "x", "seen": 10**30},
        {"action": "name", "classes": [2], "name": "x", "seen": 0, "more": 1},
        {"action": "merge", "classes": [2, 2], "seen": 0},
        {"action": "split", "clusters": [0], "parts": 1, "seen": 0},
        {"action": "split", "clusters": [10**12], "seen": 0},
        {"action": "color", "classes": [2], "color": "url(x)", "seen": 0},
        [1, 2],
        None,
    ],
)
def test_bad_bodies_are_one_line(page: TestClient, desk: Desk, body: object) -> None:
    answer = page.post("/api/classes", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == 400 and len(answer.json()["error"].splitlines()) == 1
    assert desk.now().version == 0


def test_an_unknown_page_is_a_page(page: TestClient) -> None:
    answer = page.get("/nothing")
    assert answer.status_code == 404 and "There is no such page" in answer.text and "<nav" in answer.text
    assert page.get("/nothing.json").json() == {"error": "There is no such page."}
