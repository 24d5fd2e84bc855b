"""Boxes become what lies in them; labels that fit their images stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledSet
from terralabel.imagery.datasets import open_labelled
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.masks.tree import TreeMasks
from terralabel.recipes.annotate.aligning import Alignment, Redrawn
from terralabel.recipes.annotate.redrawing import redraw_labels, settled_redraw
from terralabel.runs.progress import Silent
from terralabel.testing.coarse import coarse
from terralabel.train.annotation.settings import EnhanceSettings
from tests.recipes.annotating import blob, write

SIZE = (96, 120)  # rows, columns
SIZES = {f"{i}": SIZE[::-1] for i in range(4)}


def written(folder: Path, kind: str) -> tuple[LabelledSet, Radiometry]:
    for i in range(4):
        image, label = blob(SIZE, i)
        write(folder / "images" / f"{i}.tif", image)
        write(folder / "labels" / f"{i}.tif", coarse(label, kind) if kind else label)
    labelled = open_labelled(folder / "images", labels=folder / "labels")
    return labelled, fit_radiometry([item.image for item in labelled.images]).radiometry


def redrawn(folder: Path, kind: str) -> tuple[LabelledSet, Alignment]:
    labelled, radiometry = written(folder, kind)
    alignment = Alignment(labelled, 0)
    return labelled, redraw_labels(alignment, list(labelled.images), SIZES, radiometry, TreeMasks(), Silent())


def test_boxes_become_what_lies_in_them(tmp_path: Path) -> None:
    labelled, found = redrawn(tmp_path, "boxes")
    whole = Window(0, 0, *SIZE[::-1])
    right = []
    for i, item in enumerate(labelled.images):
        truth = blob(SIZE, i)[1]
        before, after = (a.label(item, whole, SIZE[::-1]) == 1 for a in (Alignment(labelled, 0), found))
        right.append([(m & (truth == 1)).sum() / (m | (truth == 1)).sum() for m in (before, after)])
        part = Window(20, 11, 50, 40)
        np.testing.assert_array_equal(found.label(item, part, SIZE[::-1]) == 1, after[part.slices()])
    assert np.mean(right, axis=0)[1] > np.mean(right, axis=0)[0] + 0.05


def test_exact_labels_stay(tmp_path: Path) -> None:
    assert redrawn(tmp_path, "")[1].redrawn == {}


def test_without_background_nothing_is_drawn(tmp_path: Path) -> None:
    labelled, radiometry = written(tmp_path, "boxes")
    alignment = Alignment(labelled, None)
    assert redraw_labels(alignment, list(labelled.images), SIZES, radiometry, TreeMasks(), Silent()) is alignment


def test_what_is_drawn_takes_background_only(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", np.full((3, 12, 12), 90, np.uint8))
    label = np.zeros((12, 12), np.uint8)
    label[2:6, 2:6], label[7:9, 2:6], label[0, 0] = 1, 2, IGNORE
    write(tmp_path / "labels" / "a.tif", label)
    labelled = open_labelled(tmp_path / "images", labels=tmp_path / "labels")
    before, after = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    before[1:5, 1:5], after[2:9, 2:9] = True, True
    found = Alignment(labelled, 0, redrawn={"a": (Redrawn(1, Window(1, 1, 9, 9), before, after),)})
    out = found.label(labelled.images[0], Window(0, 0, 12, 12), (12, 12))
    expected = label.copy()
    expected[2:6, 2:6] = 0
    expected[3:10, 3:10] = 1
    expected[7:9, 3:6] = 2
    expected[7:9, 2] = 2
    np.testing.assert_array_equal(out, expected)


def test_what_draws_is_settled_once(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert settled_redraw(EnhanceSettings(redraw="none"), tmp_path).redraw == "none"
    assert settled_redraw(EnhanceSettings(redraw="tree"), tmp_path).redraw == "tree"
    assert settled_redraw(EnhanceSettings(), tmp_path).redraw not in ("auto", "tree")
