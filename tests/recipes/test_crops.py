"""Raw releases as crops: the windows and names of the papers, resumable, in bounded memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.errors import InputError, RunError, SettingsError
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.recipes.crops import crop_dataset
from tests.imagery.datasets.fake import isaid, loveda, potsdam, save
from tests.recipes.conftest import tree_hashes


def test_isaid_windows_and_names(tmp_path: Path) -> None:
    raw = isaid(tmp_path / "raw", (100, 130))
    before = tree_hashes(raw)
    done = crop_dataset(raw, tmp_path / "crops", size=64, overlap=24)
    assert tree_hashes(raw) == before
    assert (done.scenes, done.crops, done.written, done.failures) == (3, 3 * 6, 3 * 6, ())
    names = sorted(path.name for path in (tmp_path / "crops/img_dir/val").iterdir())
    # rows 0-64, 36-100; columns 0-64, 40-104, 66-130: stride 40, the last shifted back
    assert names == sorted(f"P0003_{y}_{y + 64}_{x}_{x + 64}.png" for y in (0, 36) for x in (0, 40, 66))
    assert (tmp_path / "crops/ann_dir/val/P0003_36_100_66_130_instance_color_RGB.png").is_file()


def test_isaid_crops_are_the_scene(tmp_path: Path) -> None:
    raw = isaid(tmp_path / "raw", (100, 130))
    crop_dataset(raw, tmp_path / "crops", size=64, overlap=24)
    whole, crops = open_labelled(raw), open_labelled(tmp_path / "crops")
    assert (crops.format, crops.splits, crops.problems) == ("isaid", {"train": 12, "val": 6}, ())
    assert crops.classes == whole.classes
    scene = whole.split("val").images[0]
    label, picture = read_label(whole, scene), np.asarray(Image.open(scene.image))
    for item in crops.split("val").images:
        y0, y1, x0, x1 = (int(word) for word in item.key.split("_")[1:])
        assert (read_label(crops, item) == label[y0:y1, x0:x1]).all()
        assert (np.asarray(Image.open(item.image)) == picture[y0:y1, x0:x1]).all()


def test_the_crops_of_the_papers(tmp_path: Path) -> None:
    """896 pixels with stride 512: 1200 x 1000 gives 2 x 2; a small image is filled up to one crop."""
    raw = tmp_path / "raw"
    for split, name, size in (("train", "P0000", (1000, 1200, 3)), ("val", "P0003", (50, 60, 3))):
        save(raw / f"{split}/images/{name}.png", np.full(size, 9, np.uint8))
        save(raw / f"{split}/Semantic_masks/{name}_instance_color_RGB.png", np.zeros(size, np.uint8))
    done = crop_dataset(raw, tmp_path / "crops")
    assert done.crops == 4 + 1
    crops = open_labelled(tmp_path / "crops")
    assert [item.key for item in crops.images if item.key.startswith("P0000")] == [
        f"P0000_{y}_{y + 896}_{x}_{x + 896}" for y in (0, 104) for x in (0, 304)
    ]
    small = next(item for item in crops.images if item.key == "P0003_0_896_0_896")
    label = read_label(crops, small)
    assert label.shape == (896, 896)
    assert [(label == value).sum() for value in (0, 255)] == [3000, 896 * 896 - 3000]


def test_potsdam_counts_and_boundaries(tmp_path: Path) -> None:
    raw = potsdam(tmp_path / "raw", size=120)
    done = crop_dataset(raw, tmp_path / "crops", size=48)
    assert done.crops == 2 * 9
    crops = open_labelled(tmp_path / "crops")
    assert (crops.format, crops.splits) == ("potsdam", {"train": 9, "val": 9})
    assert crops.images[0].key == "2_10_0_0_48_48"
    stored = np.asarray(Image.open(crops.images[0].label))
    label = read_label(crops, crops.images[0])
    assert 0 in stored
    assert 255 not in stored
    assert (label == np.where(stored == 0, 255, stored)).all()
    whole = open_labelled(raw)
    assert (label == read_label(whole, whole.images[0])[:48, :48]).all()


def test_resumes_and_is_the_same_with_workers(tmp_path: Path) -> None:
    raw = isaid(tmp_path / "raw")
    crop_dataset(raw, tmp_path / "a", size=64)
    expected = tree_hashes(tmp_path / "a")
    for path in [*(tmp_path / "a/img_dir/train").iterdir()][:3]:
        path.unlink()
    (tmp_path / "a/ann_dir/val/.tmp-1-00000001.png").write_bytes(b"half")
    again = crop_dataset(raw, tmp_path / "a", size=64)
    assert (again.crops, again.written) == (18, 3)
    assert tree_hashes(tmp_path / "a") == expected
    crop_dataset(raw, tmp_path / "b", size=64, workers=2)
    assert tree_hashes(tmp_path / "b") == expected


def test_a_bad_scene_is_told_and_the_others_are_cut(tmp_path: Path) -> None:
    raw = isaid(tmp_path / "raw")
    save(raw / "train/Semantic_masks/P0000_instance_color_RGB.png", np.full((100, 130, 3), 77, np.uint8))
    save(raw / "train/Semantic_masks/P0001_instance_color_RGB.png", np.zeros((90, 130, 3), np.uint8))
    done = crop_dataset(raw, tmp_path / "crops", size=64)
    assert done.crops == 6
    assert [text.rpartition("[")[2] for text in done.failures] == ["unknown-ids]", "size]"]
    assert "2 scenes failed" in done.text


def test_refusals(tmp_path: Path) -> None:
    raw = isaid(tmp_path / "raw")
    crop_dataset(raw, tmp_path / "crops", size=64)
    with pytest.raises(RunError, match="holds crops made with"):
        crop_dataset(raw, tmp_path / "crops", size=32)
    with pytest.raises(RunError, match="lies inside"):
        crop_dataset(raw, raw / "crops")
    with pytest.raises(RunError, match="not empty"):
        crop_dataset(raw, tmp_path)
    with pytest.raises(InputError, match="holds crops, not the raw release"):
        crop_dataset(tmp_path / "crops", tmp_path / "again")
    with pytest.raises(SettingsError, match="isaid and potsdam"):
        crop_dataset(loveda(tmp_path / "loveda"), tmp_path / "other")
    with pytest.raises(SettingsError, match="overlap < size"):
        crop_dataset(raw, tmp_path / "other", size=64, overlap=64)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RunError, match="Cannot write"):
        crop_dataset(isaid(tmp_path / "raw"), tmp_path / "closed/crops", size=64)
