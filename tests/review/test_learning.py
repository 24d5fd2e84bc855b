"""Active learning, the whole round: a model labels, the gate judges, a person corrects, and the next model learns from that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from starlette.testclient import TestClient

pytest.importorskip("torch", reason="needs the extra terralabel[torch]")

from terralabel.errors import RunError
from terralabel.recipes.annotate.apply import annotate_apply
from terralabel.recipes.annotate.fit import annotate_fit
from terralabel.recipes.curate import change_clusters
from terralabel.recipes.detected_run import open_any
from terralabel.recipes.quality.recipe import quality_score
from terralabel.review.app import create_app
from terralabel.review.desk import Desk
from terralabel.review.security import House
from tests.recipes.annotating import TINY, write

SIZE, BRIGHT, DARK = 72, (20, 20), (50, 48)
FEW = {**TINY, "folds": 0, "steps": 40}


def _disc(at: tuple[int, int]) -> np.ndarray:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return (rows - at[0]) ** 2 + (columns - at[1]) ** 2 < 9**2


def _moved(at: tuple[int, int], k: int) -> tuple[int, int]:
    return at[0] + 2 * (k % 3), at[1] + 3 * (k % 2)


def paint(folder: Path, scenes: int) -> Path:
    """Pictures with a bright and a dark disc; labels of some, in which only the bright one is class 1."""
    for k in range(scenes):
        picture = np.full((SIZE, SIZE), 110.0)
        picture[_disc(_moved(BRIGHT, k))], picture[_disc(_moved(DARK, k))] = 200, 30
        noisy = picture + np.random.default_rng(k).normal(0, 6, (3, SIZE, SIZE))
        write(folder / "images" / f"scene_{k}.tif", np.clip(noisy, 0, 255).astype(np.uint8), east=500000.0 + 100 * k)
        if k < 4:
            write(folder / "labels" / f"scene_{k}.tif", _disc(_moved(BRIGHT, k)).astype(np.uint8), east=500000.0 + 100 * k)
    return folder


def share(run: Path, scene: int, at: tuple[int, int]) -> float:
    """How much of a disc has class 1."""
    with rasterio.open(run / "labels" / f"scene_{scene}.tif") as file:
        return float((file.read(1)[_disc(_moved(at, scene))] == 1).mean())


@pytest.mark.slow
def test_what_a_person_corrected_is_learned_from(tmp_path: Path) -> None:
    folder = paint(tmp_path, scenes=6)
    annotate_fit(folder / "images", folder / "model", labels=folder / "labels", **FEW)
    run = annotate_apply(folder / "model", [folder / "images"], folder / "run")
    assert share(run.path, 5, BRIGHT) > 0.7 and share(run.path, 5, DARK) < 0.2
    with pytest.raises(RunError, match="quality score"):
        annotate_fit(folder / "images", folder / "again", labels=_unjudged(run.path, folder / "plain"), **FEW)
    change_clusters(run, "name", ["1", "slick"])
    quality_score(run.path, review="100%", units="object", pixels=False)
    desk = Desk(open_any(run.path), author="ada")
    page = TestClient(create_app(desk, House("127.0.0.1", 8765)), base_url="http://127.0.0.1:8765")
    _say_what_is_meant(page)
    desk.close()
    annotate_fit(folder / "images", folder / "again", labels=run.path, **FEW)
    for k in range(5):
        with rasterio.open(folder / "again" / "sure" / f"scene_{k}.tif") as file:
            learned = file.read(1)
        assert (learned[_disc(_moved(BRIGHT, k))] == 255).mean() > 0.7 and (learned[_disc(_moved(DARK, k))] == 1).mean() > 0.7
    fitted = json.loads((folder / "again" / "sure" / "classes.json").read_text())
    assert [(c["id"], c["name"]) for c in fitted["classes"]] == [(entry.id, entry.name) for entry in open_any(run.path).classes]
    second = annotate_apply(folder / "again", [folder / "images"], folder / "second")
    assert share(second.path, 5, DARK) > 0.7 and second.classes[1].name == open_any(run.path).classes[1].name == "slick"


def _say_what_is_meant(page: TestClient) -> None:
    """In all scenes but the last, the first label becomes the dark disc; every other one is rejected."""
    seen, done = 0, set()
    for unit in page.get("/queue.json").json()["units"]:
        k = int(unit["name"].rpartition("_")[2])
        body = {"row": unit["row"], "decision": "reject", "seen": seen}
        if k == 5:
            continue
        if k not in done and unit["class_id"] is not None:
            y, x = _moved(DARK, k)
            mask = page.post("/api/prompt", json={"row": unit["row"], "box": [x - 10, y - 10, x + 10, y + 10]}).json()["mask"]
            body |= {"decision": "fix", "mask": mask, "class_id": 1}
            done.add(k)
        assert page.post("/api/verdict", json=body).status_code == 200
        seen += 1
    assert done == set(range(5))


def _unjudged(run: Path, out: Path) -> Path:
    """A copy of a run without its verdicts."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "parts" / "quality")
    return out
