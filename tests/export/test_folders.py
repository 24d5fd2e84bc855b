import numpy as np
import pytest
from PIL import Image

from terralabel.core.classes import IGNORE, ClassEntry, Classes
from terralabel.export.folders import ClassPng, MmsegFolders
from terralabel.export.names import image_names, relative_sources


def read(path):
    with Image.open(path) as image:
        return image.mode, np.array(image)


def test_png_holds_class_ids(run, tmp_path):
    ClassPng().export(run, tmp_path)
    mode, labels = read(tmp_path / "a.png")
    assert mode == "P"
    assert np.array_equal(labels, run.labels["a"])


def test_png_of_many_classes_is_16_bit(painter, tmp_path):
    classes = Classes((ClassEntry(0, "a", "#000001"), ClassEntry(400, "b", "#000002")))
    run = painter.Run(tmp_path / "run", classes=classes).add(painter.scene(), painter.masks(), [0, 400, 400, 255])
    ClassPng().export(run, tmp_path)
    mode, labels = read(tmp_path / "a.png")
    assert mode.startswith("I")
    assert np.array_equal(labels, run.labels["a"])


def test_stems_that_collide_get_folders(painter):
    scenes = [
        painter.scene("x", source="/d/east/tile.tif", stem="tile"),
        painter.scene("x-1", source="/d/west/Tile.tif", stem="Tile"),
        painter.scene("x-2", source="/d/west/tile.png", stem="tile"),
        painter.scene("other", source="/d/other name\n.tif", stem="other name\n"),
        painter.scene("long", source="/d/l", stem="é" * 127),
    ]
    names = {key: str(name) for key, name in image_names(scenes).items()}
    assert names == {"x": "east/tile", "x-1": "x-1", "x-2": "x-2", "other": "other name\n", "long": "long"}
    assert str(relative_sources(scenes)["x"]) == "east/tile.tif"


def test_mmseg_has_indices_links_lists_and_a_configuration(painter, tmp_path):
    source = tmp_path / "in" / "a.tif"
    source.parent.mkdir()
    source.write_bytes(b"pixels")
    run = painter.Run(tmp_path / "run").add(painter.scene(source=str(source)), painter.masks(), painter.class_ids)
    run.add(painter.scene("b", source=str(source.with_name("b.tif")), split="val"), painter.masks(), painter.class_ids)
    MmsegFolders().export(run, tmp_path / "out")
    MmsegFolders().export(run, tmp_path / "out")  # again: links are replaced
    _, labels = read(tmp_path / "out/ann_dir/train/a.png")
    expected = run.labels["a"].copy()
    expected[expected == 3] = 1  # ids 0 and 3 are indices 0 and 1
    assert np.array_equal(labels, expected)
    assert (tmp_path / "out/img_dir/train/a.tif").read_bytes() == b"pixels"
    assert (tmp_path / "out/train.txt").read_text() == "a\n"
    assert (tmp_path / "out/val.txt").read_text() == "b\n"
    scope: dict = {}
    exec((tmp_path / "out/dataset.py").read_text(), scope)
    assert scope["metainfo"]["classes"] == ("water <&>", "roof")
    assert scope["val_dataset"]["data_prefix"]["seg_map_path"] == "ann_dir/val"
    assert scope["train_dataset"]["ignore_index"] == IGNORE


@pytest.mark.parametrize("name", ['"); import os  #', "'''", "back\\slash"])
def test_class_names_are_never_code(painter, tmp_path, name):
    classes = Classes((ClassEntry(0, name, "#000001"), ClassEntry(3, "b", "#000002")))
    run = painter.Run(tmp_path / "run", classes=classes).add(painter.scene(), painter.masks(), painter.class_ids)
    MmsegFolders(images=True).export(run, tmp_path / "out")
    scope: dict = {}
    exec((tmp_path / "out/dataset.py").read_text(), scope)
    assert scope["metainfo"]["classes"][0] == name


def test_images_are_what_the_run_saw(run, tmp_path):
    MmsegFolders(images=True).export(run, tmp_path)
    mode, pixels = read(tmp_path / "img_dir/train/a.png")
    assert mode == "RGB"
    assert np.array_equal(pixels[:, 5, 1], np.arange(60))
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp")]
