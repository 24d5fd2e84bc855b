"""True masks of single things from every layout, window by window."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.instances import MaskSet, open_masks


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(tmp_path: Path, label: np.ndarray) -> Path:
    save(tmp_path / "images/a.png", np.zeros((*label.shape, 3), np.uint8))
    save(tmp_path / "masks/a.png", label)
    return tmp_path


def boxes(found: MaskSet) -> set[tuple[int, int, int, int]]:
    """All masks as boxes in pixels of their image."""
    out = set()
    for tile in found.tiles:
        shift = np.array([tile.plan.window.x, tile.plan.window.y, 0, 0])
        out |= {tuple((box + shift).tolist()) for box in tile.truth.bbox}
    return out


def test_numbers_and_classes_and_black_and_white_are_read_alike(tmp_path: Path) -> None:
    label = np.zeros((60, 80), np.uint8)
    label[5:15, 5:20], label[5:15, 30:50], label[40:44, 40:44] = 1, 1, 3
    label[50:, 70:] = 255
    two_of_one_value = boxes(open_masks(folder(tmp_path / "classes", label)))
    assert two_of_one_value == {(5, 5, 15, 10), (30, 5, 20, 10), (40, 40, 4, 4)}
    assert boxes(open_masks(tmp_path / "classes", smallest=17)) == {(5, 5, 15, 10), (30, 5, 20, 10)}
    white = np.where((label > 0) & (label < 255), 255, 0).astype(np.uint8)
    assert boxes(open_masks(folder(tmp_path / "white", white))) == two_of_one_value
    numbered = label.astype(np.uint16) * 300
    numbered[label == 255] = 0
    assert boxes(open_masks(folder(tmp_path / "numbered", numbered))) == two_of_one_value


def test_a_large_raster_is_cut_into_windows_and_every_thing_is_seen_once_and_whole(tmp_path: Path) -> None:
    label = np.zeros((200, 300), np.uint8)
    things = [(x, y, 12, 9) for x in range(3, 280, 23) for y in range(4, 185, 17)]
    for x, y, width, height in things:
        label[y : y + height, x : x + width] = 1
    label[190:199, :] = 2  # longer than a window
    root = folder(tmp_path, label)
    found = open_masks(root / "images/a.png", root / "masks/a.png", tile_size=96)
    assert boxes(found) == set(things)
    assert sum(len(tile.truth) for tile in found.tiles) == len(things)
    assert all(tile.plan.window.width == 96 for tile in found.tiles)
    assert len({tile.key for tile in found.tiles}) == len(found.tiles)
    for tile in found.tiles:
        union = np.any(list(tile.truth), axis=0)
        assert (label[tile.plan.window.slices()][union] == 1).all()
    assert open_masks(root).tiles[0].plan.window == Window(0, 0, 300, 200)


def test_coco_gives_instances_that_touch_apart(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((40, 40, 3), np.uint8))
    squares = [[5, 5, 15, 5, 15, 15, 5, 15], [15, 5, 25, 5, 25, 15, 15, 15]]
    rows = [
        {"id": k, "image_id": 1, "category_id": 1, "segmentation": [ring], "bbox": [0, 0, 1, 1], "area": 100, "iscrowd": 0}
        for k, ring in enumerate(squares)
    ]
    (tmp_path / "instances.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 40}],
                "annotations": rows,
                "categories": [{"id": 1, "name": "house"}],
            }
        )
    )
    expected = {(5, 5, 10, 10), (15, 5, 10, 10)}
    assert boxes(open_masks(tmp_path)) == boxes(open_masks(tmp_path, tmp_path / "instances.json")) == expected


def test_texts_with_masks_keep_their_splits(tmp_path: Path) -> None:
    for split, number in (("train", 1), ("val", 2)):
        save(tmp_path / f"images/{number}.png", np.zeros((30, 30, 3), np.uint8))
        mask = np.zeros((30, 30), np.uint8)
        mask[3:13, 4:14] = 1
        save(tmp_path / f"masks/{number}.png", mask)
        (tmp_path / f"output_phrase_{split}.txt").write_text(f"{number} the house\n{number} the only house\n")
    found = open_masks(tmp_path)
    assert [(tile.split, tile.truth.area.tolist()) for tile in found.tiles] == [("train", [100]), ("val", [100])]


def test_class_ids_of_ours_begin_at_0(tmp_path: Path) -> None:
    label = np.full((40, 40), 255, np.uint8)
    label[4:14, 4:14], label[20:30, 20:30] = 0, 1
    root = folder(tmp_path, label)
    pair = (LabelledImage("a", root / "images/a.png", root / "masks/a.png"),)
    classes = Classes((ClassEntry(0, "house", "#ff0000"), ClassEntry(1, "background", "#000000")))
    assert boxes(open_masks(LabelledSet("drawn", classes, pair))) == {(4, 4, 10, 10)}


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    label = np.zeros((20, 20), np.uint8)
    label[2:12, 2:12] = 1
    root = folder(tmp_path / "set", label)
    save(root / "images/b.png", np.zeros((20, 20, 3), np.uint8))
    save(root / "masks/b.png", np.ones((10, 10), np.uint8))
    found = open_masks(root)
    assert len(found.tiles) == 1 and "must be of one size" in found.problems[0]
    with pytest.raises(InputError, match="does not exist"):
        open_masks(tmp_path / "nowhere")
    with pytest.raises(InputError, match="give the file of its masks"):
        open_masks(root / "images/a.png")
    save(root / "masks/a.png", np.zeros((20, 20), np.uint8))
    with pytest.raises(InputError, match="no mask that could be used"):
        open_masks(root)
