"""From a few labels to labels of the rest: learned, resumed bit for bit, and refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import rasterio  # noqa: E402

import terralabel as tl  # noqa: E402
from terralabel.core.quality import DECISIONS  # noqa: E402
from terralabel.errors import InputError, RunError, SettingsError  # noqa: E402
from terralabel.recipes.annotate.folds import read_held_out  # noqa: E402
from terralabel.recipes.annotate.plan import fold_of  # noqa: E402
from terralabel.recipes.label_classes import change_label_classes  # noqa: E402
from terralabel.recipes.labels_run import LabelsRun  # noqa: E402
from terralabel.runs.progress import Silent  # noqa: E402
from terralabel.train.segmentation.checkpoint import open_checkpoint  # noqa: E402
from tests.recipes.annotating import TINY, blob, iou, write, write_blobs  # noqa: E402


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="module")
def model(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model"
    tl.annotate_fit(blobs / "images", out, labels=blobs / "labels", **TINY)
    return out


@pytest.fixture(scope="module")
def annotated(blobs: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> LabelsRun:
    return tl.annotate_apply(model, blobs / "images", tmp_path_factory.mktemp("run") / "run", threads=1)


# ----------------------------------------------------------------------------------------------------------------- fit


def test_a_model_says_what_it_learned(model: Path) -> None:
    record = open_checkpoint(model, "last").record
    assert record["network"]["name"] == "elnet:scratch" and record["step"] == 30 and record["background"] == 0
    assert [entry["id"] for entry in record["classes"]["classes"]] == [0, 1]
    assert (model / "curves.png").is_file() and (model / "log.csv").is_file()
    folds = [open_checkpoint(model / "folds" / str(k), "last") for k in (1, 2)]
    assert len({checkpoint.sha256 for checkpoint in folds} | {open_checkpoint(model, "last").sha256}) == 3


def test_held_out_images_are_measured(model: Path, blobs: Path) -> None:
    held_out = read_held_out(model)
    assert held_out is not None and 0.6 < held_out.iou[1] < 1 and 0.9 < held_out.iou[0] < 1
    assert held_out.judge.note.startswith(("fitted", "4 labels", "3 labels"))


def test_the_summary_reads(model: Path, blobs: Path) -> None:
    text = tl.annotate_fit(blobs / "images", model, labels=blobs / "labels", **TINY).text
    assert "4 labelled images" in text and "held out" in text and f"annotate apply {model}" in text


def test_folds_are_even_and_drawn_by_the_seed() -> None:
    keys = [f"k{i}" for i in range(10)]
    one, again, other = fold_of(keys, 3, 1), fold_of(keys, 3, 1), fold_of(keys, 3, 2)
    assert one == again != other
    assert sorted(np.bincount(list(one.values())).tolist()) == [3, 3, 4]
    assert fold_of(keys[:2], 5, 0).keys() == {"k0", "k1"} and fold_of(["k"], 3, 0) == {} and fold_of(keys, 0, 0) == {}


class Stop(BaseException):
    """Stands for kill -9."""


class StopAt(Silent):
    """Ends the process, so to speak, after so many steps of all networks."""

    def __init__(self, step: int) -> None:
        self.left, self.stage = step, ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage = stage

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount if self.stage == "train" else 0
        if self.left <= 0:
            raise Stop


@pytest.mark.parametrize("step", [45, pytest.param(15, marks=pytest.mark.slow), pytest.param(75, marks=pytest.mark.slow)])
def test_killed_and_gone_on_gives_the_same_bytes(step: int, blobs: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(Stop):
        tl.annotate_fit(blobs / "images", out, labels=blobs / "labels", progress=StopAt(step), **TINY)
    tl.annotate_fit(blobs / "images", out, labels=blobs / "labels", **TINY)
    for part in (".", "folds/1", "folds/2"):
        assert open_checkpoint(out / part, "last").sha256 == open_checkpoint(model / part, "last").sha256
    assert (out / "judge.json").read_bytes() == (model / "judge.json").read_bytes()
    assert (out / "held_out.json").read_bytes() == (model / "held_out.json").read_bytes()


def test_other_settings_are_refused_until_told(blobs: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    few = {**TINY, "steps": 2, "folds": 0}
    with pytest.raises(SettingsError, match="started differently: folds: 2 -> 0; steps: 30 -> 2"):
        tl.annotate_fit(blobs / "images", tmp_path / "model", labels=blobs / "labels", **few)
    fitted = tl.annotate_fit(blobs / "images", tmp_path / "model", labels=blobs / "labels", overwrite=True, **few)
    assert fitted.checkpoint.step == 2 and fitted.held_out is None and not (tmp_path / "model" / "folds").exists()
    assert json.loads((tmp_path / "model" / "judge.json").read_text())["note"].startswith("no folds")


def test_many_classes_have_no_background_unless_told(tmp_path: Path) -> None:
    for i in range(2):
        picture, mask = blob((64, 64), i)
        write(tmp_path / "images" / f"{i}.tif", picture)
        write(tmp_path / "labels" / f"{i}.tif", mask + 1 + 3 * (np.arange(64) > 40).astype(np.uint8)[None] * (1 - mask))
    few = {**TINY, "steps": 2, "folds": 0}
    fitted = tl.annotate_fit(tmp_path / "images", tmp_path / "m", labels=tmp_path / "labels", **few)
    assert fitted.checkpoint.record["background"] is None and len(fitted.classes) == 3
    told = tl.annotate_fit(tmp_path / "images", tmp_path / "n", labels=tmp_path / "labels", background=1, **few)
    assert told.checkpoint.record["background"] == 1
    with pytest.raises(SettingsError, match="background 9 is no class; the classes are"):
        tl.annotate_fit(tmp_path / "images", tmp_path / "o", labels=tmp_path / "labels", background=9, **few)
    run = tl.annotate_apply(tmp_path / "m", tmp_path / "images", tmp_path / "run", threads=1, specks=0)
    with rasterio.open(run.label_path("0")) as labels:
        assert set(np.unique(labels.read(1)).tolist()) <= {1, 2, 4}


# ----------------------------------------------------------------------------------------------------------- bad input


def copied(blobs: Path, to: Path) -> Path:
    shutil.copytree(blobs, to)
    return to


def refused(folder: Path, match: str, **values: object) -> None:
    with pytest.raises(InputError, match=match):
        tl.annotate_fit(folder / "images", folder / "model", labels=folder / "labels", **{**TINY, **values})


def test_no_labels(blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    shutil.rmtree(folder / "labels")
    (folder / "labels").mkdir()
    refused(folder, "none of their labels")


def test_one_class_only(blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    for path in (folder / "labels").iterdir():
        write(path, np.zeros((80, 72), np.uint8), east=500000.0 + 100 * int(path.stem[-2:]))
    refused(folder, "expected two classes or more.*--threshold 128")


def test_more_classes_than_the_class_map(blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    write(folder / "labels" / "scene_01.tif", 3 * blob((80, 72), 1)[1], east=500100.0)
    two = [{"id": i, "name": name, "color": "#ffffff"} for i, name in enumerate(("sea", "oil"))]
    (folder / "classes.json").write_text(json.dumps({"version": 1, "classes": two}))
    refused(
        folder,
        "scene_01.tif has ids that are no classes: 3 .* the classes are 0..1",
        reading={"classes": folder / "classes.json"},
    )


def test_conflicting_labels(blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    shutil.copy(folder / "images" / "scene_00.tif", folder / "images" / "twin.tif")
    shutil.copy(folder / "labels" / "scene_00.tif", folder / "labels" / "twin.tif")
    tl.annotate_fit(folder / "images", folder / "agreeing", labels=folder / "labels", **{**TINY, "steps": 1, "folds": 0})
    write(folder / "labels" / "twin.tif", blob((80, 72), 99)[1])
    refused(folder, "scene_00.tif and .*twin.tif are the same image with different labels: .* pixels")


def test_labels_of_another_size(blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    write(folder / "labels" / "scene_01.tif", blob((64, 64), 1)[1])
    refused(folder, "scene_01.tif is 64 x 64 pixels, its image scene_01.tif 72 x 80: expected equal sizes")


@pytest.mark.parametrize(("how", "match"), [({"crs": "EPSG:32633"}, "32633"), ({"east": 500777.0}, "777.0 pixels off")])
def test_labels_of_another_place(how: dict, match: str, blobs: Path, tmp_path: Path) -> None:
    folder = copied(blobs, tmp_path / "set")
    write(folder / "labels" / "scene_00.tif", blob((80, 72), 0)[1], **how)
    refused(folder, f"scene_00.tif.*{match}")


def test_a_folder_of_something_else(blobs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    with pytest.raises(RunError, match=r"not empty and no model \(it holds .thesis\.doc.\)"):
        tl.annotate_fit(blobs / "images", tmp_path / "out", labels=blobs / "labels", **TINY)


# --------------------------------------------------------------------------------------------------------------- apply


def test_the_rest_is_labelled(annotated: LabelsRun, blobs: Path) -> None:
    truth = sorted((blobs / "truth").iterdir())
    assert len(truth) == 3
    assert np.mean([iou(annotated.label_path(path.stem), path) for path in truth]) > 0.75
    with rasterio.open(annotated.label_path("scene_03")) as empty:
        assert not (empty.read(1) == 1).any()


def test_labels_lie_where_the_images_lie(annotated: LabelsRun, blobs: Path) -> None:
    with rasterio.open(annotated.label_path("scene_05")) as found, rasterio.open(blobs / "images" / "scene_05.tif") as image:
        assert found.transform == image.transform and found.crs == image.crs and found.shape == image.shape
        assert found.nodata == 255


def test_every_label_has_a_verdict(annotated: LabelsRun) -> None:
    verdicts = annotated.verdicts
    assert verdicts is not None and set(verdicts.scene) == {scene.key for scene in annotated.scenes}
    assert set(verdicts.decision) <= set(DECISIONS) and np.isfinite(verdicts.quality).all()


def test_the_run_is_a_run(annotated: LabelsRun, tmp_path: Path) -> None:
    assert annotated.finished and len(annotated.scenes) == 7 and annotated.object_count() > 0
    files = tl.export_run(annotated, ["geopackage", "coco", "geotiff"], tmp_path / "out")
    assert {path.suffix for path in files} >= {".gpkg", ".json", ".tif"}
    assert tl.report_run(annotated, tmp_path / "report.html").stat().st_size > 10_000


def test_classes_are_renamed_and_stay_so(blobs: Path, model: Path, tmp_path: Path) -> None:
    one = [blobs / "images" / "scene_04.tif"]
    run = tl.annotate_apply(model, one, tmp_path / "run", threads=1, flips=False)
    assert "background" in change_label_classes(run)
    table = change_label_classes(run, "name", ["1", "slick"])
    assert "slick" in table
    with rasterio.open(run.label_path("scene_04")) as labels:
        assert "slick" in labels.tags()["TERRALABEL_CLASSES"]
    again = tl.annotate_apply(model, blobs / "images", tmp_path / "run", threads=1, flips=False)
    assert again.classes[1].name == "slick" and again.judged is not None and not again.judged.stale
    with pytest.raises(SettingsError, match=r"clusters split: the classes of .* were learned"):
        change_label_classes(again, "split", ["1"])


def test_done_scenes_are_not_done_again(blobs: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = tl.annotate_apply(model, [blobs / "images" / "scene_00.tif"], out, threads=1)
    stamp = first.label_path("scene_00").stat().st_mtime_ns
    more = tl.annotate_apply(model, blobs / "images", out, threads=1)
    assert more.label_path("scene_00").stat().st_mtime_ns == stamp and len(more.scenes) == 7
    assert set(more.verdicts.scene) == {scene.key for scene in more.scenes}  # type: ignore[union-attr]


def test_a_gate_may_be_tried_without_looking_again(blobs: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(blobs / "images", tmp_path / "images")
    tl.annotate_apply(model, tmp_path / "images", tmp_path / "run", threads=1)
    run = tl.annotate_apply(model, tmp_path / "images", tmp_path / "run", threads=1, review="100%")
    assert run.verdicts is not None and "accept" not in run.verdicts.decision


def test_another_model_or_setting_is_refused_until_told(blobs: Path, model: Path, tmp_path: Path) -> None:
    one = [blobs / "images" / "scene_00.tif"]
    tl.annotate_apply(model, one, tmp_path / "run", threads=1)
    with pytest.raises(RunError, match="made otherwise \\(flips: True -> False\\)"):
        tl.annotate_apply(model, one, tmp_path / "run", threads=1, flips=False)
    assert tl.annotate_apply(model, one, tmp_path / "run", threads=1, flips=False, overwrite=True).finished


def test_what_fails_is_told_and_the_others_are_done(blobs: Path, model: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(blobs / "images" / "scene_04.tif", images)
    write(images / "deep.tif", blob((64, 64), 1)[0].astype(np.uint16) * 200)
    (images / "broken.tif").write_bytes((images / "scene_04.tif").read_bytes()[:300])
    run = tl.annotate_apply(model, images, tmp_path / "run", threads=1)
    assert [scene.key for scene in run.scenes] == ["scene_04"] and run.label_path("scene_04").is_file()
    assert {Path(f.source).name for f in run.failures} == {"deep.tif", "broken.tif"}


def test_a_network_of_another_kind_is_refused(blobs: Path, tmp_path: Path) -> None:
    few = {"network": "timm:test_resnet:fcn", "steps": 1, "batch_size": 2, "crop": 64, "threads": 1}
    tl.pretrain(blobs / "images", tmp_path / "trained", reading={"labels": blobs / "labels"}, **few)
    with pytest.raises(SettingsError, match="use `terralabel predict`"):
        tl.annotate_apply(tmp_path / "trained", blobs / "images", tmp_path / "run")


@pytest.mark.parametrize("held", [0, 64 << 20])
def test_large_scenes_on_disk_and_small_ones_in_memory_give_the_same(
    held: int, blobs: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scene of several bands, windows and pictures: the same labels, whether its channels were on disk or not."""
    from terralabel.recipes.annotate import pictures, views

    monkeypatch.setattr(views, "_HELD", held)
    monkeypatch.setattr(views, "_BAND", 512)
    monkeypatch.setattr(pictures, "PICTURE", 300)
    picture, mask = blob((170, 700), 3)
    image = write(tmp_path / "wide.tif", picture)
    run = tl.annotate_apply(model, [image], tmp_path / "run", threads=1, tile_size=96, flips=False)
    assert iou(run.label_path("wide"), write(tmp_path / "true.tif", mask)) > 0.7
    assert not list((run.path / "parts").rglob("*.tif"))
    monkeypatch.setattr(views, "_HELD", (64 << 20) - held)
    monkeypatch.setattr(pictures, "PICTURE", 1000)
    again = tl.annotate_apply(model, [image], tmp_path / "again", threads=1, tile_size=96, flips=False)
    with rasterio.open(run.label_path("wide")) as one, rasterio.open(again.label_path("wide")) as two:
        np.testing.assert_array_equal(one.read(1), two.read(1))


def test_a_large_scene_goes_on_within(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands that were looked at before a crash are not looked at again, and the label is the same."""
    from terralabel.recipes.annotate import views
    from terralabel.train.annotation.views import Views

    monkeypatch.setattr(views, "_HELD", 0)
    monkeypatch.setattr(views, "_BAND", 512)
    image = write(tmp_path / "wide.tif", blob((100, 1300), 3)[0])
    how = {"threads": 1, "tile_size": 96, "flips": False}
    whole = tl.annotate_apply(model, [image], tmp_path / "whole", **how)
    looked: list[int] = []
    own = Views.band

    def band(self, read, width, height, left, right):
        looked.append(left)
        if len(looked) == 2:
            raise Stop
        return own(self, read, width, height, left, right)

    monkeypatch.setattr(Views, "band", band)
    with pytest.raises(Stop):
        tl.annotate_apply(model, [image], tmp_path / "run", **how)
    run = tl.annotate_apply(model, [image], tmp_path / "run", **how)
    assert looked == [0, 512, 512, 1024]
    assert run.label_path("wide").read_bytes() == whole.label_path("wide").read_bytes()
