"""Images with labels, wherever they come from: what training and evaluation see of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from terralabel.core.classes import IGNORE, ClassEntry, Classes
from terralabel.errors import InputError

__all__ = [
    "ByColor",
    "ByCoverage",
    "ByFolder",
    "ByThreshold",
    "ByValue",
    "Drawn",
    "LabelledImage",
    "LabelledSet",
    "ToIds",
    "pack_colors",
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
    """Stored values that mean another id: (value, id) pairs.

    A value that is not listed is its own id; with `strict` it is unknown, but for 255.
    """

    table: tuple[tuple[int, int], ...]
    strict: bool = False

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) int32 ids of (H, W) stored whole numbers; -1 where the value is unknown."""
        out = np.where(stored == IGNORE, IGNORE, -1).astype(np.int32) if self.strict else stored.astype(np.int32)
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
    """Labels painted in colours: ((red, green, blue), id) pairs; a colour that is not listed is unknown.

    `tolerance`: how far off each of red, green and blue may be.
    """

    table: tuple[tuple[tuple[int, int, int], int], ...]
    tolerance: int = 0

    def ids(self, stored: np.ndarray) -> np.ndarray:
        """(H, W) int32 ids of (H, W, 3) uint8 colours; -1 where the colour is unknown."""
        packed = pack_colors(stored)
        out = np.full(packed.shape, -1, dtype=np.int32)
        for color, class_id in self.table:
            out[packed == (color[0] << 16 | color[1] << 8 | color[2])] = class_id
        if self.tolerance and (off := np.nonzero(out < 0))[0].size:
            distance = np.abs(stored[off].astype(np.int16)[:, None] - np.array([c for c, _ in self.table], np.int16)).max(
                axis=2
            )
            nearest = distance.argmin(axis=1)  # (n,)
            known = np.array([i for _, i in self.table], np.int32)[nearest]
            out[off] = np.where(distance.min(axis=1) <= self.tolerance, known, -1)
        return out


@dataclass(frozen=True)
class ByFolder:
    """Label folders with ids of their own: (folder, meaning) pairs; a label has that of the folder it lies in or below."""

    table: tuple[tuple[Path, ByValue], ...]

    def of(self, label: Path) -> ByValue:
        """The meaning of one label file; `InputError` when it lies in none of the folders."""
        for folder, meaning in self.table:
            if folder in label.parents:
                return meaning
        raise InputError(f"{label} lies in none of the folders of this data set.", "no-label")


def pack_colors(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 as (H, W) int32 0xrrggbb."""
    wide = rgb[..., :3].astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


class Drawn(Protocol):
    """Labels that are shapes in one file for all images, to be drawn when they are asked for."""

    def draw(self, item: LabelledImage) -> np.ndarray:
        """(H, W) uint8 class ids of one image."""
        ...


@dataclass(frozen=True)
class ByCoverage:
    """Binary-mask labels: id 1 where a label has any class, 0 where it has none (255); `classes` and `inner` read the label."""

    classes: Classes
    inner: ByValue | ByThreshold | ByColor | ByFolder | Drawn | None


#: How label files become ids; None: one band of ids, as they are.
ToIds = ByValue | ByThreshold | ByColor | ByFolder | ByCoverage | Drawn | None


@dataclass(frozen=True)
class LabelledSet:
    """A data set for training: `classes` (ids 0..254; 255 in a label is "no label"), and images in the order of their keys.

    `to_ids` says how label files become ids. `problems` are sentences on what was found and left out: an image that cannot be
    read, a label without image. `sensor` is "sar" or "optical" where the set knows what took its images, else "". Read labels
    with `imagery.datasets.read_label`.
    """

    name: str
    classes: Classes
    images: tuple[LabelledImage, ...]
    to_ids: ToIds = None
    format: str = ""
    problems: tuple[str, ...] = ()
    sensor: str = ""

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

    @property
    def binary(self) -> LabelledSet:
        """The same images with two classes: 1 "mask" where a label has any class, 0 "no mask" where it has none.

        ALPS's comparison with labels that know masks and no classes.
        """
        if isinstance(self.to_ids, ByCoverage):
            return self
        two = Classes((ClassEntry(0, "no mask", "#000000"), ClassEntry(1, "mask", "#ffffff")))
        return replace(self, classes=two, to_ids=ByCoverage(self.classes, self.to_ids))

    def with_images(self, images: Iterable[LabelledImage]) -> LabelledSet:
        """The same set with these images."""
        return replace(self, images=tuple(images))
