"""COCO files as labels: what is drawn, in which order, and what is refused by its id."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks
from tests.imagery.datasets.fake import coco, noise, save

from terralabel.errors import InputError
from terralabel.imagery.datasets import open_labelled, read_label


def edited(root: Path, *rows: dict[str, Any], **top: Any) -> Path:
    """The fake set with these annotations in place of its own."""
    path = coco(root) / "annotations/instances_train.json"
    data = json.loads(path.read_text())
    if rows:
        data["annotations"] = [{"id": 10 + k, "image_id": 7, "category_id": 1, **row} for k, row in enumerate(rows)]
    path.write_text(json.dumps({**data, **top}))
    return root


def test_small_things_lie_on_large_ones(tmp_path: Path) -> None:
    dataset = open_labelled(coco(tmp_path))
    assert (dataset.format, dataset.splits, dataset.problems) == ("coco", {"train": 2}, ())
    assert [(entry.id, entry.name) for entry in dataset.classes] == [(1, "field"), (3, "pond")]
    expected = np.full((20, 30), 255)
    expected[2:12, 2:12], expected[4:8, 4:8] = 1, 3
    assert (read_label(dataset, dataset.images[0]) == expected).all()


def test_run_lengths_are_column_major_and_crowds_no_label(tmp_path: Path) -> None:
    dataset = open_labelled(coco(tmp_path))
    expected = np.full(600, 255)
    expected[100:150] = 1
    assert (read_label(dataset, dataset.images[1]) == expected.reshape(30, 20).T).all()


def test_a_set_survives_pickling(tmp_path: Path) -> None:
    dataset = open_labelled(coco(tmp_path))
    again = pickle.loads(pickle.dumps(dataset))
    assert all((read_label(again, item) == read_label(dataset, item)).all() for item in dataset.images)


def test_compressed_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[3:9, 11:25] = 1
    code = coco_masks.encode(np.asfortranarray(mask))
    dataset = open_labelled(edited(tmp_path, {"segmentation": {"size": [20, 30], "counts": code["counts"].decode()}}))
    assert (read_label(dataset, dataset.images[0]) == np.where(mask, 1, 255)).all()


def test_uncovered_pixels_are_the_class_called_background(tmp_path: Path) -> None:
    edited(tmp_path, categories=[{"id": 0, "name": "Background"}, {"id": 1, "name": "field"}, {"id": 3, "name": "pond"}])
    dataset = open_labelled(tmp_path)
    assert set(np.unique(read_label(dataset, dataset.images[0]))) == {0, 1, 3}


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"segmentation": {"size": [20, 30], "counts": [1, 2]}}, "rle-short"),
        ({"segmentation": {"size": [20, 30], "counts": [1, 900]}}, "bad-rle"),
        ({"segmentation": {"size": [20, 30], "counts": [500, 200]}}, "rle-long"),
        ({"segmentation": {"size": [20, 30], "counts": [-5, 605]}}, "bad-rle"),
        ({"segmentation": {"size": [20, 30], "counts": [-5, 600, 5]}}, "rle-negative"),
        ({"segmentation": {"size": [200000, 300000], "counts": [60000000000]}}, "rle-size"),
        ({"segmentation": [[1, 1, 5, 5]]}, "few-points"),
        ({"segmentation": [[0, 0, 9, 9, 9, 0, 0, 9]]}, "self-crossing"),
        ({"segmentation": [[0, 0, float("nan"), 9, 9, 0]]}, "bad-coordinates"),
        ({"segmentation": [[100, 100, 120, 100, 120, 120]]}, "outside"),
        ({"segmentation": None}, "bad-segmentation"),
        ({"category_id": 99, "segmentation": [[0, 0, 9, 0, 9, 9]]}, "dangling-category"),
        ({"image_id": 99, "segmentation": [[0, 0, 9, 0, 9, 9]]}, "dangling-image"),
        ({"image_id": [7], "segmentation": [[0, 0, 9, 0, 9, 9]]}, "dangling-image"),
        ({"id": True, "segmentation": [[0, 0, 9, 0, 9, 9]]}, "bad-id"),
    ],
)
def test_bad_annotations_are_named_and_the_others_drawn(tmp_path: Path, row: dict[str, Any], status: str) -> None:
    good = {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    dataset = open_labelled(edited(tmp_path, row, good))
    assert len(dataset.problems) == 1
    assert dataset.problems[0].endswith(f"[{status}]")
    assert "annotation 10" in dataset.problems[0] or "annotation 0 (by position)" in dataset.problems[0]
    assert int((read_label(dataset, dataset.images[0]) == 1).sum()) == 16


def test_a_size_that_is_claimed_is_not_allocated(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.png", "width": 1_000_000, "height": 1_000_000}]
    row = {"segmentation": {"size": [1_000_000, 1_000_000], "counts": [10**12]}}
    dataset = open_labelled(edited(tmp_path, row, images=images))
    with pytest.raises(InputError, match="is 30 x 20 pixels, its label 1000000 x 1000000"):
        read_label(dataset, dataset.images[0])


def test_duplicates_and_very_many_problems(tmp_path: Path) -> None:
    square = {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]}
    dataset = open_labelled(edited(tmp_path, *[{**square, "id": 5}] * 40))
    assert len(dataset.problems) == 21
    assert "id was used before" in dataset.problems[0]
    assert dataset.problems[-1] == "and 19 more annotations that cannot be drawn"


def test_images_that_are_not_there(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "images/b.png").unlink()
    dataset = open_labelled(tmp_path)
    assert len(dataset) == 1
    assert dataset.problems == ("instances_train.json: 1 of 2 images are not there, the first: 'b.png'",)
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(InputError, match="none of its images is there"):
        open_labelled(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", ""])
def test_names_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / "secret.png", noise(20, 30, 0))
    root = tmp_path / "set"
    images = [
        {"id": 7, "file_name": name, "width": 30, "height": 20},
        {"id": 8, "file_name": "b.png", "width": 30, "height": 20},
    ]
    root.mkdir()
    dataset = open_labelled(edited(root, images=images))
    assert [item.key for item in dataset.images] == ["b"]


def test_splits_and_a_file_elsewhere(tmp_path: Path) -> None:
    coco(tmp_path)
    source = tmp_path / "annotations/instances_train.json"
    data = json.loads(source.read_text())
    save(tmp_path / "val2017/c.png", noise(20, 30, 0))
    row = {"id": 1, "file_name": "c.png", "width": 30, "height": 20}
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps({**data, "images": [row], "annotations": []}))
    dataset = open_labelled(tmp_path)
    assert dataset.splits == {"train": 2, "val": 1}
    assert (read_label(dataset, dataset.split("val").images[0]) == 255).all()
    alone = open_labelled(tmp_path / "images", labels=source)
    assert [item.key for item in alone.images] == ["a", "b"]


def test_category_ids_past_a_byte_are_numbered_anew(tmp_path: Path) -> None:
    dataset = open_labelled(
        edited(
            tmp_path,
            {"category_id": 900, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
            categories=[{"id": 5, "name": "field"}, {"id": 900, "name": "pond"}],
        )
    )
    assert [(entry.id, entry.name) for entry in dataset.classes] == [(0, "field"), (1, "pond")]
    assert int((read_label(dataset, dataset.images[0]) == 1).sum()) == 16


def test_files_that_are_no_coco(tmp_path: Path) -> None:
    coco(tmp_path)
    path = tmp_path / "annotations/instances_train.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2] + ' "annotations" ')
    with pytest.raises(InputError, match="no JSON that can be read"):
        open_labelled(tmp_path, format="coco")
    path.write_text(text.replace('"categories"', '"kinds"'))
    with pytest.raises(InputError, match="without a list of categories"):
        open_labelled(tmp_path)
