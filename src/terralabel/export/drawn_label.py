"""Drawn shapes as the label of an image, block by block: what lies on top, and what two classes claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.scene import Scene
from terralabel.export.corrections import Correction, Corrections, apply_to_raster
from terralabel.export.drawn import DrawnShape
from terralabel.export.shapes import Shape

__all__ = ["Conflict", "Layers", "drawn_blocks", "layered"]

#: A smaller shape that lies with this share in a larger one was drawn on top of it.
NESTED = 0.9
#: Of a shape that large, of the other's area, none is the smaller one: it is the same thing drawn twice.
SAME = 0.8
#: Labels are painted in blocks of this side.
_BLOCK = 1024


@dataclass(frozen=True)
class Conflict:
    """Pixels that two shapes of different classes claim, neither on top of the other."""

    items: tuple[str, str]
    pixels: int


@dataclass(frozen=True)
class Layers:
    """What is painted over a scene, one after the other, and the conflicts that were found."""

    order: Corrections
    conflicts: tuple[Conflict, ...] = ()


def layered(scene: Scene, below: Sequence[DrawnShape], above: Sequence[DrawnShape] = ()) -> Layers:
    """The shapes of a scene in the order of painting: `below` (masks that a network made), then `above` (polygons as drawn).

    In each the largest comes first, so that a house lies on its field. Where shapes of two classes overlap and neither lies in the
    other (by nine tenths of its area), nobody knows whose the pixels are: they get no label.
    """
    order: list[Correction] = []
    conflicts: list[Conflict] = []
    for shapes in (below, above):
        done: list[DrawnShape] = []
        for drawn in sorted(shapes, key=lambda s: -s.shape.area):
            order.append(Correction(scene.key, drawn.class_id, drawn.shape))
            for larger in (other for other in done if other.class_id != drawn.class_id):
                shared = _disputed(larger.shape, drawn.shape)
                if shared is not None:
                    order.append(Correction(scene.key, IGNORE, shared))
                    conflicts.append(Conflict((larger.item, drawn.item), shared.area))
            done.append(drawn)
    return Layers(Corrections(tuple(order)), tuple(conflicts))


def _disputed(larger: Shape, smaller: Shape) -> Shape | None:
    """The pixels of both, unless there are none or the smaller shape lies on the larger."""
    if not larger.box.intersect(smaller.box).area:
        return None
    rest = smaller.minus([larger])
    shared = smaller.area - (rest.area if rest else 0)
    if shared == 0 or (shared >= NESTED * smaller.area and smaller.area <= SAME * larger.area):
        return None
    return smaller if rest is None else smaller.minus([rest])


def drawn_blocks(scene: Scene, layers: Layers, rest: int) -> Iterator[tuple[Window, np.ndarray]]:
    """(window, (h, w) uint8 class ids) of a scene, row by row; `rest` where nothing is drawn."""
    for plan in plan_tiles("", scene.width, scene.height, _BLOCK, 0):
        block = np.full((plan.core.height, plan.core.width), rest, dtype=np.uint8)
        yield plan.core, apply_to_raster(block, plan.core, layers.order)
