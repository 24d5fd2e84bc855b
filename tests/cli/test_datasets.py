"""The verbs on labelled data sets, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tests.imagery.datasets.fake import isaid, noise, patches, save

from terralabel.registry import names


def test_list_names_every_format(say: Callable) -> None:
    said = say("datasets", "list")
    assert said.code == 0
    assert [line.split()[0] for line in said.out.splitlines()] == names("datasets")
    assert all(len(line.split()) > 3 for line in said.out.splitlines())


def test_check_tells_shares_and_leaves_with_two_when_something_is_wrong(say: Callable, tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"images/{name}.png", noise(20, 30, 0))
        save(tmp_path / f"labels/{name}.png", patches(20, 30, 3, 0))
    said = say("datasets", "check", tmp_path)
    assert said.code == 0
    assert "format folder" in said.out
    said = say("datasets", "check", tmp_path, "--ignore", "0", "--sample", "0")
    assert "255  (no label)" in said.out
    save(tmp_path / "labels/b.png", patches(10, 30, 3, 0))
    said = say("datasets", "check", tmp_path)
    assert said.code == 2
    assert "they must be of one size. [size]" in said.out
    said = say("datasets", "check", tmp_path, "--ignore", "x")
    assert (said.code, "--ignore: expected class ids" in said.err) == (1, True)
    said = say("datasets", "check", tmp_path, "--format", "isaid")
    assert (said.code, "iSAID's page" in said.err) == (1, True)


def test_crop_then_crop_again(say: Callable, tmp_path: Path) -> None:
    isaid(tmp_path / "raw")
    said = say("datasets", "crop", tmp_path / "raw", "--out", tmp_path / "crops", "--size", "64")
    assert said.code == 0
    assert "18 crops of 3 scenes (18 written)" in said.out
    said = say("datasets", "crop", tmp_path / "raw", "--out", tmp_path / "crops", "--size", "64")
    assert "(0 written, 18 were there)" in said.out
    assert "format isaid" in say("datasets", "check", tmp_path / "crops").out


def test_detect_label_then_status_and_export(say: Callable, tmp_path: Path) -> None:
    pixels = noise(64, 64, 0) // 16
    pixels[10:30, 10:40] += np.uint8(180)
    save(tmp_path / "images/a.png", pixels)
    boxes = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, "bbox": [9, 9, 32, 22]}],
        "categories": [{"id": 4, "name": "roof"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    words = ["detect-label", tmp_path / "images", "--boxes", tmp_path / "boxes.json", "--out", tmp_path / "run"]
    said = say(*words, "--masks", "tree", "--workers", "0")
    assert (said.code, "1 of 1 boxes, by tree" in said.out) == (0, True)
    assert "run of" not in say("status", tmp_path / "run").err
    said = say("export", tmp_path / "run", "--format", "coco", "--out", tmp_path / "out")
    assert said.code == 0
    rows = json.loads((tmp_path / "out/annotations/instances.json").read_text())["annotations"]
    assert [(row["category_id"], 500 < row["area"] < 700) for row in rows] == [(4, True)]


def test_draw_makes_rasters_and_leaves_with_two_when_shapes_are_left_out(say: Callable, tmp_path: Path) -> None:
    save(tmp_path / "images/one.png", noise(20, 30, 0))
    square = {"type": "Polygon", "coordinates": [[[2, 2], [12, 2], [12, 12], [2, 12], [2, 2]]]}
    feature = {"type": "Feature", "properties": {"kind": "roof"}, "geometry": square}
    (tmp_path / "d.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    given = [tmp_path / "images", "--drawing", tmp_path / "d.geojson", "--out", tmp_path / "out", "--class-field", "kind"]
    said = say("datasets", "draw", *given, "--rest", "ground")
    assert said.code == 0, said.err
    assert "1 of 1 images have a label" in said.out and "0 ground, 1 roof; 255 no label" in said.out
    said = say(
        "datasets",
        "check",
        tmp_path / "images",
        "--labels",
        tmp_path / "out/labels",
        "--classes",
        tmp_path / "out/classes.json",
    )
    assert "1  roof         16.67 %" in said.out
    said = say("datasets", "check", tmp_path / "images", "--labels", tmp_path / "d.geojson")
    assert (said.code, "shapes drawn in a GIS become rasters first: terralabel datasets draw" in said.err) == (1, True)
    feature["geometry"] = None
    (tmp_path / "d.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature, {**feature, "geometry": square}]})
    )
    said = say("datasets", "draw", *given)
    assert (said.code, "feature 0 has no geometry" in said.err) == (2, True)
