"""Coarse labels laid where their images say: one growth for a set, a shift for each image, found along the images' edges and looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.export.picture import display_rgb
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.labels.contrast import (
    LOOKS,
    RINGS,
    change_at_border,
    growth_by_change,
    growth_shows,
    look_of,
    looks,
    rings,
    typical_looks,
)
from terralabel.labels.registration import GROWTHS, edges_of, grown, growth_of, growth_scores, shift_of
from terralabel.runs.progress import Progress

__all__ = ["Alignment", "LabelledImages", "Redrawn", "align_labels"]

#: Images are looked at in squares of this side; of a large one the square with the most different labels tells the shift.
_SIDE = 1024
#: Shifts are believed where so large a share of a set's images have one: a few are chance.
_SHARE = 0.25
#: Looks must change so many times as much across the borders of labels that are moved as across those of the labels as they were.
_CHANGE = 2.0
#: What is typical is learned from so many pixels of so many images.
_PIXELS, _IMAGES = 30_000, 64


@dataclass(frozen=True)
class Redrawn:
    """An object that is drawn anew: its class, a place in scene pixels, and (h, w) bool what it is there before and after."""

    class_id: int
    place: Window
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Alignment:
    """Pixels by which objects are grown, (rows, columns) by which each image's label is moved, and objects drawn anew after that."""

    labelled: LabelledSet
    background: int | None
    growth: int = 0
    shifts: dict[str, tuple[int, int]] = field(default_factory=dict)
    redrawn: dict[str, tuple[Redrawn, ...]] = field(default_factory=dict)

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
        return self._redraw(out, item.key, window)

    def _redraw(self, label: np.ndarray, key: str, window: Window) -> np.ndarray:
        """Paint the objects that are drawn anew into a window of the label: where they were, and into the background only."""
        mine = [one for one in self.redrawn.get(key, ()) if one.place.intersect(window).area]
        for one in mine:
            at, there = _overlap(one.place, window)
            label[at][one.before[there] & (label[at] == one.class_id)] = self.background
        for one in sorted(mine, key=lambda one: -int(one.after.sum())):
            at, there = _overlap(one.place, window)
            label[at][one.after[there] & (label[at] == self.background)] = one.class_id
        return label


_At = tuple[slice, slice]


def _overlap(place: Window, window: Window) -> tuple[_At, _At]:
    """What a place and a window share: in pixels of the window, and in those of the place."""
    part = place.intersect(window)
    return part.relative_to(window).slices(), part.relative_to(place).slices()


def align_labels(
    labelled: LabelledSet,
    sizes: dict[str, tuple[int, int]],
    radiometry: Radiometry,
    background: int | None,
    most: int,
    progress: Progress,
) -> Alignment:
    """Look at every labelled image twice: for the shift of each, at most `most` pixels, then for the growth of all; 0: neither."""
    items = [item for item in labelled.images if item.key in sizes]
    if not most or not items:
        return Alignment(labelled, background)
    work = LabelledImages(labelled, items, sizes, radiometry, background, progress)
    found = Alignment(labelled, background)
    found = replace(found, shifts=work.shifts(found, most))  # a label that lies off may seem too wide,
    if background is not None and (growth := work.growth(found)):  # and one too wide, to lie off: so look again
        found = replace(found, shifts=work.shifts(replace(found, shifts={}, growth=growth), most))
        found = replace(found, growth=work.growth(found))
    if found.growth or found.shifts:
        progress.say(f"labels fit their images better {found.growth:+d} px wide, and {len(found.shifts)} of {len(items)} moved")
    return found


class LabelledImages:
    """A set of labels and what its images typically look like."""

    def __init__(
        self,
        labelled: LabelledSet,
        items: list[LabelledImage],
        sizes: dict[str, tuple[int, int]],
        radiometry: Radiometry,
        background: int | None,
        progress: Progress,
    ) -> None:
        self.labelled, self.items, self.sizes = labelled, items, sizes
        self.radiometry, self.background, self.progress = radiometry, background, progress
        self.typical = typical_looks(self._some_looks())

    def _some_looks(self) -> np.ndarray:
        """(n, 4) float32 looks of pixels spread evenly over images, of a large one over its middle square."""
        few = np.linspace(0, len(self.items) - 1, min(len(self.items), _IMAGES)).round().astype(int)
        each, out = _PIXELS // len(few), []
        for item in (self.items[i] for i in few.tolist()):
            windows = _squares(self.sizes[item.key])
            found = looks(*self.picture(item, windows[len(windows) // 2])).reshape(-1, 4)
            out.append(found[np.linspace(0, len(found) - 1, min(each, len(found))).astype(int)])
        return np.concatenate(out)

    def picture(self, item: LabelledImage, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """(h, w, 3) uint8 pixels of a window and their (h, w) edges."""
        with self.radiometry.open(item.image) as raster:
            pixels, valid = raster.read(window)
        pixels = self.radiometry.apply(pixels, valid)
        image = display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels)
        return image, edges_of(image, valid)

    def rings(self, item: LabelledImage, window: Window, label: np.ndarray) -> np.ndarray:
        """`contrast.rings` of a window under any label."""
        return rings(look_of(looks(*self.picture(item, window)), self.typical), label, self.background)

    def growth(self, found: Alignment) -> int:
        """By how much all labels are to be grown: where edges say so, and looks do not object; else what looks say."""
        self.progress.start("growth", len(self.items), "images")
        edge_sums, ring_sums = np.zeros((2, len(GROWTHS))), np.zeros((RINGS, LOOKS))
        for item in self.items:
            for window in _squares(self.sizes[item.key]):
                (image, edges), label = self.picture(item, window), found.label(item, window, self.sizes[item.key])
                edge_sums += growth_scores(edges, label, self.background)
                ring_sums += rings(look_of(looks(image, edges), self.typical), label, self.background)
            self.progress.advance()
        self.progress.finish()
        growth = growth_of(edge_sums)
        return growth if growth and growth_shows(ring_sums, growth) else growth_by_change(ring_sums)

    def shifts(self, found: Alignment, most: int) -> dict[str, tuple[int, int]]:
        """The shift of each image, where many have one and looks change more across the borders of labels that are moved so."""
        shifts, before, after = {}, np.zeros((RINGS, LOOKS)), np.zeros((RINGS, LOOKS))
        self.progress.start("shifts", len(self.items), "images")
        for item in self.items:
            size = self.sizes[item.key]
            windows = _squares(size)
            window = windows[int(np.argmax([_borders(read_label(self.labelled, item, w)) for w in windows]))]
            image, edges = self.picture(item, window)
            label = found.label(item, window, size)
            shift = shift_of(edges, label, most)
            if shift != (0, 0):
                look = look_of(looks(image, edges), self.typical)
                moved = replace(found, shifts={item.key: shift}).label(item, window, size)
                before += rings(look, np.where(moved == IGNORE, IGNORE, label), self.background)
                after += rings(look, np.where(label == IGNORE, IGNORE, moved), self.background)
                shifts[item.key] = shift
            self.progress.advance()
        self.progress.finish()
        many = len(shifts) >= max(2, _SHARE * len(self.items))
        return shifts if many and change_at_border(after) >= _CHANGE * change_at_border(before) else {}


def _squares(size: tuple[int, int]) -> list[Window]:
    return [plan.core for plan in plan_tiles("", *size, _SIDE, 0)]


def _borders(label: np.ndarray) -> int:
    """Pixels that differ from the one to their right."""
    return int((label[:, 1:] != label[:, :-1]).sum())
