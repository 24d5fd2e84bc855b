"""Gates: what a mask must satisfy to go on. Each takes masks, returns those that pass and counts those that do not.

    passed = area_gate(masks, largest=0.3).then(minimum_size, smallest=16).then(drop_duplicates, box_iou=0.7)
    passed.masks, passed.dropped        # {"area": 2, "size": 5, "duplicate": 11}

ALPS, equations 2 and 3, for the area; SAM's automatic mask generator for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from terralabel.core import rle
from terralabel.core.masks import Masks

__all__ = [
    "Passed",
    "area_gate",
    "clean_small_regions",
    "distinct_boxes",
    "drop_duplicates",
    "minimum_size",
    "quality_gate",
    "stability_gate",
]


@dataclass(frozen=True)
class Passed:
    """The masks that passed, and for each gate (in order) how many did not. `changed` masks passed in another shape."""

    masks: Masks
    dropped: dict[str, int] = field(default_factory=dict)
    changed: int = 0

    def then(self, gate: Callable[..., Passed], **settings: Any) -> Passed:
        """Send what passed through one more gate and add up the counts."""
        after = gate(self.masks, **settings)
        dropped = dict(self.dropped)
        for reason, count in after.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
        return Passed(after.masks, dropped, self.changed + after.changed)


def _keep(masks: Masks, keep: np.ndarray, reason: str) -> Passed:
    return Passed(masks.select(keep), {reason: int(len(masks) - np.count_nonzero(keep))})


def area_gate(masks: Masks, *, largest: float = 0.3, reference: int | None = None) -> Passed:
    """ALPS's filtering gate (eq. 3): keep a mask iff r = |m| / (H * W) <= `largest` (tau), the boundary included.

    `reference` is H * W in pixels of the image the proportion refers to; by default the tile's own.
    """
    pixels = masks.size[0] * masks.size[1] if reference is None else reference
    return _keep(masks, masks.area / max(pixels, 1) <= largest, "area")


def minimum_size(masks: Masks, *, smallest: int = 1) -> Passed:
    """Keep masks of at least `smallest` pixels; the default drops only empty ones."""
    return _keep(masks, masks.area >= smallest, "size")


def stability_gate(masks: Masks, *, lowest: float = 0.95) -> Passed:
    """Keep masks with ``stability_score >= lowest`` (SAM); 0 lets all pass, NaN never passes otherwise."""
    keep = masks.stability_score >= lowest if lowest > 0 else np.ones(len(masks), dtype=bool)
    return _keep(masks, keep, "stability")


def quality_gate(masks: Masks, *, lowest: float = 0.88) -> Passed:
    """Keep masks with ``predicted_iou > lowest`` (SAM: strictly above); 0 lets all pass."""
    keep = masks.predicted_iou > lowest if lowest > 0 else np.ones(len(masks), dtype=bool)
    return _keep(masks, keep, "quality")


def drop_duplicates(
    masks: Masks, *, box_iou: float | None = 0.7, mask_iou: float | None = None, scores: np.ndarray | None = None
) -> Passed:
    """Of masks that agree, keep the one with the highest score; the result is in order of falling score.

    `box_iou` compares bounding boxes as SAM and torchvision's ``nms`` do, number by number: float32 boxes between first
    and *last* pixel, a mask falls when its overlap with a better one is *above* the threshold, equal scores go by
    index. `mask_iou` compares the pixels, exactly. `scores` is (n,), by default `predicted_iou`.
    """
    order = np.argsort(-np.asarray(masks.predicted_iou if scores is None else scores, dtype=np.float32), kind="stable")
    best_first = masks.select(order)
    alive = np.ones(len(masks), dtype=bool)
    if box_iou is not None:
        alive &= distinct_boxes(best_first.bbox, box_iou)
    if mask_iou is not None:
        alive &= _distinct_pixels(best_first, alive, mask_iou)
    return _keep(best_first, alive, "duplicate")


def distinct_boxes(bbox: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy suppression of (n, 4) int xywh boxes in order, best first; (n,) bool of those that stay."""
    left, top, width, height = bbox.T.astype(np.float32)
    right, bottom = left + np.maximum(width - 1, 0), top + np.maximum(height - 1, 0)  # SAM's boxes end on the last pixel
    area = (right - left) * (bottom - top)
    alive = np.ones(len(bbox), dtype=bool)
    for i in range(len(bbox)):
        if not alive[i]:
            continue
        rest = i + 1 + np.flatnonzero(alive[i + 1 :])
        across = np.maximum(np.minimum(right[i], right[rest]) - np.maximum(left[i], left[rest]), 0)
        down = np.maximum(np.minimum(bottom[i], bottom[rest]) - np.maximum(top[i], top[rest]), 0)
        common = across * down
        with np.errstate(invalid="ignore"):  # two boxes of one pixel: 0 / 0 is no overlap, as in torchvision
            iou = common / (area[i] + area[rest] - common)
        alive[rest[iou.astype(np.float64) > threshold]] = False
    return alive


