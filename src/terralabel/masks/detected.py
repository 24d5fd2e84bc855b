"""Boxes to masks: each box prompts a `Promptable` once and gives one mask, whose class is the box's (SAMRS, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terralabel.contracts import Promptable
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.boxes import Boxes

__all__ = ["box_masks", "windows_of_boxes"]

#: Of its longer side: how much is seen round a box that has a window of its own.
_MARGIN = 0.25


def box_masks(promptable: Promptable, tile: Tile, xyxy: np.ndarray, *, batch: int = 64) -> Masks:
    """One mask for each of the boxes `xyxy` (n, 4), in tile pixels, in their order; `batch` are prompted at once.

    Invalid pixels belong to no mask. `ContractError` when the promptable gives another number of masks than it was asked for.
    """
    if not len(xyxy) or not tile.valid.any():
        return Masks.from_codes([np.array([tile.size[0] * tile.size[1]], dtype=np.uint32)] * len(xyxy), tile.size)
    encoded = promptable.encode(tile)
    parts = []
    for start in range(0, len(xyxy), batch):
        boxes = np.ascontiguousarray(xyxy[start : start + batch], dtype=np.float32)
        answer = promptable.predict(encoded, boxes=boxes, multimask=False)
        if answer.alternatives != 1 or len(answer.masks) != len(boxes):
            raise ContractError(
                f"{promptable.name}: asked for one mask for each of {len(boxes)} boxes, got {len(answer.masks)} masks with"
                f" {answer.alternatives} alternatives."
            )
        parts.append(answer.masks)
    return Masks.join(parts, tile.size).within(tile.valid)


def windows_of_boxes(boxes: Boxes, width: int, height: int, *, tile_size: int, overlap: int) -> list[tuple[Window, np.ndarray]]:
    """(window of the scene, which boxes are prompted in it) so that every box lies whole in its window.

    The windows are those of a plan of tiles: a box is seen in the tile whose core holds its centre, and where it does not lie in
    that tile, in a window of its own, a quarter larger on every side. Every box comes once; windows without boxes are left out.
    """
    if not len(boxes):
        return []
    centre = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2
    left = np.ones(len(boxes), dtype=bool)
    out: list[tuple[Window, np.ndarray]] = []
    for plan in plan_tiles("", width, height, tile_size, overlap):
        inside = left & _within(centre, plan.core) & _holds(plan.window, boxes.xyxy)
        if inside.any():
            out.append((plan.window, np.flatnonzero(inside)))
            left &= ~inside
    return out + [(_window_round(boxes.xyxy[k], width, height), np.array([k])) for k in np.flatnonzero(left)]


def _within(xy: np.ndarray, core: Window) -> np.ndarray:
    x, y = xy[:, 0], xy[:, 1]
    return (x >= core.x) & (x < core.right) & (y >= core.y) & (y < core.bottom)


def _holds(window: Window, xyxy: np.ndarray) -> np.ndarray:
    low = (xyxy[:, 0] >= window.x) & (xyxy[:, 1] >= window.y)
    return low & (xyxy[:, 2] <= window.right) & (xyxy[:, 3] <= window.bottom)


def _window_round(box: Sequence[float] | np.ndarray, width: int, height: int) -> Window:
    margin = _MARGIN * max(box[2] - box[0], box[3] - box[1])
    x0, y0 = (max(int(np.floor(v - margin)), 0) for v in box[:2])
    x1, y1 = min(int(np.ceil(box[2] + margin)), width), min(int(np.ceil(box[3] + margin)), height)
    return Window(x0, y0, x1 - x0, y1 - y0)
