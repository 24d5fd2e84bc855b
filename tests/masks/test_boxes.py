"""Files of boxes: COCO and DOTA, upright and rotated, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terralabel.core.classes import ClassEntry, Classes
from terralabel.errors import InputError
from terralabel.masks.boxes import Boxes, read_boxes

DOTA = """imagesource:GoogleEarth
gsd:0.146
10 20 30 20 30 60 10 60 plane 0
50 40 60 50 50 60 40 50 small-vehicle 1
"""


def coco(path: Path, *rows: dict[str, Any], images: list[str] | None = None) -> Path:
    names = images or ["a.png"]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": k, "file_name": name} for k, name in enumerate(names)],
                "categories": [{"id": 2, "name": "house"}, {"id": 5, "name": "car"}],
                "annotations": [{"id": 100 + k, "image_id": 0, "category_id": 2, **row} for k, row in enumerate(rows)],
            }
        )
    )
    return path


def test_dota_lines(tmp_path: Path) -> None:
    (tmp_path / "P0001.txt").write_text(DOTA)
    (tmp_path / "P0002.txt").write_text("")
    found = read_boxes(tmp_path)
    assert [(entry.id, entry.name) for entry in found.classes] == [(0, "plane"), (1, "small-vehicle")]
    assert found.problems == ()
    assert found.by_name["P0001"].xyxy.tolist() == [[10, 20, 30, 60], [40, 40, 60, 60]]
    assert found.by_name["P0001"].class_id.tolist() == [0, 1]
    assert len(found.by_name["P0002"]) == 0


def test_dota_bad_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2 3 plane\n1 1 5 1 5 5 1 5 plane\n1 1 nan 1 5 5 1 5 plane\n1 1 1 1 1 1 1 1 plane\n")
    found = read_boxes(tmp_path / "a.txt")
    assert len(found.by_name["a"]) == 1
    assert [text.partition(":")[0] for text in found.problems] == ["a.txt, line 1", "a.txt, line 3", "a.txt, line 4"]


def test_coco_upright_rotated_and_polygon(tmp_path: Path) -> None:
    path = coco(
        tmp_path / "b.json",
        {"bbox": [1, 2, 10, 20]},
        {"bbox": [50, 50, 20, 10, 90], "category_id": 5},
        {"bbox": [50, 50, 20, 20, 45]},
        {"segmentation": [[0, 0, 8, 0, 8, 9], [4, 4, 20, 4, 20, 6]]},
    )
    found = read_boxes(path)
    assert [(entry.id, entry.name) for entry in found.classes] == [(2, "house"), (5, "car")]
    half = np.sqrt(200)
    expected = [[1, 2, 11, 22], [45, 40, 55, 60], [50 - half, 50 - half, 50 + half, 50 + half], [0, 0, 20, 9]]
    assert np.allclose(found.by_name["a.png"].xyxy, expected)
    assert found.by_name["a.png"].class_id.tolist() == [2, 5, 2, 2]


@pytest.mark.parametrize("angle", [-300.0, -30.0, 12.5, 77.0])
def test_a_rotated_box_lies_in_its_upright_one_and_touches_it(tmp_path: Path, angle: float) -> None:
    box = read_boxes(coco(tmp_path / "b.json", {"bbox": [100, 80, 40, 16, angle]})).by_name["a.png"].xyxy[0]
    turn = np.radians(angle)
    corners = [(s * 20, t * 8) for s in (-1, 1) for t in (-1, 1)]
    turned = np.array(
        [(100 + x * np.cos(turn) - y * np.sin(turn), 80 + x * np.sin(turn) + y * np.cos(turn)) for x, y in corners]
    )
    assert np.allclose(box, [*turned.min(0), *turned.max(0)])


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"bbox": [1, 2, 0, 5]}, "bad-box"),
        ({"bbox": [1, 2, -3, 5]}, "bad-box"),
        ({"bbox": [1, 2, float("inf"), 5]}, "bad-box"),
        ({"bbox": [1, 2, 3]}, "bad-box"),
        ({"bbox": "1 2 3 4"}, "bad-box"),
        ({"bbox": [True, 2, 3, 4]}, "bad-box"),
        ({}, "bad-box"),
        ({"bbox": [1, 2, 3, 4], "image_id": 9}, "dangling-image"),
        ({"bbox": [1, 2, 3, 4], "image_id": [0]}, "bad-id"),
        ({"bbox": [1, 2, 3, 4], "category_id": 9}, "dangling-category"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, row: dict[str, Any], status: str) -> None:
    found = read_boxes(coco(tmp_path / "b.json", row, {"bbox": [0, 0, 1, 1]}))
    assert len(found.by_name["a.png"]) == 1
    assert len(found.problems) == 1
    assert "annotation 100" in found.problems[0]
    assert found.problems[0].endswith(f"[{status}]")


def test_a_class_map_numbers_by_name(tmp_path: Path) -> None:
    path = coco(tmp_path / "b.json", {"bbox": [0, 0, 2, 2], "category_id": 5}, {"bbox": [0, 0, 2, 2]}, {"bbox": [0, 0, 3, 3]})
    found = read_boxes(path, Classes((ClassEntry(9, "car", "#ff0000"),)))
    assert found.by_name["a.png"].class_id.tolist() == [9]
    assert found.problems == ("2 boxes of 'house', which is no class of the class map [unknown-class]",)


def test_images_are_matched_by_the_end_of_their_paths(tmp_path: Path) -> None:
    names = ["a.png", "x/b.tif", "y/b.png", "gone.png"]
    found = read_boxes(coco(tmp_path / "b.json", {"bbox": [0, 0, 1, 1]}, images=names))
    keys = {"a": "/data/a.jpg", "x--b": "/data/x/b.tif", "y--b": "/data/y/b.tif", "c": "/data/c.tif"}
    matched, left = found.match(keys)
    assert {key: boxes is found.by_name[name] for (key, boxes), name in zip(matched.items(), names, strict=False)} == {
        "a": True,
        "x--b": True,
        "y--b": True,
    }
    assert left == ["gone.png"]
    with pytest.raises(InputError, match="may be any of 2 images"):
        read_boxes(coco(tmp_path / "c.json", images=["b.png"])).match(keys)


def test_boxes_are_cut_to_the_image() -> None:
    boxes = Boxes(np.array([[-5.0, 2, 8, 50], [20, 20, 30, 30], [12, 0, 14, 3]]), np.array([1, 2, 3]))
    inside = boxes.inside(15, 18)
    assert inside.xyxy.tolist() == [[0, 2, 8, 18], [12, 0, 14, 3]]
    assert inside.class_id.tolist() == [1, 3]


@pytest.mark.parametrize(("text", "told"), [("{", "no JSON"), ("[]", "got a list"), ('{"images": []}', "list of annotations")])
def test_files_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match=told):
        read_boxes(tmp_path / "b.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.txt file"):
        read_boxes(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be read"):
        read_boxes(tmp_path / "none.json")
