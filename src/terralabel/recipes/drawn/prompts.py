"""Points and boxes that a person drew, as masks of a promptable: each in a window of its scene, best answer taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from terralabel.contracts import Encoded, Promptable
from terralabel.core import rle
from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.core.scene import Scene
from terralabel.export.drawn import DrawnShape, Prompt
from terralabel.export.shapes import Shape
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.tiles import read_tile
from terralabel.masks.boxes import Boxes
from terralabel.masks.detected import windows_of_boxes

__all__ = ["prompted_shapes"]

#: Points of other classes that help a point by saying what it is not.
_NEGATIVES = 4


def prompted_shapes(
    scene: Scene, prompts: Sequence[Prompt], promptable: Promptable, radiometry: Radiometry, *, tile_size: int, overlap: int
) -> tuple[list[DrawnShape], list[str]]:
    """A mask for each prompt, in scene pixels, and sentences on prompts without one.

    A point is looked at in the window whose core holds it, a box where it lies whole; the nearest points of other classes in the window
    go along as points of the background.
    """
    boxes = Boxes(np.array([p.xyxy for p in prompts]), np.array([p.class_id for p in prompts], dtype=np.int64))
    shapes: list[DrawnShape] = []
    windows = windows_of_boxes(boxes, scene.width, scene.height, tile_size=tile_size, overlap=overlap)
    with radiometry.open(scene.source) as raster:
        for number, (window, which) in enumerate(windows):
            tile = read_tile(raster, TilePlan(f"{scene.key}:{number:06d}", scene.key, 0, number, window, window), radiometry)
            if not tile.valid.any():
                continue
            encoded = promptable.encode(tile)
            for k in which.tolist():
                mask = _mask(promptable, encoded, prompts[k], _others(prompts, k, window), window).within(tile.valid)
                shape = _shape(mask, window)
                if shape is not None:
                    shapes.append(DrawnShape(prompts[k].item, prompts[k].class_id, shape))
    found = Counter(shape.item for shape in shapes)
    asked = Counter(prompt.item for prompt in prompts)
    kind = {prompt.item: "point" if prompt.is_point else "box" for prompt in prompts}
    return shapes, [
        f"{scene.key}: {promptable.name} finds nothing at the {kind[item]} of {item} [no-mask]"
        for item, count in asked.items()
        if found[item] < count
    ]


def _others(prompts: Sequence[Prompt], k: int, window: Window) -> np.ndarray:
    """(m, 2) scene pixels: the nearest points of other classes in a window, which say what a point does not mean."""
    x, y = prompts[k].xyxy[:2]
    others = [
        p.xyxy[:2]
        for p in prompts
        if p.is_point
        and p.class_id != prompts[k].class_id
        and window.x <= p.xyxy[0] < window.right
        and window.y <= p.xyxy[1] < window.bottom
    ]
    return np.array(sorted(others, key=lambda xy: (xy[0] - x) ** 2 + (xy[1] - y) ** 2)[:_NEGATIVES]).reshape(-1, 2)


def _mask(promptable: Promptable, encoded: Encoded, prompt: Prompt, others: np.ndarray, window: Window) -> Masks:
    """The one mask that a promptable expects most of."""
    shift = np.array([window.x, window.y], dtype=np.float64)
    if not prompt.is_point:
        box = (np.array(prompt.xyxy).reshape(2, 2) - shift).reshape(1, 4).astype(np.float32)
        return promptable.predict(encoded, boxes=box, multimask=False).masks
    points = (np.concatenate([np.array([prompt.xyxy[:2]]), others]) - shift)[None].astype(np.float32)
    labels = np.array([[1] + [0] * len(others)], dtype=np.int32)
    found = promptable.predict(encoded, points=points, point_labels=labels, multimask=True).masks
    return found.select(np.array([int(found.predicted_iou.argmax())]))


def _shape(mask: Masks, window: Window) -> Shape | None:
    if not mask.area[0]:
        return None
    x, y, width, height = mask.bbox[0].tolist()
    return Shape.of_runs(rle.encode(mask.crop(0)), Window(x + window.x, y + window.y, width, height))
