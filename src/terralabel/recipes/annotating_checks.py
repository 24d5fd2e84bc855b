"""Labels that contradict something are refused before anything is learned from them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets import read_label
from terralabel.imagery.datasets.reading import label_place
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.sources import content_hash
from terralabel.train.segmentation.survey import Survey

__all__ = ["check_labels"]


#: Endings of label files that may say where they lie.
_PLACED = (".tif", ".tiff", ".png", ".jp2", ".vrt", ".img")
#: Corners of a label may lie so many pixels off those of its image.
_OFF = 0.5


def check_labels(labelled: LabelledSet, survey: Survey, radiometry: Radiometry) -> None:
    """Raise `InputError` for labels that say they lie elsewhere than their images, or that contradict one another.

    "other-place": CRS or corners of a label raster are not those of its image, where both are placed. "conflicting-labels": one
    image is there twice, byte for byte, with different labels; differences count where both copies have a class.
    """
    for item in labelled.images:
        if isinstance(item.label, Path) and item.label.suffix.lower() in _PLACED and item.key in survey.sizes:
            _refuse_elsewhere(item, survey.sizes[item.key], radiometry)
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


def _refuse_elsewhere(item: LabelledImage, size: tuple[int, int], radiometry: Radiometry) -> None:
    """Compare where a label and its image lie."""
    assert item.label is not None
    with radiometry.open(item.image) as raster:
        image = raster.georeference
    label = label_place(item.label)
    if not (image.is_placed and label.is_placed):
        return
    crs = [None if place.crs is None else CRS.from_wkt(place.crs) for place in (label, image)]
    names = ["no CRS" if found is None else found.to_string()[:60] for found in crs]
    corners = np.array([[0, 0], [size[0], 0], [0, size[1]], list(size)], dtype=np.float64)
    a, b, _, d, e, _ = image.transform
    pixel = max(np.hypot(a, d), np.hypot(b, e), 1e-12)
    off = float(np.abs(label.to_map(corners) - image.to_map(corners)).max()) / pixel
    if (None not in crs and crs[0] != crs[1]) or off > _OFF:
        found, wanted = (
            f"{name}, corner {place.transform[2]:.8g} {place.transform[5]:.8g}"
            for name, place in zip(names, (label, image), strict=True)
        )
        raise InputError(
            f"{item.label} lies elsewhere than its image {item.image.name}: got {found}; expected {wanted}."
            " Warp it onto the image's grid, or take the wrong georeference off.",
            "other-place",
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
