"""A set of labels of which some lie off, and one that is too wide: found in the files, and undone window by window."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.recipes.annotate.aligning import align_labels
from terralabel.runs.progress import Silent
from tests.labels.test_registration import houses
from tests.recipes.annotating import write

SIZES = {f"{i}": (160, 160) for i in range(4)}
SHIFT = (5, -3)


def written(folder: Path, *, shifted: int = 0, wide: int = 0) -> tuple[LabelledSet, Radiometry]:
    for i in range(4):
        image, label = houses(i)
        if wide:
            label = cv2.dilate(label, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * wide + 1,) * 2))
        if i < shifted:
            label = np.roll(label, (-SHIFT[0], -SHIFT[1]), (0, 1))
        write(folder / "images" / f"{i}.tif", np.moveaxis(image, -1, 0))
        write(folder / "labels" / f"{i}.tif", label)
    labelled = open_labelled(folder / "images", labels=folder / "labels")
    return labelled, fit_radiometry([item.image for item in labelled.images]).radiometry


def test_shifts_are_found_where_many_have_one(tmp_path: Path) -> None:
    labelled, radiometry = written(tmp_path, shifted=3)
    found = align_labels(labelled, SIZES, radiometry, 0, 8, Silent())
    assert found.shifts == {"0": SHIFT, "1": SHIFT, "2": SHIFT} and found.growth == 0
    item, truth = labelled.images[0], houses(0)[1]
    whole = found.label(item, Window(0, 0, 160, 160), (160, 160))
    assert (whole[:5] == IGNORE).all() and (whole[:, -3:] == IGNORE).all()
    np.testing.assert_array_equal(whole[5:, :-3], truth[5:, :-3])
    part = Window(30, 0, 40, 50)
    np.testing.assert_array_equal(found.label(item, part, (160, 160)), whole[part.slices()])


def test_one_that_lies_off_may_be_chance(tmp_path: Path) -> None:
    labelled, radiometry = written(tmp_path, shifted=1)
    assert align_labels(labelled, SIZES, radiometry, 0, 8, Silent()).shifts == {}


@pytest.mark.parametrize("most", [8, 0])
def test_what_is_too_wide_is_made_narrower(most: int, tmp_path: Path) -> None:
    labelled, radiometry = written(tmp_path, wide=3)
    found = align_labels(labelled, SIZES, radiometry, 0, most, Silent())
    assert found.growth in ((-4, -3, -2) if most else (0,))
    item = labelled.images[1]
    whole = found.label(item, Window(0, 0, 160, 160), (160, 160))
    assert ((whole == houses(1)[1]).mean() > 0.97) == bool(most)
    part = Window(20, 40, 60, 50)
    np.testing.assert_array_equal(found.label(item, part, (160, 160)), whole[part.slices()])


def test_classes_without_background_are_not_grown(tmp_path: Path) -> None:
    labelled, radiometry = written(tmp_path, wide=3)
    assert align_labels(labelled, SIZES, radiometry, None, 8, Silent()).growth == 0
