"""What a labelled set holds: the size of every image and the pixels of every class, checked before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets import read_label
from terralabel.imagery.datasets.places import refuse_elsewhere
from terralabel.imagery.datasets.reading import image_size
from terralabel.imagery.radiometry import Radiometry
from terralabel.runs.progress import Progress

__all__ = ["Survey", "survey"]

#: Pixels of a label that are read at once.
_STRIP = 16_000_000


@dataclass(frozen=True)
class Survey:
    """`sizes`: key -> (width, height) of the images with a labelled pixel; `pixels`: class id -> labelled pixels of the set.

    `bare`: keys of images without a labelled pixel, which are left out.
    """

    sizes: dict[str, tuple[int, int]]
    pixels: dict[int, int]
    bare: tuple[str, ...]


def survey(labelled: LabelledSet, radiometry: Radiometry, progress: Progress, *, needs_two: bool = True) -> Survey:
    """Read every label of a set once.

    Raises `InputError` naming the first of the images that cannot be used, and how many there are: label ids outside the
    class map (with their pixels), a label of another size than its image, a file that cannot be read; an empty set; labels
    of one class only, unless `needs_two` is False.
    """
    if not labelled.images:
        raise InputError(f"{labelled.name} has no labelled images: expected images with a label file each.", "no-images")
    counts = np.zeros(256, np.int64)
    sizes, bare, wrong = {}, [], []
    progress.start("labels", len(labelled.images), "images")
    for item in labelled.images:
        try:
            size = _size(item, radiometry)
            found = _counts(labelled, item, size)
            counts += found
            if found[:IGNORE].any():
                sizes[item.key] = size
            else:
                bare.append(item.key)
        except InputError as error:
            wrong.append(error)
        progress.advance()
    progress.finish()
    _refuse(wrong, len(labelled.images))
    pixels = {entry.id: int(counts[entry.id]) for entry in labelled.classes}
    _refuse_few(labelled, pixels, needs_two)
    return Survey(sizes, pixels, tuple(bare))


def _size(item: LabelledImage, radiometry: Radiometry) -> tuple[int, int]:
    """(width, height), after checking that the label's are equal."""
    with radiometry.open(item.image) as raster:
        size = raster.width, raster.height
        radiometry.apply(*raster.read(Window(0, 0, 1, 1)))  # refuses other channels and kinds of numbers than the set's
    if item.label is not None and item.label.suffix.lower() != ".json":
        found = image_size(item.label)
        if found != size:
            raise InputError(
                f"{item.label} is {found[0]} x {found[1]} pixels, its image {item.image.name} {size[0]} x {size[1]}:"
                " expected equal sizes.",
                "wrong-size",
            )
        refuse_elsewhere(item.image, item.label)
    return size


def _counts(labelled: LabelledSet, item: LabelledImage, size: tuple[int, int]) -> np.ndarray:
    """(256,) int64 pixels of each id."""
    counts = np.zeros(256, np.int64)
    for window in _strips(*size):
        counts += np.bincount(read_label(labelled, item, window).ravel(), minlength=256)
    return counts


def _strips(width: int, height: int) -> Iterable[Window]:
    rows = max(1, _STRIP // width)
    return (Window(0, top, width, min(rows, height - top)) for top in range(0, height, rows))


def _refuse(wrong: list[InputError], total: int) -> None:
    if wrong:
        more = f"{len(wrong)} of {total} labels cannot be used; the first: " if len(wrong) > 1 else ""
        raise InputError(f"{more}{wrong[0]}", wrong[0].status)


def _refuse_few(labelled: LabelledSet, pixels: dict[int, int], needs_two: bool) -> None:
    seen = [class_id for class_id, count in pixels.items() if count]
    if not seen:
        raise InputError(f"{labelled.name}: no pixel of its {len(labelled.images)} labels has a class.", "no-labels")
    if needs_two and len(seen) < 2:
        raise InputError(
            f"{labelled.name}: all {pixels[seen[0]]:,} labelled pixels are of class {seen[0]}"
            f" ({labelled.classes[seen[0]].name}): expected two classes or more. Is 0 a class of its own here, or 'no label'?",
            "one-class",
        )
