"""Folders of label rasters as runs: objects are the connected parts of classes, and everything works on them as on any run."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.grid import Window
from terralabel.core.quality import Signals, Units, Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.radiometry import fit_radiometry
from terralabel.recipes.detected_run import open_any
from terralabel.recipes.labels_run import LabelsRun, write_labels_run
from terralabel.recipes.quality.store import label_hashes, load_signals, save_verdicts
from terralabel.recipes.run import export_run, open_run, require_finished
from terralabel.runs.folder import RunFolder

CLASSES = Classes((ClassEntry(0, "background", "#000000"), ClassEntry(1, "roof", "#ff0000"), ClassEntry(2, "road", "#00ff00")))


@pytest.fixture
def run(tmp_path: Path) -> LabelsRun:
    """Two scenes of 60 x 40: two roofs that touch at a corner (one object), one apart, a road; and background only."""
    scenes = []
    for key in ("a", "b"):
        label = np.zeros((40, 60), dtype=np.uint8)
        if key == "a":
            label[5:10, 5:10] = label[10:15, 10:15] = label[25:30, 40:50] = 1
            label[35:37] = 2
        image = tmp_path / f"{key}.png"
        cv2.imwrite(str(image), np.random.default_rng(1).integers(0, 255, (40, 60, 3)).astype(np.uint8))
        scenes.append(Scene(key, str(image), key, 60, 40, sha256=key))
        write_label_raster(tmp_path / "run" / "labels" / f"{key}.tif", scenes[-1], CLASSES, [(Window(0, 0, 60, 40), label)])
    return write_labels_run(
        RunFolder(tmp_path / "run"),
        made_by="elnet 1",
        scenes=scenes,
        classes=CLASSES,
        settings={"views": 4},
        radiometry=fit_radiometry([scene.source for scene in scenes]).radiometry,
        background=0,
    )


def test_objects_are_connected_parts_and_the_background_is_none(run: LabelsRun) -> None:
    assert run.object_count() == 3 and list(run.objects("b")) == []
    roofs, road = run.objects("a")
    assert roofs.id.tolist() == [1, 2] and road.id.tolist() == [3]
    assert roofs.area.tolist() == [50, 50] and roofs.bbox.tolist() == [[5, 5, 10, 10], [40, 25, 10, 5]]
    assert np.isnan(roofs.predicted_iou).all(), "nobody has judged them"
    ((window, shown),) = run.instances("a")
    assert window == Window(0, 0, 60, 40) and [int((shown == k).sum()) for k in range(4)] == [2400 - 220, 50, 50, 120]
    (tile,) = run.tiles("a")
    assert (tile.status, tile.masks) == ("ok", 3) and next(iter(run.tiles("b"))).masks == 0


def test_large_scenes_are_cut_along_windows(run: LabelsRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("terralabel.recipes.labels_run._SIDE", 32)
    again = LabelsRun(run.folder)
    assert sum(int(batch.area.sum()) for batch in again.objects("a")) == 220
    ids = np.concatenate([batch.id for batch in again.objects("a")])
    assert ids.tolist() == list(range(1, again.object_count() + 1))
    assert sum(int((shown > 0).sum()) for _, shown in again.instances("a")) == 220


def test_it_opens_and_tells_like_any_run(run: LabelsRun, tmp_path: Path) -> None:
    opened = open_any(run.path)
    assert isinstance(opened, LabelsRun) and opened.id == run.id and "labels by elnet 1" in opened.summary()
    assert json.loads(opened.status_json())["scenes"] == 2
    assert opened.read_rgb("a", Window(0, 0, 8, 8)).shape == (8, 8, 3)
    names = {path.name for path in export_run(opened, ["geopackage", "coco", "yolo", "mmseg", "geotiff"], tmp_path / "out")}
    assert {"labels.gpkg", "instances.json", "a.tif"} <= names
    with pytest.raises(RunError, match="holds finished labels"):
        open_run(run.path)


def test_an_unfinished_one_is_told_by_what_began_it(run: LabelsRun) -> None:
    manifest = json.loads(run.folder.manifest_path.read_text())
    run.folder.write_manifest({**manifest, "finished": False})
    with pytest.raises(RunError, match="run the same command that began it to go on"):
        require_finished(open_any(run.path), "export")


def test_objects_take_the_quality_of_their_verdict(run: LabelsRun) -> None:
    window = np.array([[0, 0, 60, 40]] * 2, dtype=np.int64)
    units = Units.of_rows([(1, 0, (5, 5, 45, 25), 100), (1, 2, (40, 25, 10, 5), 50)])
    verdicts = Verdicts(("a", "a"), window, units, np.array([0.4, 0.9], np.float32), ("reject", "accept"), ("", ""))
    signals = Signals(("fraction",), np.array([[0.1], [np.nan]], np.float32), units)
    hashes = label_hashes({"a": run.label_path("a")})
    first = save_verdicts(run.folder, verdicts, {"labels": hashes}, signals)
    assert save_verdicts(run.folder, verdicts, {"labels": hashes}, signals) == first and first.is_file()
    judged = open_any(run.path)
    roofs, road = judged.objects("a")
    assert roofs.predicted_iou.tolist() == pytest.approx([0.4, 0.9]) and np.isnan(road.predicted_iou).all()
    assert judged.verdicts.counts == {"accept": 1, "review": 0, "reject": 1} and judged.judged.stale == ()
    _, kept, notes = load_signals(run.folder)
    assert np.array_equal(kept.values, signals.values, equal_nan=True) and notes["labels"] == hashes
