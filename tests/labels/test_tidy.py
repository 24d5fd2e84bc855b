"""Specks and holes, and nothing else."""

from __future__ import annotations

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.labels.tidy import tidied


def test_specks_and_holes_go() -> None:
    labels = np.zeros((30, 30), np.uint8)
    labels[5:20, 5:20] = 1
    labels[10:13, 10:13] = 0  # 9 pixels of hole
    labels[25:28, 25:28] = 1  # a speck
    found = tidied(labels, 16, background=0)
    assert (found[5:20, 5:20] == 1).all() and found.sum() == 15 * 15
    np.testing.assert_array_equal(tidied(labels, 9, background=0), labels)
    np.testing.assert_array_equal(tidied(labels, 0, background=0), labels)


def test_diagonals_hold_objects_together_but_not_holes() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[np.arange(5, 30), np.arange(5, 30)] = 1
    np.testing.assert_array_equal(tidied(labels, 16, background=0), labels)
    inverse = (1 - labels).astype(np.uint8)
    assert (tidied(inverse, 16, background=0) == 1).all()


def test_a_speck_takes_the_class_around_it() -> None:
    labels = np.full((30, 30), 4, np.uint8)
    labels[:, 15:] = 7
    labels[10:12, 20:22], labels[10:12, 5:7] = 4, 7
    found = tidied(labels, 16)
    assert (found[:, 15:] == 7).all() and (found[:, :15] == 4).all()


def test_no_label_is_neither_removed_nor_spread() -> None:
    labels = np.full((20, 20), 1, np.uint8)
    labels[3:5, 3:5], labels[10:12, 10:12] = IGNORE, 0
    found = tidied(labels, 16, background=0)
    assert (found[3:5, 3:5] == IGNORE).all() and (found == IGNORE).sum() == 4 and (found[10:12, 10:12] == 1).all()


def test_small_maps_stay() -> None:
    labels = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(tidied(labels, 16, background=0), labels)
