from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from starlette.testclient import TestClient

from terralabel.errors import RunError
from terralabel.recipes.quality.recipe import quality_score
from terralabel.recipes.quality.store import load_judged
from terralabel.recipes.reviewed import settled
from terralabel.recipes.run import Run, export_run, open_run
from terralabel.recipes.survey import survey_clusters
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.judged import JudgedLabels
from terralabel.review.queue import outline
from terralabel.review.security import House


@pytest.fixture
def place(judged: Run) -> Iterator[Desk]:
    desk = Desk(judged, author="ada")
    desk.survey = survey_clusters(judged)
    yield desk
    desk.close()


@pytest.fixture
def page(place: Desk) -> TestClient:
    return TestClient(create_app(place, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")


def labels(run: Run, key: str) -> np.ndarray:
    settled(run)
    with rasterio.open(run.label_path(key)) as file:
        return file.read(1)


def test_the_worst_come_first_and_progress_is_told(page: TestClient) -> None:
    told = page.get("/queue.json").json()
    qualities = [unit["quality"] for unit in told["units"]]
    assert qualities == sorted(qualities) and told["total"] == len(qualities) and told["decided"] == 0 and 0 < told["sure"] < 1
    gain = page.get("/queue.json", params={"sort": "gain"}).json()["units"]
    wrong = [(1 - unit["quality"]) * unit["area"] for unit in gain]
    assert wrong == sorted(wrong, reverse=True)
    first = told["units"][0]
    done = page.post("/api/verdict", json={"row": first["row"], "decision": "accept", "seen": 0}).json()
    assert done["decided"] == 1 and done["sure"] > told["sure"]
    rows = [unit["row"] for unit in page.get("/queue.json").json()["units"]]
    assert first["row"] not in rows
    assert first["row"] in [unit["row"] for unit in page.get("/queue.json", params={"decided": "true"}).json()["units"]]
    assert "1 of " in page.get("/queue").text


def test_what_is_shown_is_the_label(page: TestClient, place: Desk) -> None:
    row = page.get("/queue.json").json()["units"][0]["row"]
    unit = page.get(f"/units/{row}.json").json()
    x, y, width, height = unit["window"]
    image = cv2.imdecode(np.frombuffer(page.get(f"/units/{row}.jpg").content, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2] == (height, width)
    rings = [
        np.array([[float(v) for v in p.split()] for p in ring.split("L")]) for ring in unit["outline"].strip("MZ").split("ZM")
    ]
    drawn = np.zeros((height * 4, width * 4), np.uint8)
    cv2.fillPoly(drawn, [np.round(ring * 4).astype(np.int32) for ring in rings], 1)
    assert abs(drawn.sum() / 16 - unit["area"]) < 0.06 * unit["area"] + 8
    assert page.get("/units/999.json").status_code == page.get("/units/999.jpg").status_code == 404


def test_decisions_become_corrections_that_can_be_undone(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    labels_of = JudgedLabels(place)
    before = labels(place.run, "scene_1")
    units = [u for u in page.get("/queue.json").json()["units"] if u["name"] == "scene_1"]
    reject, other = units[0], units[1]
    there = {u["row"]: labels_of.verdicts.units.class_id[u["row"]] for u in units}  # type: ignore[union-attr]
    assert page.post("/api/verdict", json={"row": reject["row"], "decision": "reject", "seen": 0}).status_code == 200
    target = next(e.id for e in place.run.classes if e.id not in (reject["class_id"], other["class_id"]))
    body = {"row": other["row"], "decision": "class", "class_id": target, "seen": 1}
    assert page.post("/api/verdict", json=body).status_code == 200
    after = labels(place.run, "scene_1")
    assert (after[before == there[reject["row"]]] == 255).all() and (after[before == there[other["row"]]] == target).all()
    judged = load_judged(place.run.folder, {})
    assert (
        judged is not None
        and judged.verdicts.decision[reject["row"]] == "reject"
        and judged.verdicts.decision[other["row"]] == "accept"
    )
    for seen in (2, 3):
        assert page.post("/api/undo", json={"seen": seen}).status_code == 200
    assert np.array_equal(labels(place.run, "scene_1"), before)
    judged = load_judged(open_run(place.run.path).folder, {})
    assert judged is not None and judged.verdicts.decision[reject["row"]] == "review"


def test_a_mask_is_fixed_by_a_click(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    unit = next(u for u in page.get("/queue.json").json()["units"] if u["name"] == "scene_1")
    x, y, w, h = unit["box"]
    assert page.post("/api/prompt", json={"row": unit["row"]}).json()["mask"] == ""
    found = page.post("/api/prompt", json={"row": unit["row"], "points": [[x + w / 2, y + h / 2, 1]]}).json()
    assert found["mask"] and found["outline"].startswith("M") and found["area"] > 0 and 0 <= found["expected"] <= 1
    boxed = page.post("/api/prompt", json={"row": unit["row"], "box": [20, 20, 90, 80]}).json()
    assert boxed["mask"] != found["mask"]
    body = {"row": unit["row"], "decision": "fix", "mask": found["mask"], "class_id": unit["class_id"], "seen": 0}
    assert page.post("/api/verdict", json=body).status_code == 200
    shown = labels(place.run, "scene_1")
    assert (shown == unit["class_id"]).sum() >= found["area"] * 0.99 and shown[int(y + h / 2), int(x + w / 2)] == unit[
        "class_id"
    ]
    again = {**body, "seen": 0}
    assert page.post("/api/verdict", json=again).status_code == 409
    assert page.post("/api/verdict", json={**body, "seen": 1, "mask": "unknown"}).status_code == 400


@pytest.mark.parametrize(
    "prompt",
    [
        {"points": [[-500, 0, 1]]},
        {"points": [[1, 1, 2]]},
        {"box": [50, 50, 20, 20]},
        {"box": [0, 0, 1e7, 1e7]},
        {"points": [[1, 1, 1]] * 51},
    ],
)
def test_prompts_outside_are_refused(page: TestClient, prompt: dict[str, object]) -> None:
    assert page.post("/api/prompt", json={"row": 1, **prompt}).status_code == 400
    assert page.post("/api/prompt", json={"row": 10**9, "points": [[1, 1, 1]]}).status_code == 400


def test_without_verdicts_the_page_says_what_to_do(desk: Desk) -> None:
    page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")
    assert "terralabel quality score" in page.get("/queue").text
    assert page.get("/queue.json").json()["judged"] is False
    assert outline(None, desk.run.scenes[0]) == ""  # type: ignore[arg-type]


def test_what_is_sure_becomes_labels_to_learn_from(page: TestClient, place: Desk, tmp_path: Path) -> None:
    assert isinstance(place.run, Run)
    before = labels(place.run, "scene_1")
    units = [u for u in page.get("/queue.json").json()["units"] if u["name"] == "scene_1"]
    page.post("/api/verdict", json={"row": units[0]["row"], "decision": "accept", "seen": 0})
    again = open_run(place.run.path)
    export_run(again, ["sure"], tmp_path / "sure")
    with rasterio.open(tmp_path / "sure" / "scene_1.tif") as file:
        found = file.read(1)
    doubtful = np.isin(before, [u["class_id"] for u in units[1:]])
    assert (found[doubtful] == 255).all() and np.array_equal(found[~doubtful], before[~doubtful])
    assert (found == units[0]["class_id"]).any()


def test_judged_labels_follow_their_classes_when_these_merge_split_and_are_dropped(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    units = {u["row"]: u for u in page.get("/queue.json").json()["units"]}
    before = {row: page.get(f"/units/{row}.json").json() for row in units}
    ids = sorted({u["class_id"] for u in units.values()})
    merged, into, gone = ids[0], next(e.id for e in place.run.classes if e.id not in ids), ids[1]
    cluster = place.run.classes[ids[2]].clusters[0]
    for seen, change in enumerate(
        (
            {"action": "merge", "classes": [into, merged]},
            {"action": "drop", "classes": [gone]},
            {"action": "split", "clusters": [cluster], "parts": 2},
        )
    ):
        assert page.post("/api/classes", json={**change, "seen": seen}).status_code == 200
    assert len(labels(place.run, "scene_1"))  # painted: the rasters have the new classes
    after = {u["row"]: u for u in page.get("/queue.json").json()["units"]}
    assert {row for row in before if row not in after} == {row for row, u in units.items() if u["class_id"] == gone}
    for row, unit in after.items():
        was = units[row]["class_id"]
        assert unit["class_id"] == (into if was == merged else was)
        if was == ids[2]:  # all parts of what was split
            assert page.get(f"/units/{row}.json").json()["outline"] == before[row]["outline"]
    told = open_run(place.run.path).verdicts
    assert told is not None and gone not in told.units.class_id and merged not in told.units.class_id
    assert page.get("/queue.json", params={"of": into}).json()["units"] == [u for u in after.values() if u["class_id"] == into]


def test_what_is_doubtful_stays_out_of_what_is_sure_when_classes_merge(page: TestClient, place: Desk, tmp_path: Path) -> None:
    assert isinstance(place.run, Run)
    doubtful = page.get("/queue.json").json()["units"][0]
    before = labels(place.run, doubtful["name"])
    accepted = next(e.id for e in place.run.classes if e.id != doubtful["class_id"])
    body = {"action": "merge", "classes": [accepted, doubtful["class_id"]], "seen": 0}
    assert page.post("/api/classes", json=body).status_code == 200
    export_run(open_run(place.run.path), ["sure"], tmp_path / "sure")
    with rasterio.open(tmp_path / "sure" / f"{doubtful['name']}.tif") as file:
        assert (file.read(1)[before == doubtful["class_id"]] == 255).all()


def test_a_decision_leaves_alone_what_was_decided_of_another_label(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    units = [u for u in page.get("/queue.json").json()["units"] if u["name"] == "scene_1"]
    first, other = units[0], units[1]
    box = [min(first["box"][k], other["box"][k]) for k in (0, 1)]
    drawn = {"row": first["row"], "box": [*box, box[0] + 120, box[1] + 120]}
    mask = page.post("/api/prompt", json=drawn).json()["mask"]
    target = next(e.id for e in place.run.classes if e.id not in (first["class_id"], other["class_id"]))
    fix = {"row": first["row"], "decision": "fix", "mask": mask, "class_id": target, "seen": 0}
    assert page.post("/api/verdict", json=fix).status_code == 200
    there = labels(place.run, "scene_1") == target
    assert page.post("/api/verdict", json={"row": other["row"], "decision": "reject", "seen": 1}).status_code == 200
    assert ((labels(place.run, "scene_1") == target) == there).all()
    again = {
        "row": first["row"],
        "decision": "class",
        "class_id": other["class_id"],
        "seen": 2,
    }  # the new mask is the label now
    assert page.post("/api/verdict", json=again).status_code == 200
    fixed = next(c for c in open_run(place.run.path).corrections.items if c.kind == "shape")
    assert (
        labels(place.run, "scene_1")[fixed.whole.box.slices()][fixed.whole.crop(fixed.whole.box)] == other["class_id"]
    ).all()


def test_the_queue_and_the_scenes_can_be_narrowed(page: TestClient) -> None:
    everything = page.get("/queue.json").json()["units"]
    for name in ("scene_1", "scene_2"):
        assert page.get("/queue.json", params={"q": name}).json()["units"] == [u for u in everything if u["name"] == name]
    scenes = page.get("/scenes.json", params={"only": "review"}).json()["scenes"]
    assert {s["name"]: s["review"] for s in scenes} == {
        name: sum(u["name"] == name for u in everything) for name in {u["name"] for u in everything}
    }
    row = everything[0]["row"]
    assert page.post("/api/verdict", json={"row": row, "decision": "accept", "seen": 0}).status_code == 200
    left = {s["name"]: s["review"] for s in page.get("/scenes.json", params={"only": "all"}).json()["scenes"]}
    assert sum(left.values()) == len(everything) - 1
    assert all(u["class_id"] == 3 for u in page.get("/queue.json?of=3").json()["units"])


def test_labels_judged_anew_are_told_and_labels_judged_late_are_found(place: Desk, desk: Desk) -> None:
    late = JudgedLabels(desk)
    late.verdicts, late._parts = None, set()
    late.follow()
    assert late.verdicts is not None
    quality_score(place.run.path, review="50%", pixels=False, units="object")
    with pytest.raises(RunError, match="judged anew"):
        late.follow()


def test_a_mask_is_added_beside_a_label_that_stays_open(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    before = labels(place.run, "scene_1")
    unit = next(u for u in page.get("/queue.json").json()["units"] if u["name"] == "scene_1")
    x, y = unit["box"][:2]
    mask = page.post("/api/prompt", json={"row": unit["row"], "box": [x, y, x + 60, y + 60]}).json()["mask"]
    target = next(e.id for e in place.run.classes if e.id != unit["class_id"])
    body = {"row": unit["row"], "decision": "add", "mask": mask, "class_id": target, "seen": 0}
    assert page.post("/api/verdict", json=body).json()["decided"] == 0
    assert page.get("/queue.json").json()["units"][0]["row"] == unit["row"]
    after, (drawn,) = labels(place.run, "scene_1"), place.run.corrections.items
    assert (drawn.kind, drawn.class_id) == ("drawn", target)
    there = np.zeros_like(before, bool)
    there[drawn.whole.box.slices()] = drawn.whole.crop(drawn.whole.box)
    assert (after[there] == target).all() and np.array_equal(after[~there], before[~there])
    assert page.post("/api/undo", json={"seen": 1}).status_code == 200
    assert np.array_equal(labels(place.run, "scene_1"), before)


def test_a_class_without_clusters_is_made_for_what_is_drawn(page: TestClient, place: Desk) -> None:
    assert isinstance(place.run, Run)
    made = page.post("/api/classes", json={"action": "new", "name": "pool", "seen": 0})
    assert made.status_code == 200
    assert page.post("/api/classes", json={"action": "new", "name": "pool", "seen": 1}).status_code == 400
    unit = page.get("/queue.json").json()["units"][0]
    before = labels(place.run, unit["name"])
    (new,) = (e.id for e in place.now().classes if e.name == "pool")
    body = {"row": unit["row"], "decision": "class", "class_id": new, "seen": 1}
    assert page.post("/api/verdict", json=body).status_code == 200
    assert (labels(place.run, unit["name"])[before == unit["class_id"]] == new).all()
    assert "pool" in page.get("/classes").text and new in {e.id for e in open_run(place.run.path).classes}