def _distinct_pixels(masks: Masks, alive: np.ndarray, threshold: float) -> np.ndarray:
    """As `distinct_boxes`, by the masks' own pixels, among the masks that are `alive`."""
    alive = alive.copy()
    owner, first, stop = rle.intervals(masks.runs, masks.offsets)
    begin = np.searchsorted(owner, np.arange(len(masks) + 1))
    for i in range(len(masks)):
        rest = i + 1 + np.flatnonzero(alive[i + 1 :]) if alive[i] else np.zeros(0, dtype=np.int64)
        # masks of very unequal area cannot overlap enough
        rest = rest[np.minimum(masks.area[i], masks.area[rest]) > threshold * np.maximum(masks.area[i], masks.area[rest])]
        rest = rest[_boxes_meet(masks.bbox[i], masks.bbox[rest])]
        if not rest.size:
            continue
        pieces = np.concatenate([np.arange(begin[j], begin[j + 1]) for j in rest])
        common = _covered(masks.code(i), stop[pieces]) - _covered(masks.code(i), first[pieces])
        common = np.bincount(owner[pieces], common, len(masks))[rest]
        alive[rest[common > threshold * (masks.area[i] + masks.area[rest] - common)]] = False
    return alive


def _covered(code: np.ndarray, position: np.ndarray) -> np.ndarray:
    """How many pixels of a mask lie before each column-major position: linear between the ends of its runs, so exact."""
    edges = np.concatenate([[0], np.cumsum(code, dtype=np.int64)])
    ones = np.where(np.arange(len(code)) % 2 == 1, code, 0)
    return np.interp(position, edges, np.concatenate([[0], np.cumsum(ones, dtype=np.int64)]))


def _boxes_meet(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    ends, all_ends = box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:]
    return np.all(np.minimum(ends, all_ends) > np.maximum(box[:2], boxes[:, :2]), axis=1)


def clean_small_regions(masks: Masks, *, smallest: int, box_iou: float | None = None) -> Passed:
    """Fill holes and remove islands of fewer than `smallest` pixels (SAM's `min_mask_region_area`; 8-connected).

    A mask all of whose islands are small keeps its largest. With `box_iou`, duplicates that arise are dropped and
    masks that were clean are preferred.
    """
    if smallest <= 0 or not len(masks):
        return Passed(masks)
    codes = [_cleaned(masks, i, smallest) for i in range(len(masks))]
    touched = np.array([code is not None for code in codes])  # SAM counts a mask that is one small island as touched
    changed = sum(code is not None and not np.array_equal(code, masks.code(i)) for i, code in enumerate(codes))
    cleaned = Masks.from_codes(
        [masks.code(i) if code is None else code for i, code in enumerate(codes)],
        masks.size,
        predicted_iou=masks.predicted_iou,
        stability_score=masks.stability_score,
        point_coords=masks.point_coords,
        crop_box=masks.crop_box,
    )
    if box_iou is None:
        return Passed(cleaned, {}, changed)
    after = drop_duplicates(cleaned, box_iou=box_iou, scores=np.where(touched, 0.0, 1.0))
    return Passed(after.masks, after.dropped, changed)


def _cleaned(masks: Masks, index: int, smallest: int) -> np.ndarray | None:
    """Run lengths of one mask without small holes and islands; None when there are none.

    The crop has a margin `smallest` pixels deep, so what is connected to the outside is never taken for a small hole.
    """
    height, width = masks.size
    x, y, w, h = (int(v) for v in masks.bbox[index])
    left, top = max(x - smallest, 0), max(y - smallest, 0)
    right, bottom = min(x + w + smallest, width), min(y + h + smallest, height)
    crop = rle.decode_box(masks.code(index), (left, top, right - left, bottom - top), masks.size)
    filled = _without_small(~crop, smallest, keep_largest=False)
    solid = crop if filled is None else ~filled
    single = _without_small(solid, smallest, keep_largest=True)
    if filled is None and single is None:
        return None
    return rle.encode_boxed(solid if single is None else single, left, top, masks.size)


def _without_small(region: np.ndarray, smallest: int, *, keep_largest: bool) -> np.ndarray | None:
    """`region` (h, w) bool without its 8-connected parts of fewer than `smallest` pixels; None when there are none."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    stays = sizes >= smallest
    if stays.all():
        return None
    if keep_largest and not stays.any():
        stays[np.argmax(sizes)] = True
    return np.concatenate([[False], stays])[parts]
