import cv2
import numpy as np
import yaml

from terralabel.core.classes import ClassEntry, Classes
from terralabel.export.yolo import Yolo

SCALE = 8


def drawn(line):
    """A label line filled as OpenCV does, at 8 times the size, then sampled at pixel centres."""
    path = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * [80, 60]
    canvas = np.zeros((60 * SCALE, 80 * SCALE), dtype=np.uint8)
    cv2.fillPoly(canvas, [np.round(path * SCALE).astype(np.int32)], 1)
    return canvas[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE].astype(bool)


def test_polygons_fill_to_the_masks_with_holes_and_parts(run, painter, tmp_path):
    Yolo(images=True).export(run, tmp_path)
    lines = (tmp_path / "labels/train/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "1"]
    for line, mask in zip(lines, painter.masks(), strict=False):
        wrong = drawn(line) ^ mask
        assert wrong.sum() <= 0.01 * mask.sum()  # bridges to holes have no width, but OpenCV draws them
    assert (tmp_path / "images/train/a.png").exists()


def test_speckle_is_joined_in_linear_time(painter, tmp_path):
    speckle = np.random.default_rng(0).random((60, 80)) < 0.4
    run = painter.Run(tmp_path / "run").add(painter.scene(), [speckle], [0])
    Yolo(images=True).export(run, tmp_path)
    path = np.array((tmp_path / "labels/train/a.txt").read_text().split()[1:], dtype=float).reshape(-1, 2) * [80, 60]
    x, y = path.T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert abs(area - speckle.sum()) < 0.01 * speckle.sum()  # bridges enclose nothing


def test_coordinates_are_normalised(run, tmp_path):
    Yolo(images=True).export(run, tmp_path)
    values = np.array((tmp_path / "labels/train/a.txt").read_text().split()[1:9], dtype=float)
    assert values.reshape(-1, 2).min(0).tolist() == [0.5625, 0.0833]
    assert values.reshape(-1, 2).max(0).tolist() == [0.9375, 0.9167]


def test_yaml_survives_odd_names(painter, tmp_path):
    names = ['a: "b" #', "yes", "é\n- x"]
    classes = Classes(tuple(ClassEntry(k, name, "#000000") for k, name in enumerate(names)))
    run = painter.Run(tmp_path / "run", classes=classes)
    for key, split in (("a", "train"), ("b", "val")):
        run.add(painter.scene(key, split=split), painter.masks(), [0, 1, 2, 255])
    Yolo(images=True).export(run, tmp_path)
    data = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert data["names"] == dict(enumerate(names))
    assert (data["train"], data["val"]) == ("images/train", "images/val")


def test_images_are_links_by_default(painter, tmp_path):
    source = tmp_path / "a.jpg"
    source.write_bytes(b"x")
    run = painter.Run(tmp_path / "run").add(painter.scene(source=str(source)), painter.masks(), painter.class_ids)
    Yolo().export(run, tmp_path / "out")
    assert (tmp_path / "out/images/train/a.jpg").is_symlink()
    assert (tmp_path / "out/images/train/a.jpg").read_bytes() == b"x"
