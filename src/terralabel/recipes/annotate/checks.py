"""Labels that contradict one another are refused before anything is learned from them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets import read_label
from terralabel.imagery.sources import content_hash
from terralabel.train.segmentation.survey import Survey

__all__ = ["check_labels"]


def check_labels(labelled: LabelledSet, survey: Survey) -> None:
    """Raise `InputError` ("conflicting-labels") where one image is there twice, byte for byte, with different labels.

    Differences count where both copies have a class.
    """
    for copies in _same_images(labelled):
        first, *others = copies
        for other in others:
            differing, shared = _differing(labelled, survey, first, other)
            if differing:
                raise InputError(
                    f"{first.image} and {other.image} are the same image with different labels: {differing:,} of {shared:,} pixels"
                    " that both label have another class. Take one of them away.",
                    "conflicting-labels",
                )


def _same_images(labelled: LabelledSet) -> list[list[LabelledImage]]:
    """Groups of two or more images with equal bytes; only those of equal length are read."""
    by_size: dict[int, list[LabelledImage]] = defaultdict(list)
    for item in labelled.images:
        by_size[item.image.stat().st_size].append(item)
    by_hash: dict[str, list[LabelledImage]] = defaultdict(list)
    for items in by_size.values():
        for item in items if len(items) > 1 else ():
            by_hash[content_hash(item.image)].append(item)
    return [items for items in by_hash.values() if len(items) > 1]


def _differing(labelled: LabelledSet, survey: Survey, a: LabelledImage, b: LabelledImage) -> tuple[int, int]:
    """(pixels of different classes, pixels that both label) of two images of one size."""
    size = survey.sizes.get(a.key)
    if size is None or survey.sizes.get(b.key) != size:
        return 0, 0
    differing, shared, rows = 0, 0, max(1, 16_000_000 // size[0])
    for top in range(0, size[1], rows):
        window = Window(0, top, size[0], min(rows, size[1] - top))
        one, two = read_label(labelled, a, window), read_label(labelled, b, window)
        both = (one != IGNORE) & (two != IGNORE)
        shared, differing = shared + int(both.sum()), differing + int(np.count_nonzero(one[both] != two[both]))
    return differing, shared
