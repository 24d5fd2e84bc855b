"""Coarse labels in, better ones out; killed in the middle, the same bytes."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2  # noqa: E402
import rasterio  # noqa: E402

import terralabel as tl  # noqa: E402
from terralabel.errors import InputError, RunError, SettingsError  # noqa: E402
from terralabel.recipes.detected_run import open_any  # noqa: E402
from terralabel.recipes.labels_run import LabelsRun  # noqa: E402
from tests.recipes.annotating import TINY, blob, iou, write  # noqa: E402

COARSE = {**TINY, "folds": 2, "band": 4, "pictures": 2}


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, truth/, and labels/ that are 3 pixels too wide."""
    folder = tmp_path_factory.mktemp("coarse")
    for i in range(6):
        picture, mask = blob((80, 72), i)
        wide = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
        for name, bands in (("images", picture), ("truth", mask), ("labels", wide)):
            write(folder / name / f"scene_{i}.tif", bands, east=500000.0 + 100 * i)
    return folder


@pytest.fixture(scope="module")
def enhanced(coarse: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelsRun:
    return tl.enhance(coarse / "images", tmp_path_factory.mktemp("run") / "run", labels=coarse / "labels", **COARSE)


def rows(run: LabelsRun) -> dict[str, dict[str, str]]:
    with open(run.path / "changes.csv", encoding="utf-8", newline="") as handle:
        return {row["scene"]: row for row in csv.DictReader(handle)}


def test_labels_are_better_than_before(enhanced: LabelsRun, coarse: Path) -> None:
    before, after = (
        [iou(folder / f"scene_{i}.tif", coarse / "truth" / f"scene_{i}.tif") for i in range(6)]
        for folder in (coarse / "labels", enhanced.path / "labels")
    )
    assert np.mean(after) > np.mean(before) + 0.1


def test_what_changed_is_told(enhanced: LabelsRun, coarse: Path) -> None:
    found = rows(enhanced)
    assert set(found) == {f"scene_{i}" for i in range(6)}
    for key, row in found.items():
        with rasterio.open(coarse / "labels" / f"{key}.tif") as a, rasterio.open(enhanced.label_path(key)) as b:
            was, now = a.read(1), b.read(1)
        assert float(row["changed"]) == pytest.approx((was != now).mean(), abs=1e-4)
        assert float(row["iou with before: 1"] if "iou with before: 1" in row else list(row.values())[-1]) <= 1
        assert 0 <= float(row["score before"]) <= 1 and 0 <= float(row["score after"]) <= 1


def test_the_coarse_labels_stay_beside(enhanced: LabelsRun, coarse: Path) -> None:
    for path in sorted((coarse / "labels").iterdir()):
        with rasterio.open(path) as a, rasterio.open(enhanced.path / "coarse" / path.name) as b:
            np.testing.assert_array_equal(a.read(1), b.read(1))
            assert a.transform == b.transform and a.crs == b.crs
    pictures = sorted((enhanced.path / "pictures").iterdir())
    assert len(pictures) == 2 and cv2.imread(str(pictures[0])).shape[1] > 3 * 72


def test_the_run_is_a_run(enhanced: LabelsRun, tmp_path: Path) -> None:
    opened = open_any(enhanced.path)
    assert isinstance(opened, LabelsRun) and opened.finished and opened.verdicts is not None
    assert tl.export_run(opened, ["geopackage"], tmp_path)
    assert not list((enhanced.path / "parts").rglob("*.tif"))


def test_killed_and_gone_on_gives_the_same_bytes(
    coarse: Path, enhanced: LabelsRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terralabel.recipes.annotate.enhance import Repair

    class Stop(BaseException):
        pass

    def stop(self, *arguments) -> None:
        raise Stop

    whole = Repair._mend
    monkeypatch.setattr(Repair, "_mend", stop)
    with pytest.raises(Stop):
        tl.enhance(coarse / "images", tmp_path / "run", labels=coarse / "labels", **COARSE)
    assert not open_any(tmp_path / "run").finished
    monkeypatch.setattr(Repair, "_mend", whole)
    run = tl.enhance(coarse / "images", tmp_path / "run", labels=coarse / "labels", **COARSE)
    for i in range(6):
        assert run.label_path(f"scene_{i}").read_bytes() == enhanced.label_path(f"scene_{i}").read_bytes()
    assert (run.path / "changes.csv").read_bytes() == (enhanced.path / "changes.csv").read_bytes()


def test_one_image_cannot_be_enhanced(coarse: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    shutil.copy(coarse / "labels" / "scene_1.tif", tmp_path / "labels")
    with pytest.raises(InputError, match="enhancing needs two"):
        tl.enhance(coarse / "images", tmp_path / "run", labels=tmp_path / "labels", **COARSE)


def test_other_settings_and_other_runs_are_refused(coarse: Path, enhanced: LabelsRun, tmp_path: Path, finished: Path) -> None:
    with pytest.raises(SettingsError, match="band: 4 -> 5"):
        tl.enhance(coarse / "images", enhanced.path, labels=coarse / "labels", **{**COARSE, "band": 5})
    with pytest.raises(RunError, match="run of another kind"):
        tl.enhance(coarse / "images", finished, labels=coarse / "labels", **COARSE)
    with pytest.raises(SettingsError, match="at least 2"):
        tl.EnhanceSettings(folds=0)
