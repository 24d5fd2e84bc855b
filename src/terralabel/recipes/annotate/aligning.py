"""Coarse labels laid where their images say: one growth for a set, a shift for each image, found along the images' edges."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.export.picture import display_rgb
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.labels.registration import edges_of, grown, growth_of, growth_scores, shift_of
from terralabel.runs.progress import Progress

__all__ = ["Alignment", "align_labels"]

#: Images are looked at in squares of this side; of a large one the square with the most different labels tells the shift.
_SIDE = 1024
#: Shifts are believed where so large a share of a set's images have one: a few are chance.
_SHARE = 0.25


@dataclass(frozen=True)
class Alignment:
    """Pixels by which objects are grown, and (rows, columns) by which each image's label is moved."""

    labelled: LabelledSet
    background: int | None
    growth: int = 0
    shifts: dict[str, tuple[int, int]] = field(default_factory=dict)

    def shift(self, key: str) -> tuple[int, int]:
        """Of one image."""
        return self.shifts.get(key, (0, 0))

    def label(self, item: LabelledImage, window: Window, size: tuple[int, int]) -> np.ndarray:
        """(h, w) uint8 class ids of a window of the aligned label; 255 where a shift brings nothing in."""
        (rows, columns), more = self.shift(item.key), abs(self.growth) + 2
        wanted = Window(window.x - columns, window.y - rows, window.width, window.height)
        around = Window(wanted.x - more, wanted.y - more, wanted.width + 2 * more, wanted.height + 2 * more)
        there = around.intersect(Window(0, 0, *size))
        out = np.full((window.height, window.width), IGNORE, np.uint8)
        part = wanted.intersect(Window(0, 0, *size))
        if part.area:
            label = read_label(self.labelled, item, there)
            if self.growth and self.background is not None:
                label = grown(label, self.growth, self.background)
            out[part.relative_to(wanted).slices()] = label[part.relative_to(there).slices()]
        return out


def align_labels(
    labelled: LabelledSet,
    sizes: dict[str, tuple[int, int]],
    radiometry: Radiometry,
    background: int | None,
    most: int,
    progress: Progress,
) -> Alignment:
    """Look at every labelled image twice: for the growth of all, then for the shift of each, at most `most` pixels; 0: neither."""
    items = [item for item in labelled.images if item.key in sizes]
    found = Alignment(labelled, background)
    if not most:
        return found
    if background is not None:
        progress.start("growth", len(items), "images")
        sums = np.zeros_like(growth_scores(np.zeros((4, 4), np.float32), np.full((4, 4), IGNORE, np.uint8), None))
        for item in items:
            for window in _squares(sizes[item.key]):
                sums += growth_scores(_edges(item, window, radiometry), read_label(labelled, item, window), background)
            progress.advance()
        progress.finish()
        found = Alignment(labelled, background, growth_of(sums))
    progress.start("shifts", len(items), "images")
    shifts = {}
    for item in items:
        size = sizes[item.key]
        windows = _squares(size)
        window = windows[int(np.argmax([_borders(read_label(labelled, item, w)) for w in windows]))]
        shifts[item.key] = shift_of(_edges(item, window, radiometry), found.label(item, window, size), most)
        progress.advance()
    progress.finish()
    moving = {key: shift for key, shift in shifts.items() if shift != (0, 0)}
    believed = moving if len(moving) >= max(2, _SHARE * len(items)) else {}
    if found.growth or believed:
        progress.say(f"labels fit their images better {found.growth:+d} px wide, and {len(believed)} of {len(items)} moved")
    return Alignment(labelled, background, found.growth, believed)


def _edges(item: LabelledImage, window: Window, radiometry: Radiometry) -> np.ndarray:
    with radiometry.open(item.image) as raster:
        pixels, valid = raster.read(window)
    pixels = radiometry.apply(pixels, valid)
    return edges_of(display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels), valid)


def _squares(size: tuple[int, int]) -> list[Window]:
    return [plan.core for plan in plan_tiles("", *size, _SIDE, 0)]


def _borders(label: np.ndarray) -> int:
    """Pixels that differ from the one to their right."""
    return int((label[:, 1:] != label[:, :-1]).sum())
