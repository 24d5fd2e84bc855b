"""Labels from boxes: the folder that comes out, resuming, workers, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from terralabel.contracts import RunView
from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.recipes import detected
from terralabel.recipes.detected import detect_label
from terralabel.recipes.detected_run import DetectedRun, open_any
from terralabel.recipes.run import export_run, open_run
from terralabel.runs.folder import RunFolder
from tests.recipes.conftest import tree_hashes

#: x, y, width, height and category of the things in every picture.
THINGS = ((8, 8, 40, 40, 1), (16, 16, 12, 12, 2), (60, 30, 20, 44, 2))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


def write_pictures(folder: Path) -> Path:
    """Three pictures of 96 x 96 with a square in a square and a bar; boxes for the first two."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, object]] = []
    for k, name in enumerate("abc"):
        pixels = np.full((96, 96, 3), 70, np.int64)
        for color, (x, y, w, h, category) in zip(((190, 60, 50), (40, 60, 200), (60, 190, 60)), THINGS, strict=True):
            pixels[y : y + h, x : x + w] = color
            if name != "c":
                row = {"id": len(annotations) + 1, "image_id": k, "category_id": category, "bbox": [x - 1, y - 1, w + 2, h + 2]}
                annotations.append(row)
        noisy = np.clip(pixels + rng.integers(-6, 7, pixels.shape), 0, 255).astype(np.uint8)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(folder / f"images/{name}.png")
    images = [{"id": k, "file_name": f"{name}.png", "width": 96, "height": 96} for k, name in enumerate("abc")]
    categories = [{"id": 1, "name": "house"}, {"id": 2, "name": "pool"}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(data))
    return folder


def truth() -> np.ndarray:
    out = np.full((96, 96), 255)
    for x, y, w, h, category in sorted(THINGS, key=lambda t: -t[2] * t[3]):
        out[y : y + h, x : x + w] = category
    return out


def make(pictures: Path, out: str = "run", **more: object) -> DetectedRun:
    settings = {"masks": "tree", "workers": 0, **more}
    return detect_label(pictures / "images", pictures / "boxes.json", pictures / out, **settings)  # type: ignore[arg-type]


def test_labels_are_the_boxes_classes_small_on_large(pictures: Path) -> None:
    before = tree_hashes(pictures / "images")
    run = make(pictures)
    assert tree_hashes(pictures / "images") == before
    view: RunView = run
    assert view.masks_name == "tree"
    assert (run.finished, run.failures, run.object_count()) == (True, (), 6)
    dataset = open_labelled(pictures / "run")
    assert (dataset.format, [entry.name for entry in dataset.classes]) == ("run", ["house", "pool"])
    for item in dataset.images[:2]:
        assert (read_label(dataset, item) == truth()).mean() > 0.97
    assert (read_label(dataset, dataset.images[2]) == 255).all(), "no boxes: no label"


def test_it_is_exported_like_any_run(pictures: Path) -> None:
    make(pictures)
    run = open_any(pictures / "run")
    assert isinstance(run, DetectedRun)
    export_run(run, ["coco", "mmseg", "instances", "geopackage"], pictures / "out")
    coco = open_labelled(pictures / "images", labels=pictures / "out/coco/annotations/instances.json")
    labels = open_labelled(pictures / "run")
    for ours, drawn in zip(labels.images, coco.images, strict=True):
        assert (read_label(labels, ours) == read_label(coco, drawn)).all()
    mmseg = open_labelled(pictures / "out/mmseg")
    assert [entry.name for entry in mmseg.classes] == ["house", "pool"]
    ids = {i for batch in run.objects("b") for i in batch.id.tolist()}
    shown = {int(i) for _, block in run.instances("b") for i in np.unique(block)}
    assert ids == shown - {0} == {4, 5, 6}


def test_rotated_boxes_of_dota_files(pictures: Path) -> None:
    (pictures / "dota").mkdir()
    (pictures / "dota/a.txt").write_text("gsd:0.5\n28 -1 57 28 28 57 -1 28 house 0\n60 30 80 30 80 74 60 74 pool 0\n")
    run = detect_label(pictures / "images", pictures / "dota", pictures / "run", masks="tree", workers=0)
    with rasterio.open(run.label_path("a")) as source:
        assert set(np.unique(source.read(1))) == {0, 1, 255}
    assert run.object_count() == 2


