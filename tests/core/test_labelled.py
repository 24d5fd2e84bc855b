"""Labelled sets: how stored values become ids, splits, and what is refused at birth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terralabel.core.classes import ClassEntry, Classes
from terralabel.core.labelled import (
    ByColor,
    ByCoverage,
    ByFolder,
    ByThreshold,
    ByValue,
    LabelledImage,
    LabelledSet,
    pack_colors,
)
from terralabel.errors import InputError

TWO = Classes((ClassEntry(1, "a", "#000000"), ClassEntry(4, "b", "#ffffff")))


def items(*splits: str) -> tuple[LabelledImage, ...]:
    return tuple(
        LabelledImage(f"k{n}", Path(f"{n}.png"), Path(f"{n}.tif") if n % 2 == 0 else None, s) for n, s in enumerate(splits)
    )


def test_values_that_are_listed_change_and_others_stay() -> None:
    stored = np.array([[0, 1, 2, 255]], np.uint8)
    assert ByValue(((0, 255), (2, 7))).ids(stored).tolist() == [[255, 1, 7, 255]]
    assert ByValue(((0, 18), (1, 19)), strict=True).ids(stored).tolist() == [[18, 19, -1, 255]]


def test_swapped_values_are_looked_up_once() -> None:
    assert ByValue(((1, 2), (2, 1))).ids(np.array([[1, 2, 3]], np.uint8)).tolist() == [[2, 1, 3]]


def test_thresholds_take_any_depth() -> None:
    assert ByThreshold(128).ids(np.array([[127, 128]], np.uint8)).tolist() == [[0, 1]]
    assert ByThreshold(1).ids(np.array([[0, 60000]], np.uint16)).tolist() == [[0, 1]]


def test_colours_and_their_tolerance() -> None:
    table = (((255, 0, 0), 1), ((0, 0, 0), 255))
    rgb = np.array([[[255, 0, 0], [250, 3, 0], [0, 0, 0], [9, 9, 9], [128, 0, 0]]], np.uint8)
    assert ByColor(table).ids(rgb).tolist() == [[1, -1, 255, -1, -1]]
    assert ByColor(table, tolerance=9).ids(rgb).tolist() == [[1, 1, 255, 255, -1]]
    assert pack_colors(rgb)[0, :2].tolist() == [0xFF0000, 0xFA0300]


def test_folders_have_meanings_of_their_own() -> None:
    one, two = ByValue(()), ByValue(((0, 1),))
    meaning = ByFolder(((Path("/d/one"), one), (Path("/d/two"), two)))
    assert meaning.of(Path("/d/two/deep/x.png")) is two
    with pytest.raises(InputError, match="none of the folders"):
        meaning.of(Path("/d/three/x.png"))


def test_splits() -> None:
    found = LabelledSet("set", TWO, items("train", "val", "train", ""))
    assert found.splits == {"": 1, "train": 2, "val": 1}
    assert [item.key for item in found.split("train").images] == ["k0", "k2"]
    assert [item.key for item in found.labelled.images] == ["k0", "k2"]
    with pytest.raises(InputError, match=r"no images of split 'test'; it has: no split \(1\), train \(2\), val \(1\)"):
        found.split("test")


def test_keys_are_unique_and_ids_fit_a_byte() -> None:
    with pytest.raises(InputError, match="key 'k0' names more than one image"):
        LabelledSet("set", TWO, (*items("train"), *items("val")))
    with pytest.raises(InputError, match="class ids go to 300"):
        LabelledSet("set", Classes((ClassEntry(300, "a", "#000000"),)), ())


def test_binary_is_two_classes_once() -> None:
    found = LabelledSet("set", TWO, items("train"))
    two = found.binary
    assert [entry.name for entry in two.classes] == ["no mask", "mask"]
    assert two.to_ids == ByCoverage(TWO, None)
    assert two.binary is two
