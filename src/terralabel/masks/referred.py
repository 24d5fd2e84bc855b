"""From boxes to masks by box, point and boundary: the second stage of PSLG-SAM (arXiv 2506.10503), on any `Promptable`.

    mask = promptable(box);  point = foreground_point(box);  a mask that misses the point is asked for again, with both
    mask = refine_boundary(mask)

The paper asks with box and point always. A point that the box's own mask holds says nothing new, and on `nano` and `tree` it cost
more than it gave. So here it speaks only where it was missed, and is heard if the promptable promises a better mask with it;
`point="always"` is the paper's way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.contracts import Promptable
from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.boundary import refine_boundary
from terralabel.masks.foreground import foreground_point
from terralabel.masks.prompts import colours

__all__ = ["Referred", "referred_masks"]


@dataclass(frozen=True)
class Referred:
    """One mask for each of `n` boxes, and how it came about.

    masks     the result
    before    the promptable's answers, before boundaries were redrawn
    points    (n, 2) float32 xy, tile pixels: on the object, by its colours; NaN where points are off
    by_point  (n,) bool: the answer to box and point was taken
    refined   (n,) bool: the boundary was redrawn
    """

    masks: Masks
    before: Masks
    points: np.ndarray
    by_point: np.ndarray
    refined: np.ndarray


def referred_masks(
    promptable: Promptable, tile: Tile, xyxy: np.ndarray, *, point: str = "missed", refine: bool = True, batch: int = 64
) -> Referred:
    """The masks of the boxes `xyxy` (n, 4) in tile pixels, in their order; `batch` are prompted at once.

    `point`: "missed" asks again with box and foreground point where the box's mask does not hold the point, and takes the answer
    if its predicted IoU is higher; "always" asks with both only, "off" with the box only. `refine` redraws boundaries. Invalid pixels belong to no mask. The scores of the
    promptable stay with its masks. `ContractError` when it gives another number of masks than it was asked for.
    """
    count = len(xyxy)
    points = np.full((count, 2), np.nan, dtype=np.float32)
    if not count or not tile.valid.any():
        nothing = Masks.from_codes([np.array([tile.size[0] * tile.size[1]], dtype=np.uint32)] * count, tile.size)
        return Referred(nothing, nothing, points, np.zeros(count, dtype=bool), np.zeros(count, dtype=bool))
    boxes, encoded = np.ascontiguousarray(xyxy, dtype=np.float32), promptable.encode(tile)
    picture = colours(tile.pixels, tile.sensor)
    if point != "off":
        points[:] = [foreground_point(picture, box, tile.valid)[0] for box in boxes]
    if point == "always":
        before, asked = _answers(promptable, encoded, boxes, points, batch), np.arange(count)
    else:
        before, asked = _answers(promptable, encoded, boxes, None, batch), np.zeros(0, dtype=np.int64)
    if point == "missed":
        missed = np.flatnonzero(~_holds(before, points))
        others = _answers(promptable, encoded, boxes[missed], points[missed], batch)
        better = others.predicted_iou > before.predicted_iou[missed]
        asked = missed[better]
        before = _replaced(before, asked, others.select(better))
    before = before.within(tile.valid)
    masks, refined = _redrawn(before, picture, boxes, tile.valid) if refine else (before, np.zeros(count, dtype=bool))
    return Referred(masks, before, points, np.isin(np.arange(count), asked), refined)


def _answers(promptable: Promptable, encoded: object, boxes: np.ndarray, points: np.ndarray | None, batch: int) -> Masks:
    """One mask for each box, with its point if there are points."""
    parts = []
    for start in range(0, len(boxes), batch):
        some = slice(start, start + batch)
        prompt = {"boxes": boxes[some]}
        if points is not None:
            prompt |= {"points": points[some][:, None], "point_labels": np.ones((len(boxes[some]), 1), dtype=np.int64)}
        answer = promptable.predict(encoded, multimask=False, **prompt)  # type: ignore[arg-type]
        if answer.alternatives != 1 or len(answer.masks) != len(boxes[some]):
            raise ContractError(
                f"{promptable.name}: asked for one mask for each of {len(boxes[some])} boxes, got {len(answer.masks)} masks with"
                f" {answer.alternatives} alternatives."
            )
        parts.append(answer.masks)
    return Masks.join(parts, encoded.tile.size)  # type: ignore[attr-defined]


def _holds(masks: Masks, points: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each mask has the pixel of its point."""
    height, width = masks.size
    out = np.zeros(len(masks), dtype=bool)
    for k, (x, y) in enumerate(points.tolist()):
        place = (min(max(int(x), 0), width - 1), min(max(int(y), 0), height - 1), 1, 1)
        out[k] = rle.decode_box(masks.code(k), place, masks.size)[0, 0]
    return out


def _replaced(masks: Masks, which: np.ndarray, others: Masks) -> Masks:
    """`masks` with those at `which` in place of its own."""
    order = np.arange(len(masks))
    order[which] = len(masks) + np.arange(len(which))
    return Masks.join([masks, others], masks.size).select(order)


def _redrawn(masks: Masks, picture: np.ndarray, boxes: np.ndarray, valid: np.ndarray) -> tuple[Masks, np.ndarray]:
    """The masks with new boundaries where the guard accepts them, and (n,) bool where it did."""
    codes, refined = [], np.zeros(len(masks), dtype=bool)
    for k, box in enumerate(boxes):
        found = refine_boundary(picture, masks.array(k), box)
        refined[k] = found.accepted
        codes.append(rle.encode(found.mask & valid) if found.accepted else masks.code(k))
    scores = {"predicted_iou": masks.predicted_iou, "stability_score": masks.stability_score, "crop_box": masks.crop_box}
    return Masks.from_codes(codes, masks.size, **scores), refined