def test_same_bytes_from_workers_and_after_a_stop(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(pictures)
    expected = {name: value for name, value in tree_hashes(pictures / "run").items() if "history" not in name}
    calls = []
    whole = detected.detect_scene

    def stop_at_second(job: detected.DetectJob) -> str:
        calls.append(job.scene.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(job)

    monkeypatch.setattr(detected, "detect_scene", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        make(pictures, "again")
    assert not open_any(pictures / "again").finished
    make(pictures, "again")
    assert calls == ["a", "b", "b", "c"], "what was done is not done again"
    monkeypatch.undo()
    make(pictures, "workers", workers=2)
    for name in ("again", "workers"):
        found = {key: value for key, value in tree_hashes(pictures / name).items() if "history" not in key}
        assert found == expected


def test_windows_give_what_one_window_gives_where_boxes_fit(pictures: Path) -> None:
    run = make(pictures, tile_size=64, overlap=24)
    with rasterio.open(run.label_path("a")) as source:
        assert (source.read(1) == truth()).mean() > 0.9


def test_other_boxes_are_refused_until_overwritten(pictures: Path) -> None:
    make(pictures)
    data = json.loads((pictures / "boxes.json").read_text())
    data["annotations"] = data["annotations"][:1]
    (pictures / "boxes.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match="was made with other boxes"):
        make(pictures)
    run = make(pictures, overwrite=True)
    assert run.object_count() == 1
    with rasterio.open(run.label_path("b")) as source:
        assert (source.read(1) == 255).all()
    assert len(list((pictures / "run/parts/detected").iterdir())) == 3


def test_a_broken_image_and_boxes_of_no_image_are_told(pictures: Path) -> None:
    (pictures / "images/d.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = json.loads((pictures / "boxes.json").read_text())
    data["images"].append({"id": 9, "file_name": "nowhere.png"})
    data["annotations"].append({"id": 90, "image_id": 0, "category_id": 1, "bbox": [500, 500, 5, 5]})
    (pictures / "boxes.json").write_text(json.dumps(data))
    run = make(pictures)
    assert [Path(f.source).name for f in run.failures] == ["d.png"]
    problems = "\n".join(run.manifest["problems"])
    assert "boxes of 1 images that are not here, the first: 'nowhere.png'" in problems
    assert "1 of 4 boxes lie outside the image" in problems
    assert "d.png" in run.summary()


def test_refusals(pictures: Path) -> None:
    with pytest.raises(SettingsError, match="'tau' is no setting"):
        make(pictures, tau=0.2)
    with pytest.raises(InputError, match="cannot be read"):
        detect_label(pictures / "images", pictures / "none.json", pictures / "run", masks="tree")
    with pytest.raises(SettingsError, match="takes no boxes"):
        detected.make_promptable(_NoBoxes())  # type: ignore[arg-type]
    (pictures / "label").mkdir()
    RunFolder(pictures / "label").write_manifest({"format": 2})
    with pytest.raises(RunError, match="is a run of `label`"):
        make(pictures, "label")
    with pytest.raises(RunError, match="is no run of boxes"):
        DetectedRun(RunFolder(pictures / "label"))
    with pytest.raises(RunError, match="is not a TerraLabel run"):
        open_any(pictures / "nothing")
    make(pictures)
    with pytest.raises(RunError, match="holds labels from boxes"):
        open_run(pictures / "run")


class _NoBoxes:
    """Settings whose masks are a backend that cannot be prompted."""

    masks = "mine"

    def __hash__(self) -> int:
        return 1


@pytest.fixture(autouse=True)
def _generators(monkeypatch: pytest.MonkeyPatch) -> None:
    real = detected.make_generator
    monkeypatch.setattr(detected, "make_generator", lambda s: object() if isinstance(s, _NoBoxes) else real(s))
