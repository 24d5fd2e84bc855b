"""Batches of crops of a labelled set: each a function of the seed, its step and its place in the batch, and of nothing else."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.grid import Window
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.train.segmentation.augment import Augmentation

__all__ = ["Batch", "Reader", "Samples"]

#: Images of more pixels are read window by window, others once and kept while there is room.
_WHOLE_PIXELS = 16_000_000
#: Decoded bytes that are kept.
_KEPT_BYTES = 1 << 30


@dataclass(frozen=True)
class Batch:
    """`pixels` (B, side, side, C) uint8 after the radiometry; `labels` (B, side, side) uint8 class indices, 255 for none."""

    pixels: np.ndarray
    labels: np.ndarray


def class_table(classes: Classes) -> np.ndarray:
    """(256,) uint8: class id -> index 0..K-1 in the order of the class map; 255 for all else."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[[entry.id for entry in classes]] = np.arange(len(classes))
    return table


class Reader:
    """Windows of the images of a set after the radiometry, and of their labels as class indices. Safe to share by threads."""

    def __init__(self, labelled: LabelledSet, radiometry: Radiometry, *, kept_bytes: int = _KEPT_BYTES) -> None:
        self.labelled, self.radiometry = labelled, radiometry
        self._table = class_table(labelled.classes)
        self._room = kept_bytes
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def pixels(self, item: LabelledImage, window: Window, size: tuple[int, int]) -> np.ndarray:
        """(h, w, C) uint8 of a window of an image of `size` = (width, height); invalid pixels are 0."""
        if size[0] * size[1] > _WHOLE_PIXELS:
            return self._pixels(item, window)
        whole = self._remembered(f"pixels {item.key}", lambda: self._pixels(item, Window(0, 0, *size)))
        return whole[window.slices()]

    def labels(self, item: LabelledImage, window: Window, size: tuple[int, int]) -> np.ndarray:
        """(h, w) uint8 class indices of a window, 255 where there is no label."""
        if size[0] * size[1] > _WHOLE_PIXELS:
            return self._table[read_label(self.labelled, item, window)]
        whole = self._remembered(f"labels {item.key}", lambda: self._table[read_label(self.labelled, item)])
        return whole[window.slices()]

    def _pixels(self, item: LabelledImage, window: Window) -> np.ndarray:
        with self.radiometry.open(item.image) as raster:
            return self.radiometry.apply(*raster.read(window))

    def _remembered(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What was made before, while there is room; the least used is forgotten first."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        made = make()
        with self._lock:
            self._kept[name] = made
            while sum(array.nbytes for array in self._kept.values()) > self._room and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return made


class Samples:
    """Crops of the labelled images of a set.

    An image has as many places in an epoch as crops cover it (one at least), so that one mosaic and many small images are
    seen evenly. Epochs are shuffled one by one; every crop is a function of the seed, its step and its place in the batch.
    """

    def __init__(
        self, reader: Reader, sizes: dict[str, tuple[int, int]], augmentation: Augmentation, seed: int, batch_size: int
    ) -> None:
        self.reader, self.sizes, self.augmentation, self.seed = reader, sizes, augmentation, seed
        self.items = [item for item in reader.labelled.images if item.key in sizes]
        self.batch_size = batch_size
        area = augmentation.crop**2
        places = [max(1, round(sizes[item.key][0] * sizes[item.key][1] / area)) for item in self.items]
        self._image_of = np.repeat(np.arange(len(self.items)), places)

    def __len__(self) -> int:
        """Crops of an epoch."""
        return len(self._image_of)

    def image(self, step: int, place: int) -> LabelledImage:
        """The image that crop `place` of batch `step` is taken from."""
        epoch, position = divmod(step * self.batch_size + place, len(self))
        order = _epoch_order(self.seed, epoch, len(self))
        return self.items[self._image_of[order[position]]]

    def crop(self, step: int, place: int) -> tuple[np.ndarray, np.ndarray]:
        """(crop, crop, C) uint8 pixels and (crop, crop) uint8 class indices."""
        item = self.image(step, place)
        size = self.sizes[item.key]
        rng = np.random.default_rng([self.seed, step, place])
        choice = self.augmentation.choose(*size, lambda window: self.reader.labels(item, window, size), rng)
        return self.augmentation.view(self.reader.pixels(item, choice.window, size), choice, rng)

    def batch(self, step: int, places: range, each: Callable = map) -> Batch:
        """The crops at `places` of batch `step`; `each` may be the map of a pool of threads."""
        crops = list(each(lambda place: self.crop(step, place), places))
        return Batch(np.stack([pixels for pixels, _ in crops]), np.stack([labels for _, labels in crops]))


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, count]).permutation(count)
