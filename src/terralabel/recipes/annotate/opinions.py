"""What networks and a light classifier of pixels say of images that neither has seen the label of, and what their word is worth.

A network knows shapes and surroundings, and learns what all labels have in common, also when that is a mistake; a classifier of pixels
knows colours and textures only. Where both are of one mind, a label may be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage
from terralabel.export.picture import display_rgb
from terralabel.imagery.radiometry import Radiometry
from terralabel.labels.coarse import Belief, agreed, posterior
from terralabel.labels.quality.pixels import Pixels
from terralabel.labels.registration import shift_on
from terralabel.recipes.annotate.aligning import Alignment
from terralabel.recipes.annotate.pictures import PICTURE
from terralabel.recipes.annotate.views import Seen
from terralabel.runs.progress import Progress
from terralabel.train.segmentation.samples import class_table

__all__ = ["Opinions", "shifted_by_networks"]

#: From so many pixels inside its border on a label is as sure as it gets.
_FIRM = 2
#: Networks' shifts are believed where so large a share of a set's images have one: with exact labels up to a fifth have one by chance.
_SHARE = 1 / 3
#: Probabilities are kept this far from certainty when they become log odds.
_LEAST = 0.02


class Opinions:
    """Networks and pixels on the images of a set, with the aligned label as a third voice."""

    def __init__(
        self, alignment: Alignment, radiometry: Radiometry, seen: Mapping[str, Seen], sizes: Mapping[str, tuple[int, int]]
    ) -> None:
        self.alignment, self.radiometry, self.seen, self.sizes = alignment, radiometry, seen, sizes
        self.table = class_table(alignment.labelled.classes)
        classes = len(alignment.labelled.classes)
        self.pixels = Pixels(tuple(range(classes)))
        self.nothing = 0.0 * Belief.counted(np.zeros((classes, 1, 1)), np.zeros((1, 1), np.uint8), 0)
        self.network, self.colours = Belief.of_counts(self.nothing), Belief.of_counts(self.nothing)

    def measure(self, items: list[LabelledImage], band: int, progress: Progress) -> None:
        """Learn from pixels of all images; then measure what each word is worth, farther than `band` pixels from borders."""
        for item in items:
            for window in self._windows(item):
                image, valid = self._image(item, window)
                self.pixels.add(item.key, image, self._label(item, window, valid), valid)
        network, colours = self.nothing.copy(), self.nothing.copy()
        progress.start("weigh", len(items), "images")
        for item in items:
            for window in self._windows(item):
                image, valid = self._image(item, window)
                label = self._label(item, window, valid)
                network += Belief.counted(self._said(item, window), label, band)
                told = self.pixels.maps(item.key, image)
                colours += self.nothing if told is None else Belief.counted(told, label, band)
            progress.advance()
        progress.finish()
        self.network, self.colours = Belief.of_counts(network), Belief.of_counts(colours)

    def together(self, item: LabelledImage, window: Window, said: np.ndarray) -> np.ndarray:
        """(K, h, w) float32 from the network's probabilities in a window: all three voices by Bayes; without a label the network's alone."""
        image, valid = self._image(item, window)
        label, odds = self._label(item, window, valid), self.network.odds(said)
        told = self.pixels.maps(item.key, image)
        both = agreed(odds, self.colours.odds(told)) if told is not None else odds
        return posterior(np.where(label == IGNORE, odds, both), label, _FIRM)

    def _windows(self, item: LabelledImage) -> list[Window]:
        return [plan.core for plan in plan_tiles("", *self.sizes[item.key], PICTURE, 0)]

    def _said(self, item: LabelledImage, window: Window) -> np.ndarray:
        seen = self.seen[item.key]
        return seen.layers.split(seen.read(window)[0])[0]

    def _image(self, item: LabelledImage, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) uint8 pixels of a window, (h, w) bool where there are any."""
        with self.radiometry.open(item.image) as raster:
            pixels, valid = raster.read(window)
        pixels = self.radiometry.apply(pixels, valid)
        return display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels), valid

    def _label(self, item: LabelledImage, window: Window, valid: np.ndarray) -> np.ndarray:
        """(h, w) uint8 indices of the aligned label, 255 where there is none."""
        found = self.table[self.alignment.label(item, window, self.sizes[item.key])]
        return np.where(valid, found, IGNORE).astype(np.uint8)


def shifted_by_networks(
    alignment: Alignment,
    items: list[LabelledImage],
    seen: Mapping[str, Seen],
    sizes: Mapping[str, tuple[int, int]],
    most: int,
    progress: Progress,
) -> Alignment:
    """The alignment with a shift of each image to where networks, which know the other images' labels, see its objects.

    Labels that lie off each in its own direction teach networks the right place on average. Only where the images' edges told of
    no shift, and where many images have one.
    """
    if alignment.shifts or not most:
        return alignment
    table = class_table(alignment.labelled.classes)
    background = None if alignment.background is None else int(table[alignment.background])
    shifts = {}
    for item in items:
        windows = [plan.core for plan in plan_tiles("", *sizes[item.key], 2 * PICTURE, 0)]
        labels = [table[alignment.label(item, window, sizes[item.key])] for window in windows]
        busiest = int(np.argmax([np.count_nonzero(label[:, 1:] != label[:, :-1]) for label in labels]))
        found = seen[item.key]
        said = np.clip(found.layers.split(found.read(windows[busiest])[0])[0], _LEAST, 1 - _LEAST)
        shift = shift_on(np.log(said / (1 - said)), labels[busiest], background, most)
        if shift != (0, 0):
            shifts[item.key] = shift
    if len(shifts) < max(2, _SHARE * len(items)):
        return alignment
    progress.say(f"networks see the objects of {len(shifts)} of {len(items)} images elsewhere: these labels are moved")
    return replace(alignment, shifts=shifts, redrawn={})
