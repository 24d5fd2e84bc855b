"""A run as people and exporters see it: crops without opening a file for each, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terralabel.core.grid import Window
from terralabel.errors import InputError, RunError
from terralabel.export.corrections import FIRST_ID, Correction, Corrections, save_corrections
from terralabel.export.shapes import Shape
from terralabel.imagery.radiometry import Radiometry
from terralabel.recipes.run import Run, export_run, open_run, report_run, require_finished


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list:
    """Every raster that was opened, in order."""
    rasters: list = []
    real = Radiometry.open

    def note(self: Radiometry, path: Path, **how: bool) -> object:
        rasters.append(real(self, path, **how))
        return rasters[-1]

    monkeypatch.setattr(Radiometry, "open", note)
    return rasters


def test_crops_of_a_scene_open_it_once_and_one_image_stays_open(run: Run, opened: list) -> None:
    first, second = (scene.key for scene in run.scenes[:2])
    whole = run.read_rgb(first, Window(0, 0, 160, 160))
    assert np.array_equal(run.read_rgb(first, Window(30, 40, 20, 10)), whole[40:50, 30:50])
    assert run.read_rgb(first, Window(0, 0, 160, 160), 40).shape == (40, 40, 3)
    assert len(opened) == 1 and not opened[0]._dataset.closed
    run.read_rgb(second, Window(0, 0, 8, 8))
    assert len(opened) == 2 and opened[0]._dataset.closed and not opened[1]._dataset.closed
    run.close()
    assert opened[1]._dataset.closed
    assert np.array_equal(run.read_rgb(first, Window(0, 0, 160, 160)), whole), "a closed run can be read again"


def test_an_image_that_cannot_be_read_is_not_kept_open(run: Run, opened: list) -> None:
    with pytest.raises(InputError):
        run.read_rgb(run.scenes[0].key, Window(100, 100, 100, 100))
    assert opened[0]._dataset.closed


def test_the_report_tells_how_the_run_was_made(run: Run, tmp_path: Path) -> None:
    page = report_run(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert run.folder.history()[0]["time"] in page


def test_an_unfinished_run_is_refused_by_what_was_to_be_done(run: Run) -> None:
    require_finished(run, "export")
    manifest = json.loads(run.folder.manifest_path.read_text())
    run.folder.manifest_path.write_text(json.dumps({**manifest, "finished": False}))
    with pytest.raises(RunError, match=r"is not finished, nothing to export: run the same `terralabel label` command"):
        require_finished(open_run(run.path), "export")


def test_failures_are_listed_or_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from terralabel.recipes.ingest import Failure

    assert "failed" not in run.summary() and "failed" not in run.summary(list_failures=False)
    run.failed_sources = tuple(Failure(f"{i}.tif", "corrupt", f"image {i} is\ndamaged") for i in range(12))
    listed = run.summary()
    assert "0.tif: image 0 is damaged\n" in listed and "9.tif" in listed and "10.tif" not in listed and "2 more" in listed
    counted = run.summary(list_failures=False)
    assert "failed   12 inputs; the reasons" in counted and ".tif: " not in counted
    run.failed_tiles = (Failure("a-0-0", "crash", "crash: killed"),)
    assert "failed   12 inputs and 1 tile; the reasons" in run.summary(list_failures=False)


def test_instances_are_the_objects_that_pixels_show(run: Run) -> None:
    shown = {}
    for scene in run.scenes:
        ids = np.full((scene.height, scene.width), -1, dtype=np.int64)
        for window, block in run.instances(scene.key):
            assert (ids[window.slices()] == -1).all()
            ids[window.slices()] = block
        shown[scene.key] = ids
        objects = {int(o.id[i]): (o, i) for o in run.objects(scene.key) for i in range(len(o))}
        seen, pixels = np.unique(ids, return_counts=True)
        assert seen.min() >= 0 and set(seen.tolist()) - {0} <= set(objects)
        for number, count in zip(seen.tolist(), pixels.tolist(), strict=True):
            if number:
                batch, i = objects[number]
                x, y, w, h = batch.bbox[i]
                inside = ids[y : y + h, x : x + w][batch.crop(i)]
                assert (inside == number).sum() == count, "an object shows only pixels of its own"
                others = [objects[k][0].area[objects[k][1]] for k in set(inside.tolist()) - {number}]
                assert all(area <= batch.area[i] for area in others), "only smaller ones lie on top"
    assert len(set.intersection(*({*np.unique(ids).tolist()} - {0} for ids in shown.values()))) == 0


def test_instances_follow_corrections(run: Run, tmp_path: Path) -> None:
    key = run.scenes[0].key
    window, block = next(run.instances(key))
    drawn = Shape.of_runs(np.array([0, 60 * 60]), Window(10, 20, 60, 60))
    assert drawn is not None
    save_corrections(run.layout.corrections_path(), Corrections((Correction(key, 3, drawn),)))
    changed = open_run(run.path)
    _, after = next(changed.instances(key))
    there = {int(i) for o in changed.objects(key) for i in o.id}
    assert set(np.unique(after).tolist()) - {0} <= there and FIRST_ID in there
    assert (after[20:80, 10:70] == FIRST_ID).all()
    same = (after == block) | (after == 0)
    same[20:80, 10:70] = True
    assert window.area == 160 * 160 and same.all()
    (file, *_) = export_run(changed, ["instances"], tmp_path / "out")
    with rasterio.open(file) as raster:
        assert np.array_equal(raster.read(1), after) and raster.dtypes == ("uint32",)
