"""A random view of a labelled image: resize, crop, flips and quarter turns, photometric distortion; on uint8.

The crop is chosen before anything is resized, so that of a large raster only its window is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.train.segmentation.settings import TrainSettings

__all__ = ["Augmentation", "Choice", "distort", "turned"]

#: How often a crop is drawn again because one class fills it (mmsegmentation's number).
TRIES = 10


@dataclass(frozen=True)
class Choice:
    """Where a view lies in its image, and the factor it is resized by; `labels` (h, w) uint8 are those of the window."""

    window: Window
    scale: float
    labels: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn; see `TrainSettings` for each. `colours`: the channels are red, green and blue."""

    crop: int
    scale_min: float = 0.5
    scale_max: float = 2.0
    max_share: float = 0.75
    turns: bool = True
    photometric: bool = True
    colours: bool = True

    @classmethod
    def of(cls, settings: TrainSettings, crop: int, *, colours: bool) -> Augmentation:
        """As the settings say, with crops of this side."""
        s = settings
        return cls(crop, s.scale_min, s.scale_max, s.max_share, s.turns, s.photometric, colours)

    def choose(self, width: int, height: int, labels: Callable[[Window], np.ndarray], rng: np.random.Generator) -> Choice:
        """A random window of an image of `width` x `height` that the resizing makes a crop of; smaller where the image is.

        Drawn again up to ten times while one class has more than `max_share` of its labelled pixels, or none is labelled.
        """
        scale = float(rng.uniform(self.scale_min, self.scale_max))
        side = max(1, round(self.crop / scale))
        w, h = min(side, width), min(side, height)
        for _ in range(TRIES):
            place = Window(int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h)
            found = labels(place)
            counts = np.bincount(found.ravel(), minlength=IGNORE + 1)[:IGNORE]
            if 0 < counts.max() <= self.max_share * counts.sum():
                break
        return Choice(place, self.crop / side, found)

    def view(self, pixels: np.ndarray, choice: Choice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(crop, crop, C) uint8 and (crop, crop) uint8: the window's `pixels` (h, w, C) and labels, resized and varied.

        What lies outside the image is 0 and without label, as invalid pixels are.
        """
        size = tuple(min(self.crop, max(1, round(n * choice.scale))) for n in choice.labels.shape)
        pixels, labels = _resized(pixels, choice.labels, size)
        if self.turns:
            pixels, labels = turned(pixels, labels, int(rng.integers(4)), bool(rng.integers(2)))
        if self.photometric:
            pixels = distort(pixels, rng, colours=self.colours)
        return _padded(pixels, self.crop, 0), _padded(labels, self.crop, IGNORE)


def _resized(pixels: np.ndarray, labels: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Both at `size` = (h, w): pixels averaged or interpolated, labels taken from the nearest pixel."""
    if labels.shape == size:
        return pixels, labels
    shrinks = size[0] * size[1] < labels.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, size[::-1], interpolation=method)
    return resized.reshape(*size, pixels.shape[2]), cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


def turned(pixels: np.ndarray, labels: np.ndarray, quarters: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Both turned by `quarters` of a circle, then mirrored left to right if `flip`."""
    pixels, labels = np.rot90(pixels, quarters), np.rot90(labels, quarters)
    return (pixels[:, ::-1], labels[:, ::-1]) if flip else (pixels, labels)


def _padded(array: np.ndarray, side: int, value: int) -> np.ndarray:
    """(side, side, ...): the array in the top left corner."""
    if array.shape[:2] == (side, side):
        return np.ascontiguousarray(array)
    out = np.full((side, side, *array.shape[2:]), value, dtype=array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def distort(pixels: np.ndarray, rng: np.random.Generator, *, colours: bool) -> np.ndarray:
    """Photometric distortion as in SSD and mmsegmentation, each part half of the times: (H, W, C) uint8, 0 stays 0 in all channels.

    Brightness by up to 32, contrast by .5 to 1.5, and for red, green and blue also saturation by .5 to 1.5 and hue by up
    to 36 degrees.
    """
    blank = ~pixels.any(axis=2)
    work = pixels.astype(np.float32)
    if rng.integers(2):
        work += rng.uniform(-32, 32)
    contrast, before = (rng.uniform(0.5, 1.5) if rng.integers(2) else 1.0), bool(rng.integers(2))
    if before:
        work *= contrast
    if colours and pixels.shape[2] == 3:
        work = _recoloured(np.clip(work, 0, 255), rng)
    if not before:
        work *= contrast
    out = np.clip(np.rint(work), 0, 255).astype(np.uint8)
    out[blank] = 0
    return out


def _recoloured(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturation and hue of (H, W, 3) float32 0..255."""
    saturation = rng.uniform(0.5, 1.5) if rng.integers(2) else 1.0
    hue = rng.uniform(-36, 36) if rng.integers(2) else 0.0
    if saturation == 1.0 and hue == 0.0:
        return rgb
    hsv = cv2.cvtColor(rgb / np.float32(255), cv2.COLOR_RGB2HSV)  # hue in degrees, the others 0..1
    hsv[..., 0] = (hsv[..., 0] + hue) % 360
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * np.float32(255)
