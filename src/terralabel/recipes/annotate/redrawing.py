"""Compact objects of coarse labels drawn anew: each one's box prompts a promptable, and images' edges say whether that is better.

Labels that are boxes, or polygons of few vertices, cannot be mended by moving or growing them. A promptable draws what lies in a box, but
exact labels would lose by it. So an object is drawn anew only where edges are much stronger along the new outline than along
the old one, and none is unless that holds for a good part of the set's objects and looks change more across the new outlines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from terralabel.contracts import Promptable
from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.core.labelled import LabelledImage
from terralabel.export.picture import display_rgb
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.tiles import read_tile
from terralabel.labels.contrast import LOOKS, RINGS, change_at_border
from terralabel.labels.registration import compact_objects, edges_along, edges_of
from terralabel.masks.detected import box_masks
from terralabel.recipes.annotate.aligning import Alignment, LabelledImages, Redrawn
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.networks import settle
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.progress import Progress
from terralabel.train.annotation.settings import EnhanceSettings

__all__ = ["drawer", "redraw_labels", "settled_redraw"]

#: Windows in which objects are looked at, and how far they overlap, pixels; an object that is in none of them whole stays.
_SIDE, _OVERLAP = 1024, 256
#: Edges along the new outline over those along the old one; least IoU of the two.
_STRONGER, _ALIKE = 1.3, 0.5
#: So large a share of the compact objects must be better drawn anew, and so many of them, or all stay.
_SHARE, _FEWEST = 0.3, 5
#: Pixels round an object that are held against it.
_NEAR = 12
#: Looks must change so many times as much across the new outlines as across the old ones.
_CHANGE = 1.5


def settled_redraw(settings: EnhanceSettings, out: Path) -> EnhanceSettings:
    """The settings with `redraw` auto decided by what is on the machine: a network, or none, since hierarchies of colours draw no better."""
    if settings.redraw != "auto":
        return settings
    chosen = settle(_labelling(settings), out)[0].masks
    return replace(settings, redraw="none" if chosen == "tree" else chosen)


def drawer(settings: EnhanceSettings) -> Promptable:
    """What `redraw` names."""
    return make_promptable(_labelling(settings))


def _labelling(settings: EnhanceSettings) -> LabelSettings:
    same = {name: getattr(settings, name) for name in ("sensor", "bands", "device")}
    return LabelSettings(masks=settings.redraw, **same, workers=0)


def redraw_labels(
    alignment: Alignment,
    items: list[LabelledImage],
    sizes: dict[str, tuple[int, int]],
    radiometry: Radiometry,
    promptable: Promptable,
    progress: Progress,
) -> Alignment:
    """The alignment with objects drawn anew, where enough of them are better so; as it is, where not, or where no class is background."""
    if alignment.background is None:
        return alignment
    redrawn: dict[str, tuple[Redrawn, ...]] = {}
    seen, before, after = 0, np.zeros((RINGS, LOOKS)), np.zeros((RINGS, LOOKS))
    work = LabelledImages(alignment.labelled, items, sizes, radiometry, alignment.background, progress)
    progress.start("redraw", len(items), "images")
    for item in items:
        found = list(_compared(alignment, item, sizes[item.key], radiometry, promptable))
        redrawn[item.key] = tuple(one for one in found if one is not None)
        seen += len(found)
        for one in redrawn[item.key]:
            around = _around(one.place, sizes[item.key])
            for sums, mask in ((before, one.before), (after, one.after)):
                sums += work.rings(item, around, _pasted(mask, one.place, around, alignment.background))
        progress.advance()
    progress.finish()
    better = sum(len(those) for those in redrawn.values())
    if better < max(_FEWEST, _SHARE * seen) or change_at_border(after) < _CHANGE * change_at_border(before):
        return alignment
    progress.say(f"{promptable.name} draws {better} of {seen} compact objects better than the labels do")
    return replace(alignment, redrawn=redrawn)


def _around(place: Window, size: tuple[int, int]) -> Window:
    wide = Window(place.x - _NEAR, place.y - _NEAR, place.width + 2 * _NEAR, place.height + 2 * _NEAR)
    return wide.intersect(Window(0, 0, *size))


def _pasted(mask: np.ndarray, place: Window, frame: Window, background: int) -> np.ndarray:
    """(h, w) uint8: a label of one object alone."""
    out = np.full((frame.height, frame.width), background, np.uint8)
    out[place.relative_to(frame).slices()][mask] = 0 if background else 1
    return out


def _compared(
    alignment: Alignment, item: LabelledImage, size: tuple[int, int], radiometry: Radiometry, promptable: Promptable
) -> Iterator[Redrawn | None]:
    """Every compact object of an image, in the window whose core holds its middle: drawn anew, or None where that is no better."""
    plans = plan_tiles(item.key, *size, _SIDE, _OVERLAP)
    with radiometry.open(item.image) as raster:
        for plan in plans:
            labels = alignment.label(item, plan.window, size)
            objects = [o for o in compact_objects(labels, alignment.background) if _belongs(o[1], plan, size)]
            if not objects:
                continue
            tile = read_tile(raster, plan, radiometry)
            pixels = tile.pixels
            edges = edges_of(display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels), tile.valid)
            boxes = np.array([[w.x, w.y, w.right, w.bottom] for _, w, _ in objects], dtype=np.float64)
            masks = box_masks(promptable, tile, boxes)
            for k, (class_id, place, mask) in enumerate(objects):
                x, y, width, height = (int(v) for v in masks.bbox[k])
                new = (Window(x, y, width, height), masks.crop(k)) if masks.area[k] else None
                yield _better(edges, class_id, (place, mask), new, plan.window)


_Shape = tuple[Window, np.ndarray]


def _better(edges: np.ndarray, class_id: int, old: _Shape, new: _Shape | None, window: Window) -> Redrawn | None:
    """The object as it is to be drawn, in scene pixels, where edges say so."""
    if new is None:
        return None
    left, top = min(old[0].x, new[0].x), min(old[0].y, new[0].y)
    both = Window(left, top, max(old[0].right, new[0].right) - left, max(old[0].bottom, new[0].bottom) - top)
    before, after = (_within(shape, both) for shape in (old, new))
    if (before & after).sum() < _ALIKE * (before | after).sum():
        return None
    seen = edges[both.slices()]
    if edges_along(seen, after) < _STRONGER * max(edges_along(seen, before), 1e-6):
        return None
    return Redrawn(class_id, Window(both.x + window.x, both.y + window.y, both.width, both.height), before, after)


def _within(shape: _Shape, frame: Window) -> np.ndarray:
    out = np.zeros((frame.height, frame.width), dtype=bool)
    out[shape[0].relative_to(frame).slices()] = shape[1]
    return out


def _belongs(place: Window, plan: TilePlan, size: tuple[int, int]) -> bool:
    """Whether an object's middle lies in the core of a window, and all of it in the window."""
    whole, core = plan.window, plan.core
    x, y = whole.x + place.x + place.width // 2, whole.y + place.y + place.height // 2
    cut = (place.x == 0 < whole.x) or (place.y == 0 < whole.y)
    cut = cut or (place.right == whole.width and whole.right < size[0])
    cut = cut or (place.bottom == whole.height and whole.bottom < size[1])
    return core.x <= x < core.right and core.y <= y < core.bottom and not cut
