"""Plain folders, mmsegmentation's layout and runs as labelled sets; label files as ids."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from terralabel.contracts import DatasetReader
from terralabel.core.classes import Classes
from terralabel.core.grid import Window
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.imagery.datasets.class_lists import read_classes
from terralabel.registry import create, names

Picture = Callable[..., Path]


def ids(*values: int) -> np.ndarray:
    """(24, 32) uint8 in vertical stripes of these values."""
    return np.repeat(np.array(values, dtype=np.uint8)[None], 24, 0)[:, np.arange(32) * len(values) // 32]


def test_images_beside_labels(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    for name, label in (("a", ids(1, 2)), ("b", ids(2, 3, 255))):
        picture(tmp_path / f"images/{name}.jpg", scene)
        picture(tmp_path / f"labels/{name}.png", label)
    dataset = open_labelled(tmp_path)
    assert dataset.format == "folder"
    assert [entry.id for entry in dataset.classes] == [1, 2, 3]
    assert [(item.key, item.split) for item in dataset.images] == [("a", ""), ("b", "")]
    found = read_label(dataset, dataset.images[1])
    assert found.dtype == np.uint8
    assert (found == ids(2, 3, 255)).all()
    assert (read_label(dataset, dataset.images[1], Window(20, 3, 12, 5)) == ids(2, 3, 255)[3:8, 20:]).all()
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_labels_elsewhere_bring_their_class_map(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.jpg", scene)
    picture(tmp_path / "drawn/a.png", ids(0, 1))
    (tmp_path / "drawn/classes.json").write_text('{"classes": [{"id": 0, "name": "sea"}, {"id": 1, "name": "slick"}]}')
    dataset = open_labelled(tmp_path / "images", labels=tmp_path / "drawn")
    assert [entry.name for entry in dataset.classes] == ["sea", "slick"]
    (tmp_path / "own.json").write_text('{"classes": [{"id": 0, "name": "water"}, {"id": 1, "name": "oil"}]}')
    dataset = open_labelled(tmp_path / "images", labels=tmp_path / "drawn", classes=tmp_path / "own.json")
    assert [entry.name for entry in dataset.classes] == ["water", "oil"], "what is given wins"


def test_labels_that_do_not_exist_are_named(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.jpg", scene)
    with pytest.raises(InputError, match="nowhere does not exist: expected the folder or the file of labels"):
        open_labelled(tmp_path / "images", labels=tmp_path / "nowhere")


def test_two_folders_and_values_to_ignore(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "here/a.png", scene)
    picture(tmp_path / "there/a.png", ids(0, 1, 2))
    dataset = open_labelled(tmp_path / "here", labels=tmp_path / "there", ignore=[0])
    assert [entry.id for entry in dataset.classes] == [1, 2]
    assert (read_label(dataset, dataset.images[0]) == ids(255, 1, 2)).all()


def test_relative_folders(tmp_path: Path, picture: Picture, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "here/images/a.png", scene)
    picture(tmp_path / "here/labels/a.png", ids(1, 2))
    monkeypatch.chdir(tmp_path / "here")
    for source, labels in (("images", "labels"), (".", None), ("../here/images", "../here/labels"), ("../here", None)):
        dataset = open_labelled(source, labels=labels)
        assert (read_label(dataset, dataset.images[0]) == ids(1, 2)).all()


def test_splits_inside_and_around(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    for split in ("train", "val"):
        picture(tmp_path / f"inside/images/{split}/a.png", scene)
        picture(tmp_path / f"inside/masks/{split}/a.png", ids(0, 1))
        picture(tmp_path / f"around/{split}/images/a.png", scene)
        picture(tmp_path / f"around/{split}/masks/a.png", ids(0, 1))
    for layout in ("inside", "around"):
        dataset = open_labelled(tmp_path / layout)
        assert dataset.splits == {"train": 1, "val": 1}
        assert len({item.key for item in dataset.images}) == 2
        assert all(item.image.parts[len(tmp_path.parts) + 1 :].count(item.split) == 1 for item in dataset.images)
        assert len(dataset.split("val")) == 1
        with pytest.raises(InputError, match=r"no images of split 'test'; it has: train \(1\), val \(1\)"):
            dataset.split("test")


@pytest.mark.parametrize(("image", "label"), [("{}_sat", "{}_mask"), ("{}", "{}_labelTrainIds"), ("x_{}_RGB", "x_{}_label")])
def test_endings_that_all_names_share(tmp_path: Path, picture: Picture, scene: np.ndarray, image: str, label: str) -> None:
    for name in ("2_10", "2_11", "31_1"):
        picture(tmp_path / f"images/{image.format(name)}.png", scene)
        picture(tmp_path / f"labels/{label.format(name)}.png", ids(0, 1))
    dataset = open_labelled(tmp_path)
    assert dataset.problems == ()
    assert [item.label and item.label.stem for item in dataset.images] == [
        label.format(name) for name in ("2_10", "2_11", "31_1")
    ]


def test_left_over_files_are_told(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"images/{name}.png", scene)
    for name in ("b", "c"):
        picture(tmp_path / f"labels/{name}.png", ids(0, 1))
    (tmp_path / "images/broken.png").write_bytes(b"<html>")
    dataset = open_labelled(tmp_path)
    assert [item.label is None for item in dataset.images] == [True, False]
    assert len(dataset.labelled) == 1
    text = "\n".join(dataset.problems)
    assert "broken.png is no image: it looks like an HTML page" in text
    assert "1 of 2 images have no label" in text
    assert "1 of 2 labels have no image" in text
    with pytest.raises(InputError, match=r"a\.png has no label file"):
        read_label(dataset, dataset.images[0])


def test_mmseg_folders(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    for split, name in (("train", "a"), ("train", "b"), ("val", "a")):
        picture(tmp_path / f"img_dir/{split}/{name}.jpg", scene)
        picture(tmp_path / f"ann_dir/{split}/{name}.png", ids(0, 1, 2), palette=[9, 9, 9, 200, 0, 0, 0, 200, 0])
    (tmp_path / "classes.txt").write_text("water\nland\nroad\n")
    dataset = open_labelled(tmp_path)
    assert (dataset.format, dataset.splits) == ("mmseg", {"train": 2, "val": 1})
    assert [(entry.id, entry.name) for entry in dataset.classes] == [(0, "water"), (1, "land"), (2, "road")]
    assert (read_label(dataset, dataset.images[0]) == ids(0, 1, 2)).all(), "a palette's indices, not its colours"


def class_map(path: Path, **extra: object) -> Path:
    classes = [{"id": 3, "name": "red", "color": "#ff0000"}, {"id": 7, "name": "green", "color": "#00ff00"}]
    path.write_text(json.dumps({"version": 1, "classes": classes, **extra}))
    return path


def test_colours_of_the_class_map(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    shown = np.zeros((24, 32, 3), np.uint8)
    shown[:, :10], shown[:, 10:20] = (255, 0, 0), (0, 255, 0)
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "labels/a.png", shown)
    with pytest.raises(InputError, match=r"coded in colours \(3 bands: #000000 \(288 px\), #00ff00 \(240 px\)"):
        open_labelled(tmp_path)
    class_map(tmp_path / "classes.json", label_colors=True)
    dataset = open_labelled(tmp_path)
    with pytest.raises(InputError, match=r"colours that are no classes: #000000 \(288 px\)"):
        read_label(dataset, dataset.images[0])
    class_map(tmp_path / "classes.json", label_colors=True, label_ignore_colors=["#000000"])
    dataset = open_labelled(tmp_path)
    found = read_label(dataset, dataset.images[0])
    assert [int((found == value).sum()) for value in (3, 7, 255)] == [240, 240, 288]


def test_unknown_ids_are_listed_unless_mapped(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "labels/a.png", ids(3, 7, 0, 9))
    dataset = open_labelled(tmp_path, classes=class_map(tmp_path / "map.json"))
    with pytest.raises(InputError, match=r"no classes: 0 \(192 px\), 9 \(192 px\); the classes are 3, 7") as caught:
        read_label(dataset, dataset.images[0])
    assert caught.value.status == "unknown-ids"
    mapped = open_labelled(tmp_path, classes=class_map(tmp_path / "map.json", label_values={"0": 255, "9": 3}))
    assert (read_label(mapped, mapped.images[0]) == ids(3, 7, 255, 3)).all()


def test_binary_masks_need_a_threshold(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "masks/a.png", ids(0, 255))
    with pytest.raises(InputError, match="0 and 255 only"):
        open_labelled(tmp_path)
    dataset = open_labelled(tmp_path, threshold=128)
    assert [entry.name for entry in dataset.classes] == ["background", "foreground"]
    assert (read_label(dataset, dataset.images[0]) == ids(0, 1)).all()


def test_instances_are_no_classes(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "masks/a.png", np.arange(24 * 32, dtype=np.uint16).reshape(24, 32))
    with pytest.raises(InputError, match="instances"):
        open_labelled(tmp_path)
    dataset = open_labelled(tmp_path, threshold=1)
    assert int(read_label(dataset, dataset.images[0]).sum()) == 24 * 32 - 1


def test_labels_that_are_none(tmp_path: Path, picture: Picture, scene: np.ndarray, write_tif: Picture) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "labels/a.jpg", ids(0, 1))
    with pytest.raises(InputError, match="JPEG: compression has changed its ids"):
        open_labelled(tmp_path)
    (tmp_path / "labels/a.jpg").unlink()
    write_tif(tmp_path / "labels/a.tif", np.full((24, 32), 0.5, np.float32))
    with pytest.raises(InputError, match=r"1 band\(s\) of float32; expected one band of whole numbers"):
        open_labelled(tmp_path)
    write_tif(tmp_path / "labels/a.tif", ids(0, 1).astype(np.int16) - 1, nodata=-1)
    dataset = open_labelled(tmp_path, classes=class_map(tmp_path / "map.json"))
    with pytest.raises(InputError, match=r"no classes: 0 \(384 px\);"):
        read_label(dataset, dataset.images[0])
    cut = picture(tmp_path / "cut.png", scene[..., 0]).read_bytes()
    (tmp_path / "labels/a.tif").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(InputError, match="cut short"):
        read_label(dataset, dataset.images[0])


def test_nodata_is_no_label(tmp_path: Path, picture: Picture, scene: np.ndarray, write_tif: Picture) -> None:
    picture(tmp_path / "images/a.png", scene)
    (tmp_path / "labels").mkdir()
    write_tif(tmp_path / "labels/a.tif", ids(0, 1, 2).astype(np.int16) - 1, nodata=-1)
    dataset = open_labelled(tmp_path)
    assert [entry.id for entry in dataset.classes] == [0, 1]
    assert (read_label(dataset, dataset.images[0]) == ids(255, 0, 1)).all()


def test_a_large_label_is_looked_through_in_strips(
    tmp_path: Path, picture: Picture, scene: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("terralabel.imagery.datasets.reading._STRIP", 32 * 16)
    label = ids(0, 1)
    label[20:, 30:] = 9  # in the last strip only
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "labels/a.png", label)
    assert [entry.id for entry in open_labelled(tmp_path).classes] == [0, 1, 9]


def test_another_programs_classes_json_does_not_stop_a_threshold(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "masks/a.png", ids(0, 5))
    (tmp_path / "classes.json").write_text('{"a.png": {"1": "roof"}}')
    with pytest.raises(InputError, match=r"classes\.json: Not a class map"):
        open_labelled(tmp_path)
    assert len(open_labelled(tmp_path, threshold=1).classes) == 2


def test_label_of_another_size(tmp_path: Path, picture: Picture, scene: np.ndarray) -> None:
    picture(tmp_path / "images/a.png", scene)
    picture(tmp_path / "labels/a.png", ids(0, 1)[:, :30])
    dataset = open_labelled(tmp_path)
    with pytest.raises(InputError, match="is 30 x 24 pixels"):
        read_label(dataset, dataset.images[0], Window(10, 0, 22, 24))


def make_run(folder: Path, sources: list[Path]) -> Path:
    """The documented files of a run, as far as a reader needs them."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    lines = [{"scene": {"key": source.stem, "source": str(source), "split": None}} for source in sources]
    lines.append({"failure": {"source": "gone.tif", "status": "truncated", "reason": "gone.tif is cut short"}})
    (folder / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "classes.json").write_text(Classes.of_clusters(3).to_json())
    return folder


