"""Boxes by a detector as a COCO file: windows, duplicates, and the way into `detect-label`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.errors import InputError, SettingsError
from terralabel.masks.boxes import read_boxes
from terralabel.nets.detectors import Detections, Detector
from terralabel.recipes import detecting
from terralabel.recipes.detected import detect_label
from terralabel.recipes.detecting import detect, suppress


def bright(picture: np.ndarray) -> Detections:
    """A stand-in detector: the box of each colour channel that is bright, and a worse copy of it."""
    found = []
    for label in range(3):
        rows, columns = np.nonzero((picture[..., label] > 200) & (picture.sum(axis=2) < 400))
        if len(rows):
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found += [(box, 0.9, label), ([v + 1 for v in box], 0.5, label), (box, 0.1, label)]
    boxes = np.array([b for b, _, _ in found], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([s for _, s, _ in found], np.float32), np.array([k for _, _, k in found], np.int64))


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two pictures with a red square far left and a green bar far right; the detector is `bright`."""
    monkeypatch.setattr(detecting, "load_detector", lambda name, device: Detector(name, {0: "roof", 1: "lawn"}, bright))
    (tmp_path / "images").mkdir()
    for name in "ab":
        pixels = np.full((100, 300, 3), 60, np.uint8)
        pixels[20:50, 10:40] = (250, 30, 30)
        pixels[10:90, 255:275] = (30, 250, 30)
        pixels[0, 0] = (0, 0, 0)
        Image.fromarray(pixels).save(tmp_path / f"images/{name}.png")
    return tmp_path


def test_every_box_once_in_pixels_of_the_image(images: Path) -> None:
    done = detect([images / "images"], "mine", images / "boxes.json", tile_size=128, overlap=48)
    assert (done.images, done.boxes, done.failures) == (2, 4, ())
    found = read_boxes(images / "boxes.json")
    assert [(entry.id, entry.name) for entry in found.classes] == [(0, "roof"), (1, "lawn")]
    for name in ("a.png", "b.png"):
        rows = dict(zip(found.by_name[name].class_id.tolist(), found.by_name[name].xyxy.tolist(), strict=True))
        assert rows == {0: [10, 20, 40, 50], 1: [255, 10, 275, 90]}
    assert "4 boxes in 2 images" in done.text


def test_the_file_goes_into_detect_label(images: Path) -> None:
    detect([images / "images"], "mine", images / "boxes.json")
    run = detect_label(images / "images", images / "boxes.json", images / "run", masks="tree", workers=0)
    assert (run.object_count(), run.manifest["problems"]) == (4, [])


def test_scores_and_ids(images: Path) -> None:
    detect([images / "images"], "mine", images / "boxes.json", threshold=0.05, nms=1.0)
    data = json.loads((images / "boxes.json").read_text())
    assert [row["id"] for row in data["annotations"]] == list(range(1, 13))
    assert sorted({row["score"] for row in data["annotations"]}) == [0.1, 0.5, 0.9]
    assert data["images"][0] == {"id": 1, "file_name": "a.png", "width": 300, "height": 100}


def test_a_broken_image_is_told(images: Path) -> None:
    (images / "images/c.png").write_bytes((images / "images/a.png").read_bytes()[:120])
    done = detect([images / "images"], "mine", images / "boxes.json")
    assert done.images == 2
    assert len(done.failures) == 1
    assert "c.png" in done.failures[0]


def test_suppression_is_by_class() -> None:
    xyxy = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [20, 0, 30, 10]], np.float32)
    found = Detections(xyxy, np.array([0.5, 0.9, 0.7, 0.6], np.float32), np.array([1, 1, 2, 1]))
    assert suppress(found, 0.5).tolist() == [1, 2, 3]
    assert suppress(found, 0.95).tolist() == [1, 2, 3, 0]
    assert suppress(Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)), 0.5).size == 0


def test_refusals(images: Path) -> None:
    with pytest.raises(SettingsError, match="0 <= threshold <= 1"):
        detect([images / "images"], "mine", images / "boxes.json", threshold=2)
    (images / "empty").mkdir()
    with pytest.raises(InputError, match="No images"):
        detect([images / "empty"], "mine", images / "boxes.json")
