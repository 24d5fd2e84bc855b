"""Coarse labels laid where their images say: one growth for a set, a shift for each image, found along the images' edges and looks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.labelled import LabelledImage, LabelledSet
from terralabel.export.picture import display_rgb
from terralabel.imagery.datasets import read_label
from terralabel.imagery.radiometry import Radiometry
from terralabel.labels.contrast import LOOKS, RINGS, growth_by_change, growth_shows, look_of, looks, rings, typical_looks
from terralabel.labels.registration import GROWTHS, edges_of, grown, growth_of, growth_scores, shift_of
from terralabel.runs.progress import Progress

__all__ = ["Alignment", "align_labels"]

#: Images are looked at in squares of this side; of a large one the square with the most different labels tells the shift.
_SIDE = 1024
#: Shifts are believed where so large a share of a set's images have one: a few are chance.
_SHARE = 0.25
#: What is typical is learned from so many pixels of so many images.
_PIXELS, _IMAGES = 30_000, 64


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
        found = Alignment(labelled, background, _growth(labelled, items, sizes, radiometry, background, progress))
    progress.start("shifts", len(items), "images")
    shifts = {}
    for item in items:
        size = sizes[item.key]
        windows = _squares(size)
        window = windows[int(np.argmax([_borders(read_label(labelled, item, w)) for w in windows]))]
        shifts[item.key] = shift_of(_picture(item, window, radiometry)[1], found.label(item, window, size), most)
        progress.advance()
    progress.finish()
    moving = {key: shift for key, shift in shifts.items() if shift != (0, 0)}
    believed = moving if len(moving) >= max(2, _SHARE * len(items)) else {}
    if found.growth or believed:
        progress.say(f"labels fit their images better {found.growth:+d} px wide, and {len(believed)} of {len(items)} moved")
    return Alignment(labelled, background, found.growth, believed)


def _growth(
    labelled: LabelledSet,
    items: list[LabelledImage],
    sizes: dict[str, tuple[int, int]],
    radiometry: Radiometry,
    background: int,
    progress: Progress,
) -> int:
    """By how much all labels are to be grown: where edges say so, and looks do not object; else what looks say."""
    some = [
        items[i] for i in sorted(set(np.linspace(0, len(items) - 1, min(len(items), _IMAGES)).round().astype(int).tolist()))
    ]
    typical = typical_looks(_some_looks(some, sizes, radiometry))
    progress.start("growth", len(items), "images")
    edge_sums, ring_sums = np.zeros((2, len(GROWTHS))), np.zeros((RINGS, LOOKS))
    for item in items:
        for window in _squares(sizes[item.key]):
            (image, edges), label = _picture(item, window, radiometry), read_label(labelled, item, window)
            edge_sums += growth_scores(edges, label, background)
            ring_sums += rings(look_of(looks(image, edges), typical), label, background)
        progress.advance()
    progress.finish()
    growth = growth_of(edge_sums)
    return growth if growth and growth_shows(ring_sums, growth) else growth_by_change(ring_sums)


def _some_looks(items: list[LabelledImage], sizes: dict[str, tuple[int, int]], radiometry: Radiometry) -> np.ndarray:
    """(n, 4) float32 looks of pixels spread evenly over images, of a large one over its middle square."""
    each, out = max(1, _PIXELS // len(items)), []
    for item in items:
        windows = _squares(sizes[item.key])
        found = looks(*_picture(item, windows[len(windows) // 2], radiometry)).reshape(-1, 4)
        out.append(found[np.linspace(0, len(found) - 1, min(each, len(found))).astype(int)])
    return np.concatenate(out)


def _picture(item: LabelledImage, window: Window, radiometry: Radiometry) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8 pixels of a window and their (h, w) edges."""
    with radiometry.open(item.image) as raster:
        pixels, valid = raster.read(window)
    pixels = radiometry.apply(pixels, valid)
    image = display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels)
    return image, edges_of(image, valid)


def _squares(size: tuple[int, int]) -> list[Window]:
    return [plan.core for plan in plan_tiles("", *size, _SIDE, 0)]


def _borders(label: np.ndarray) -> int:
    """Pixels that differ from the one to their right."""
    return int((label[:, 1:] != label[:, :-1]).sum())
