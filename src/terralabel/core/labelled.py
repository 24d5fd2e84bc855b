"""Images with labels, wherever they come from: what training and evaluation see of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.errors import InputError

__all__ = [
    "ByColor",
    "ByThreshold",
    "ByValue",
    "Drawn",
    "LabelledImage",
    "LabelledSet",
    "ToIds",
    "pack_colors",
    "unknown_ids",
]


@dataclass(frozen=True)
class LabelledImage:
    """One image and its label file; `key` is unique in the set, `label` None where there is none.

    `split` is "train", "val", "test", or "" where the set does not say.
    """

    key: str
    image: Path
    label: Path | None
    split: str = ""


@dataclass(frozen=True)
class ByValue:
    """Stored values that mean another id: (value, id) pairs; a value that is not listed is its own id."""

    table: tuple[tuple[int, int], ...]

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) int32 ids of (H, W) stored whole numbers."""
        out = stored.astype(np.int32)
        for value, class_id in self.table:
            out[stored == value] = class_id
        return out


@dataclass(frozen=True)
class ByThreshold:
    """A grey or binary mask: `level` and more is id 1, less is id 0."""

    level: int

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) int32 ids of (H, W) stored numbers."""
        return (stored >= self.level).astype(np.int32)


@dataclass(frozen=True)
class ByColor:
    """Labels painted in colours: ((red, green, blue), id) pairs; a colour that is not listed is unknown."""

    table: tuple[tuple[tuple[int, int, int], int], ...]

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) int32 ids of (H, W, 3) uint8 colours; -1 where the colour is unknown."""
        packed = pack_colors(stored)
        out = np.full(packed.shape, -1, dtype=np.int32)
        for color, class_id in self.table:
            out[packed == (color[0] << 16 | color[1] << 8 | color[2])] = class_id
        return out


def pack_colors(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 as (H, W) int32 0xrrggbb."""
    wide = rgb[..., :3].astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


class Drawn(Protocol):
    """Labels that are shapes in one file for all images, to be drawn when they are asked for."""

    def draw(self, item: LabelledImage) -> np.ndarray:
        """(H, W) uint8 class ids of one image."""
        ...


#: How label files become ids; None: one band of ids, as they are.
ToIds = ByValue | ByThreshold | ByColor | Drawn | None


@dataclass(frozen=True)
class LabelledSet:
    """A data set for training: `classes` (ids 0..254; 255 in a label is "no label"), and images in the order of their keys.

    `to_ids` says how label files become ids. `problems` are sentences on what was found and left out: an image that cannot be
    read, a label without image. Read labels with `imagery.datasets.read_label`.
    """

    name: str
    classes: Classes
    images: tuple[LabelledImage, ...]
    to_ids: ToIds = None
    format: str = ""
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        twice = [key for key, count in Counter(item.key for item in self.images).items() if count > 1]
        if twice:
            raise InputError(f"{self.name}: key {twice[0]!r} names more than one image; keys must be unique.", "duplicate-key")
        if self.classes.dtype != "uint8":
            raise InputError(
                f"{self.name}: class ids go to {self.classes.entries[-1].id}; networks learn at most 255 classes with ids 0..254:"
                " merge some (`terralabel clusters`), or number them anew.",
                "too-many-classes",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def splits(self) -> dict[str, int]:
        """Split -> number of images, sorted; "" where the set does not say."""
        return dict(sorted(Counter(item.split for item in self.images).items()))

    @property
    def labelled(self) -> LabelledSet:
        """Only the images that have a label."""
        return self.with_images(item for item in self.images if item.label is not None)

    def split(self, *names: str) -> LabelledSet:
        """Only the images of these splits; `InputError` when there are none."""
        chosen = tuple(item for item in self.images if item.split in names)
        if not chosen:
            have = ", ".join(f"{name or 'no split'} ({count})" for name, count in self.splits.items()) or "no images"
            raise InputError(
                f"{self.name} has no images of split {' or '.join(map(repr, names))}; it has: {have}.", "no-images"
            )
        return self.with_images(chosen)

    def with_images(self, images: Iterable[LabelledImage]) -> LabelledSet:
        """The same set with these images."""
        return replace(self, images=tuple(images))


def unknown_ids(ids: np.ndarray, classes: Classes) -> dict[int, int]:
    """id -> pixels, of ids that are neither a class nor 255."""
    found, counts = np.unique(ids, return_counts=True)
    known = {entry.id for entry in classes} | {IGNORE}
    return {int(i): int(n) for i, n in zip(found, counts, strict=True) if int(i) not in known}
