from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.clusters import align as class_maps
from terralabel.core.classes import Classes
from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.export.corrections import Correction, Corrections, load_corrections, record_of
from terralabel.export.rasters import write_label_raster
from terralabel.export.shapes import Shape
from terralabel.recipes.curate import change_clusters
from terralabel.recipes.label import label
from terralabel.recipes.labels_run import LabelsRun, write_labels_run
from terralabel.recipes.reviewed import class_effect, clusterer_of, journal_path, replayed_classes, settled
from terralabel.recipes.run import Run, export_run, open_run
from terralabel.runs.engine import InlineEngine
from terralabel.runs.folder import RunFolder
from terralabel.runs.journal import Journal


@pytest.fixture(autouse=True)
def _no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are painted in this process: starting workers takes longer than the work."""
    for module in ("terralabel.recipes.reviewed", "terralabel.recipes.curate"):
        monkeypatch.setattr(f"{module}.engine_for", lambda workers: InlineEngine())


def square(x: int, y: int, side: int) -> Shape:
    shape = Shape.of_runs(np.array([0, side * side]), Window(x, y, side, side))
    assert shape is not None
    return shape


def journal_of(run: Run | LabelsRun) -> Journal:
    return Journal(journal_path(run.folder))


def add_classes(run: Run, after: Classes, said: str) -> None:
    with journal_of(run) as journal:
        before = replayed_classes(run.classes, journal.entries(journal.settled), clusterer_of(run))
        what, back, keys = class_effect(before, after, clusterer_of(run), run.corrections)
        journal.append(what, back, keys=keys, said=said, seen=journal.version)


def add_correction(run: Run | LabelsRun, scene: str, class_id: int, shape: Shape, source: str) -> None:
    record = record_of(Correction(scene, class_id, shape, None, "drawn", "ada", "", source))
    with journal_of(run) as journal:
        what, back = {"corrections": {"add": [record]}}, {"corrections": {"remove": [source]}}
        journal.append(what, back, keys=["x"], said="drawn", seen=journal.version)


def undo(run: Run | LabelsRun) -> None:
    with journal_of(run) as journal:
        journal.undo(seen=journal.version)


def raster(run: Run | LabelsRun, key: str) -> np.ndarray:
    with rasterio.open(run.label_path(key)) as labels:
        return labels.read(1)


def test_export_shows_what_only_the_journal_has(run: Run, tmp_path: Path) -> None:
    before = raster(run, "scene_1")
    add_classes(run, class_maps.name(run.classes, 2, "water"), "2 is water")
    with journal_of(run) as journal:
        live = replayed_classes(run.classes, journal.entries(), clusterer_of(run))
    add_classes(run, class_maps.merge(live, [2, 3]), "3 into water")
    assert run.classes[2].name == "cluster 2", "nothing is written before something needs it"
    export_run(run, ["geotiff"], tmp_path / "out")
    assert run.classes[2].name == "water" and run.classes[2].clusters == (2, 3)
    assert np.array_equal(raster(run, "scene_1") == 2, np.isin(before, [2, 3]))
    with journal_of(run) as journal:
        assert journal.settled == journal.version == 2


def test_undo_brings_classes_and_corrections_back(run: Run) -> None:
    before, labels = run.classes, raster(run, "scene_1")
    add_correction(run, "scene_1", 3, square(5, 5, 12), "review a")
    settled(run)
    assert (raster(run, "scene_1")[5:17, 5:17] == 3).all()
    add_classes(run, class_maps.merge(before, [2, 3]), "merged")
    settled(run)
    assert (raster(run, "scene_1")[5:17, 5:17] == 2).all(), "the correction follows its class"
    undo(run)
    settled(run)
    assert run.classes == before and (raster(run, "scene_1")[5:17, 5:17] == 3).all()
    undo(run)
    settled(run)
    assert np.array_equal(raster(run, "scene_1"), labels)
    assert not len(load_corrections(run.layout.corrections_path()))


def test_taking_in_twice_changes_nothing(run: Run) -> None:
    """As after a kill between the files and the note that they are written; the rows move a cluster twice."""
    add_classes(run, class_maps.move(run.classes, [4], 1), "4 to 1")
    live = class_maps.move(run.classes, [4], 1)
    add_classes(run, class_maps.move(live, [4], 2), "4 to 2")
    add_correction(run, "scene_1", 2, square(0, 0, 9), "review b")
    settled(run)
    classes, labels = run.classes, raster(run, "scene_1")
    with journal_of(run) as journal:
        journal.settle(0)
    settled(run)
    assert run.classes == classes and classes[2].clusters == (2, 4)
    assert np.array_equal(raster(run, "scene_1"), labels) and len(run.corrections) == 1


def test_the_command_line_goes_on_from_the_journal(run: Run) -> None:
    add_classes(run, class_maps.name(run.classes, 1, "road"), "1 is road")
    assert "road" in change_clusters(run, "merge", ["road", "4"])
    assert run.classes[1].clusters == (1, 4)


@pytest.mark.parametrize("clusters", [6, 5])
def test_a_rerun_keeps_names_given_in_the_browser(run: Run, painted: Path, clusters: int) -> None:
    add_classes(run, class_maps.name(run.classes, 2, "water"), "2 is water")
    label(painted / "images", run.path, clusters=clusters, workers=0, overwrite=True)
    assert "water" in {entry.name for entry in open_run(run.path).classes}


def test_rows_about_other_clusters_give_names_only(run: Run) -> None:
    named = class_maps.merge(class_maps.name(run.classes, 2, "water"), [2, 3])
    what, back, keys = class_effect(run.classes, named, "of another time", Corrections())
    with journal_of(run) as journal:
        journal.append(what, back, keys=keys, said="old", seen=0)
    settled(run)
    assert run.classes[2].name == "water" and run.classes[3].clusters == (3,)


def test_label_rasters_of_any_origin_keep_what_came_and_what_a_person_drew(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nobody looks inside")
    scene = Scene("a", str(tmp_path / "a.png"), "a", 40, 30, Georeference())
    classes = Classes.of_clusters(3)
    folder = RunFolder(tmp_path / "run")
    final = folder.labels_path / "a.tif"

    def came(value: int) -> None:
        write_label_raster(final, scene, classes, [(Window(0, 0, 40, 30), np.full((30, 40), value, np.uint8))])

    came(0)
    run = write_labels_run(folder, made_by="test 1", scenes=[scene], classes=classes, settings={})
    add_correction(run, "a", 2, square(3, 4, 5), "review c")
    settled(run)
    assert (raster(run, "a")[4:9, 3:8] == 2).all() and (raster(run, "a") == 2).sum() == 25
    came(1)  # the tool that made the labels ran again
    add_correction(run, "a", 0, square(20, 20, 3), "review d")
    settled(run)
    values, counts = np.unique(raster(run, "a"), return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {0: 9, 1: 1200 - 34, 2: 25}
    undo(run)
    undo(run)
    settled(run)
    assert (raster(run, "a") == 1).all()
