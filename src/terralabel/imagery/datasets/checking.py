"""A look at a labelled set: sizes that must agree, ids that must be classes, and how much of each class there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.labelled import ByCoverage, LabelledImage, LabelledSet
from terralabel.errors import InputError
from terralabel.imagery.datasets.coco import CocoLabels
from terralabel.imagery.datasets.places import refuse_elsewhere
from terralabel.imagery.datasets.reading import image_size, read_label

__all__ = ["Checkup", "check_labelled", "checkup_text", "evenly"]

#: Labels are counted in strips of so many pixels.
_STRIP = 16_000_000
#: Failures and problems shown one by one.
_SHOWN = 10


@dataclass(frozen=True)
class Checkup:
    """What was found in the images looked at: pixels of each id (255: no label), and sentences on those that cannot be used."""

    looked: int
    pixels: dict[int, int]
    failures: tuple[str, ...]


def evenly(items: Sequence[LabelledImage], count: int) -> list[LabelledImage]:
    """`count` of the items, spread evenly and always the same; all when there are no more."""
    step = max(len(items) / max(count, 1), 1.0)
    return [items[int(k * step)] for k in range(int(len(items) / step))]


def check_labelled(dataset: LabelledSet, sample: int = 50, *, advance: Callable[[], None] = lambda: None) -> Checkup:
    """Read the labels of `sample` images, spread evenly, beside the headers of their images; 0: of all."""
    labelled = dataset.labelled.images
    chosen = list(labelled) if sample == 0 else evenly(labelled, sample)
    pixels = np.zeros(256, dtype=np.int64)
    failures = []
    for item in chosen:
        try:
            width, height = _same_size(dataset, item)
            for window in _strips(dataset, width, height):
                pixels += np.bincount(read_label(dataset, item, window).ravel(), minlength=256)
        except InputError as error:
            failures.append(f"{error} [{error.status}]")
        advance()
    return Checkup(len(chosen), {int(i): int(pixels[i]) for i in np.flatnonzero(pixels)}, tuple(failures))


def _same_size(dataset: LabelledSet, item: LabelledImage) -> tuple[int, int]:
    """(width, height) of image and label; `InputError` when they differ."""
    size = image_size(item.image)
    shapes = _shapes(dataset)
    if shapes is not None:
        height, width = shapes.sizes[item.key]
        label = width, height
    else:
        assert item.label is not None
        label = image_size(item.label)
    if size != label:
        raise InputError(
            f"{item.image} is {size[0]} x {size[1]} pixels, its label {label[0]} x {label[1]}: they must be of one size.",
            "size",
        )
    if shapes is None and item.label is not None:
        refuse_elsewhere(item.image, item.label)
    return size


def _shapes(dataset: LabelledSet) -> CocoLabels | None:
    """The shapes that labels are drawn from, where they are no files of their own."""
    to_ids = dataset.to_ids.inner if isinstance(dataset.to_ids, ByCoverage) else dataset.to_ids
    return to_ids if isinstance(to_ids, CocoLabels) else None


def _strips(dataset: LabelledSet, width: int, height: int) -> Iterator[Window | None]:
    if _shapes(dataset) is not None:
        yield None  # drawn whole
        return
    rows = max(_STRIP // width // 16 * 16, 16)
    for y in range(0, height, rows):
        yield Window(0, y, width, min(rows, height - y))


def checkup_text(dataset: LabelledSet, found: Checkup) -> str:
    """What a person wants to know before training on a set."""
    splits = ", ".join(f"{name or 'no split'} {count:,}" for name, count in dataset.splits.items())
    radar = ", radar (sensor sar)" if dataset.sensor == "sar" else ""
    lines = [
        f"{dataset.name}: format {dataset.format}{radar}",
        f"  {len(dataset):,} images ({splits}), {len(dataset.labelled):,} with labels",
        f"  {len(dataset.classes)} classes; pixels in {found.looked:,} images looked at:",
    ]
    whole = max(sum(found.pixels.values()), 1)
    rows = [(entry.id, entry.name) for entry in dataset.classes] + [(IGNORE, "(no label)")]
    wide = max(len(name) for _, name in rows)
    for class_id, name in rows:
        count = found.pixels.get(class_id, 0)
        lines.append(f"    {class_id:3d}  {name:{wide}}  {100 * count / whole:6.2f} %" + ("" if count else "   none"))
    for kind, texts in (("failed", found.failures), ("problem", dataset.problems)):
        lines += [f"  {kind}: {text}" for text in texts[:_SHOWN]]
        if len(texts) > _SHOWN:
            lines.append(f"  and {len(texts) - _SHOWN} more")
    return "\n".join(lines)
