"""iSAID, Potsdam, LoveDA, SAMRS, SOS and CHN6-CUG in the layouts of their releases, on made-up pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tests.imagery.datasets.fake import MAKERS, chn6, isaid, loveda, painted, patches, potsdam, samrs, save, sos, sos_refined

from terralabel.core.grid import Window
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.datasets import open_labelled, read_label
from terralabel.imagery.datasets.checking import check_labelled, checkup_text
from terralabel.imagery.datasets.potsdam import TRAIN, VAL
from terralabel.imagery.datasets.samrs import SUBSETS, split_by_name
from terralabel.recipes.training import fitted_radiometry
from terralabel.runs.progress import Silent


@pytest.mark.parametrize("name", ["isaid", "potsdam", "loveda", "samrs", "sos", "sos_refined", "chn6-cug"])
def test_recognised_and_left_alone(name: str, tmp_path: Path, unchanged: Callable[[Path], None]) -> None:
    MAKERS[name](tmp_path / "set")
    unchanged(tmp_path)
    dataset = open_labelled(tmp_path / "set")
    assert dataset.format == name.removesuffix("_refined")
    for item in dataset.labelled.images:
        label = read_label(dataset, item)
        assert label.shape == np.asarray(Image.open(item.image)).shape[:2]
        assert set(np.unique(label)) <= {entry.id for entry in dataset.classes} | {255}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("isaid", "iSAID's page, and unpack them into train/images"),
        ("potsdam", "ISPRS page"),
        ("loveda", "LoveDA's page"),
        ("samrs", "SAMRS's page and unpack them into SOTA/images"),
        ("coco", "annotations/"),
        ("sos", "Deep-SAR Oil Spill dataset from the page of CUG-URS and unpack it into train/palsar/image"),
        ("sos:sentinel", "no labelled images of SOS of sentinel"),
        ("chn6-cug", "page of CUG-URS and unpack it into train/images"),
    ],
)
def test_what_is_missing_is_told_in_one_line(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told) as caught:
        open_labelled(tmp_path, format=name)
    assert "\n" not in str(caught.value)


def test_isaid_colours_are_ids(tmp_path: Path) -> None:
    dataset = open_labelled(isaid(tmp_path))
    assert dataset.splits == {"test": 1, "train": 2, "val": 1}
    assert [len(dataset.classes), dataset.classes[0].name, dataset.classes[14].name] == [16, "background", "plane"]
    first = dataset.split("train").images[0]
    assert first.key == "P0000"
    assert (read_label(dataset, first) == np.array([0, 1, 2, 14, 15])[patches(100, 130, 5, 0)]).all()
    assert dataset.split("test").images[0].label is None


def test_isaid_crops_hold_ids_or_colours(tmp_path: Path) -> None:
    ids = patches(32, 32, 5, 0)
    for split in ("train", "val"):
        save(tmp_path / f"gray/img_dir/{split}/P0000_0_32_0_32.png", painted(ids, ((9, 9, 9),) * 5))
        save(tmp_path / f"gray/ann_dir/{split}/P0000_0_32_0_32_instance_color_RGB.png", ids)
    save(tmp_path / "rgb/train/images/P0000_0_32_0_32.png", painted(ids, ((9, 9, 9),) * 5))
    colors = ((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127))
    save(tmp_path / "rgb/train/labels/P0000_0_32_0_32_instance_color_RGB.png", painted(ids, colors))
    for name, splits in (("gray", {"train": 1, "val": 1}), ("rgb", {"train": 1})):
        dataset = open_labelled(tmp_path / name)
        assert (dataset.format, dataset.splits) == ("isaid", splits)
        assert (read_label(dataset, dataset.images[0]) == ids).all()


def test_isaid_masks_beside_the_images(tmp_path: Path) -> None:
    isaid(tmp_path)
    for path in [*tmp_path.glob("*/Semantic_masks/*"), *tmp_path.glob("*/Instance_masks/*")]:
        path.rename(path.parents[1] / "images" / path.name)
    for folder in [*tmp_path.glob("*/Semantic_masks"), *tmp_path.glob("*/Instance_masks")]:
        folder.rmdir()
    dataset = open_labelled(tmp_path)
    assert (dataset.format, [item.key for item in dataset.labelled.images]) == ("isaid", ["P0000", "P0001", "P0003"])


def test_isaid_refuses_unknown_colours(tmp_path: Path) -> None:
    isaid(tmp_path)
    save(tmp_path / "train/Semantic_masks/P0000_instance_color_RGB.png", np.full((100, 130, 3), 77, np.uint8))
    dataset = open_labelled(tmp_path)
    with pytest.raises(InputError, match=r"no classes: #4d4d4d \(13000 px\)"):
        read_label(dataset, dataset.images[0])


def test_potsdam_splits_colours_and_boundaries(tmp_path: Path) -> None:
    assert (len(TRAIN), len(VAL), TRAIN & VAL) == (24, 14, frozenset())
    dataset = open_labelled(potsdam(tmp_path))
    assert dataset.splits == {"train": 1, "val": 1}
    label = read_label(dataset, dataset.split("train").images[0])
    assert (label == np.array([1, 2, 3, 4, 5, 6, 255])[patches(120, 120, 7, 0)]).all(), "yellow that is a little off is a car"
    assert any("36 of 38 tiles" in problem for problem in dataset.problems)
    assert not any("boundaries" in problem for problem in dataset.problems)


def test_potsdam_with_boundaries_is_told(tmp_path: Path) -> None:
    dataset = open_labelled(potsdam(tmp_path, boundary=False))
    assert any("still have their boundaries" in problem for problem in dataset.problems)
    assert 255 not in read_label(dataset, dataset.images[0])


def test_loveda_ids_begin_at_one(tmp_path: Path) -> None:
    dataset = open_labelled(loveda(tmp_path))
    assert dataset.splits == {"test": 2, "train": 2, "val": 2}
    ids = patches(40, 40, 8, 1)
    assert (read_label(dataset, dataset.split("train").images[0]) == np.where(ids == 0, 255, ids)).all()


def test_samrs_is_one_set_of_75_classes(tmp_path: Path) -> None:
    dataset = open_labelled(samrs(tmp_path, count=12))
    assert [len(names) for names in SUBSETS.values()] == [18, 20, 37]
    assert (len(dataset), len(dataset.classes), dataset.problems) == (36, 75, ())
    assert [dataset.classes[i].name for i in (0, 18, 38)] == ["SOTA: large-vehicle", "SIOR: airplane", "FAST: A220"]
    for subset, first, count in ((0, 0, 18), (1, 18, 20), (2, 38, 37)):
        item = next(item for item in dataset.images if item.key == f"{subset}_0")
        ids = patches(64, 64, count + 1, 0, side=4)
        assert (read_label(dataset, item) == np.where(ids == count, 255, ids + first)).all()


def test_samrs_refuses_ids_of_the_next_subset(tmp_path: Path) -> None:
    samrs(tmp_path)
    save(tmp_path / "dior/hbox_segs_trainvaltest_init/gray/1_0.png", np.full((64, 64), 20, np.uint8))
    dataset = open_labelled(tmp_path)
    with pytest.raises(InputError, match=r"no classes: 20 \(4096 px\)"):
        read_label(dataset, next(item for item in dataset.images if item.key == "1_0"))


def test_samrs_split_is_by_name_and_about_seven_to_three(tmp_path: Path) -> None:
    dataset = open_labelled(samrs(tmp_path))
    assert all(item.split == split_by_name(item.key) for item in dataset.images)
    shares = [split_by_name(f"P{k:04d}") for k in range(4000)].count("train") / 4000
    assert abs(shares - 0.7) < 0.03


def test_samrs_with_one_subset_keeps_its_numbers(tmp_path: Path) -> None:
    samrs(tmp_path / "all")
    (tmp_path / "one").mkdir()
    (tmp_path / "all/fair1m_1024").rename(tmp_path / "one/FAST")
    dataset = open_labelled(tmp_path / "one")
    assert [problem.split()[1] for problem in dataset.problems] == ["SOTA", "SIOR"]
    assert int(read_label(dataset, dataset.images[0]).min()) == 38


@pytest.mark.parametrize(("make", "tested"), [(sos, "test"), (sos_refined, "val")])
def test_sos_in_both_editions(make: Callable[[Path], Path], tested: str, tmp_path: Path) -> None:
    dataset = open_labelled(make(tmp_path))
    assert (dataset.format, dataset.sensor, dataset.splits) == ("sos", "sar", {tested: 6, "train": 6})
    assert [entry.name for entry in dataset.classes] == ["sea", "oil"]
    labels = [read_label(dataset, item) for item in dataset.split("train").images]
    stored = [np.asarray(Image.open(item.label)) for item in dataset.split("train").images]
    assert all((label == (grey >= 128)).all() for label, grey in zip(labels, stored, strict=True)), "128 and more is oil"
    assert any(len(np.unique(grey)) > 2 for grey in stored), "the masks are anti-aliased"
    assert sum(not label.any() for label in labels) == 2, "an empty mask is a label: no oil"
    half = open_labelled(tmp_path, format="sos:palsar")
    assert (len(half), half.name, half.problems) == (6, f"{tmp_path.name} palsar", ())
    with pytest.raises(SettingsError, match="expected sos, sos:palsar or sos:sentinel"):
        open_labelled(tmp_path, format="sos:envisat")


def test_sos_is_read_as_radar(tmp_path: Path) -> None:
    """Its three equal channels become one, without a word in the settings."""
    dataset = open_labelled(sos(tmp_path))
    settings = SimpleNamespace(sensor="optical", bands=None)
    radiometry = fitted_radiometry(dataset, settings, Silent())
    assert (radiometry.sensor, radiometry.grey, radiometry.count) == ("sar", True, 1)
    with radiometry.open(dataset.images[0].image) as raster:
        assert radiometry.apply(*raster.read(Window(0, 0, 64, 64))).shape == (64, 64, 1)
    assert "radar (sensor sar)" in checkup_text(dataset, check_labelled(dataset))


def test_sos_tells_of_a_mask_that_is_missing(tmp_path: Path) -> None:
    (sos(tmp_path) / "train/palsar/label/10002_mask.png").unlink()
    dataset = open_labelled(tmp_path)
    assert ["1 of 3 images have no label" in problem for problem in dataset.problems] == [True]
    assert len(dataset.labelled) == 11


def test_chn6_pairs_sat_with_mask_with_and_without_splits(tmp_path: Path) -> None:
    dataset = open_labelled(chn6(tmp_path / "split"))
    assert (dataset.format, dataset.splits, dataset.sensor) == ("chn6-cug", {"train": 3, "val": 3}, "")
    label = read_label(dataset, dataset.images[0])
    assert (label == (np.asarray(Image.open(dataset.images[0].label)) >= 128)).all()
    (tmp_path / "split/train").rename(tmp_path / "flat")
    flat = open_labelled(tmp_path / "flat")
    assert (flat.format, flat.splits, len(flat.labelled)) == ("chn6-cug", {"": 3}, 3)
