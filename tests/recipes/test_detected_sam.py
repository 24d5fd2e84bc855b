"""Boxes prompt SAM: every family, tiny random checkpoints in their official formats. Their masks mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from terralabel.errors import WeightsError  # noqa: E402
from terralabel.imagery.datasets import open_labelled, read_label  # noqa: E402
from terralabel.nets.sam import loading  # noqa: E402
from terralabel.nets.sam.families import FAMILIES, tiny  # noqa: E402
from terralabel.recipes.detected import detect_label  # noqa: E402


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A picture of 90 x 120 with two boxes, one over the other."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "images/a.png")
    rows = [([5, 5, 100, 80], 1), ([30, 20, 40, 30], 2)]
    data = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": k, "image_id": 1, "category_id": c, "bbox": box} for k, (box, c) in enumerate(rows)],
        "categories": [{"id": 1, "name": "field"}, {"id": 2, "name": "pond"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(data))
    return tmp_path


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_takes_boxes(family: str, place: Path) -> None:
    checkpoint = tiny(family)
    weights = place / f"{family}.pt"
    loading.write_official(loading.build(checkpoint), checkpoint, weights)
    run = detect_label(place / "images", place / "boxes.json", place / "run", masks=str(weights), device="cpu", workers=0)
    assert (run.finished, run.failures, run.manifest["boxes_used"]) == (True, (), 2)
    dataset = open_labelled(place / "run")
    label = read_label(dataset, dataset.images[0])
    assert label.shape == (90, 120)
    expected = np.full((90, 120), 255)
    objects = next(iter(run.objects("a")), None)
    for k in np.argsort(-objects.area, kind="stable") if objects is not None else ():
        x, y, w, h = objects.bbox[k].tolist()
        expected[y : y + h, x : x + w][objects.crop(int(k))] = objects.class_id[k]
    assert (label == expected).all()


def test_weights_that_are_none_stop_before_any_image(place: Path) -> None:
    (place / "bad.pt").write_bytes(b"<html>not found</html>")
    with pytest.raises(WeightsError):
        detect_label(place / "images", place / "boxes.json", place / "run", masks=str(place / "bad.pt"), workers=0)
    assert not (place / "run").exists()