def test_run_folder(tmp_path: Path, picture: Picture, scene: np.ndarray, write_tif: Picture) -> None:
    sources = [picture(tmp_path / f"{name}.png", scene) for name in "ab"]
    run = make_run(tmp_path / "run", sources)
    with pytest.raises(InputError, match="has no labels yet"):
        open_labelled(run)
    (run / "labels").mkdir()
    write_tif(run / "labels/a.tif", ids(0, 2, 255), nodata=255)
    dataset = open_labelled(run)
    assert (dataset.format, len(dataset), len(dataset.labelled)) == ("run", 2, 1)
    assert (read_label(dataset, dataset.images[0]) == ids(0, 2, 255)).all()
    assert "gone.tif is cut short" in dataset.problems
    assert any("b.png has no label" in problem for problem in dataset.problems)


def test_more_classes_than_a_byte_holds(tmp_path: Path, picture: Picture, scene: np.ndarray, write_tif: Picture) -> None:
    run = make_run(tmp_path / "run", [picture(tmp_path / "a.png", scene)])
    (run / "labels").mkdir()
    write_tif(run / "labels/a.tif", ids(0, 2).astype(np.uint16))
    (run / "classes.json").write_text(Classes.of_clusters(300).to_json())
    with pytest.raises(InputError, match="at most 255 classes"):
        open_labelled(run)


def test_wrong_doors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_labelled(tmp_path / "none")
    with pytest.raises(InputError, match="no data set that is known"):
        open_labelled(tmp_path)
    with pytest.raises(InputError, match="expected files of the same names there"):
        open_labelled(tmp_path, format="folder")
    with pytest.raises(SettingsError, match="mmseg"):
        open_labelled(tmp_path, format="mmsge")


@pytest.mark.parametrize("name", names("datasets"))
def test_every_reader_keeps_the_contract(name: str, tmp_path: Path) -> None:
    reader = create("datasets", name)
    assert isinstance(reader, DatasetReader)
    assert reader.name == name
    assert reader.recognises(tmp_path) is False
    assert reader.recognises(tmp_path / "not there") is False


def test_binary_masks_tell_where_a_label_is(tmp_path: Path, picture: Picture, scene: np.ndarray, write_tif: Picture) -> None:
    run = make_run(tmp_path / "run", [picture(tmp_path / "a.png", scene)])
    (run / "labels").mkdir()
    write_tif(run / "labels/a.tif", ids(0, 2, 255), nodata=255)
    dataset = open_labelled(run, binary=True)
    assert [(entry.id, entry.name) for entry in dataset.classes] == [(0, "no mask"), (1, "mask")]
    assert (read_label(dataset, dataset.images[0]) == ids(1, 1, 0)).all()
    assert (read_label(dataset, dataset.images[0], Window(20, 0, 12, 24)) == ids(1, 1, 0)[:, 20:]).all()
    write_tif(run / "labels/a.tif", ids(0, 9, 255), nodata=255)
    with pytest.raises(InputError, match=r"no classes: 9"):
        read_label(dataset, dataset.images[0])


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"classes": [{"id": 1e400, "name": "a", "color": "#ff0000"}]}',
        '{"classes": [{"id": 255, "name": "a", "color": "#ff0000"}]}',
        '{"classes": [{"id": 1, "name": "a", "color": "red"}]}',
        '{"classes": [], "label_values": {"0": 1e400}}',
        '{"classes": [], "label_values": {"x": 1}}',
        '{"classes": [], "label_values": [1]}',
        '{"classes": [], "label_threshold": "much"}',
        '{"classes": [], "label_colors": true, "label_ignore_colors": ["#00"]}',
        '{"classes": [{"id": 1, "name": "a", "color": "#ff0000"}, {"id": 2, "name": "b", "color": "#ff0000"}], "label_colors": 1}',
    ],
)
def test_class_maps_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=r"classes\.json: ") as caught:
        read_classes(tmp_path / "classes.json")
    assert "\n" not in str(caught.value)
