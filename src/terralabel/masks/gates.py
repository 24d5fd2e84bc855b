"""Gates: what a mask must satisfy to go on. Each takes masks, returns those that pass and counts those that do not.

    passed = area_gate(masks, largest=0.3).then(minimum_size, smallest=16).then(drop_duplicates, box_iou=0.7)
    passed.masks, passed.dropped        # {"area": 2, "size": 5, "duplicate": 11}

ALPS, equations 2 and 3, for the area; SAM's automatic mask generator for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

#: Pairs of masks, and pieces of masks, that are compared at once.
_PAIRS_AT_ONCE, _PIECES_AT_ONCE = 1 << 19, 1 << 20


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


def distinct_boxes(bbox: np.ndarray, threshold: float, most: int | None = None) -> np.ndarray:
    """Greedy suppression of (n, 4) int xywh boxes in order, best first; (n,) bool of those that stay, the first `most` of them."""
    left, top, width, height = bbox.T.astype(np.float32)
    corners = left, top, left + np.maximum(width - 1, 0), top + np.maximum(height - 1, 0)  # SAM's boxes end on the last pixel
    area = (corners[2] - left) * (corners[3] - top)
    chosen: list[int] = []
    rest = np.arange(len(bbox))
    while rest.size and (most is None or len(chosen) < most):
        best, rest = rest[0], rest[1:]
        chosen.append(int(best))
        x0, y0, x1, y1 = (side[rest] for side in corners)
        across = np.maximum(np.minimum(corners[2][best], x1) - np.maximum(left[best], x0), 0)
        common = across * np.maximum(np.minimum(corners[3][best], y1) - np.maximum(top[best], y0), 0)
        with np.errstate(invalid="ignore"):  # two boxes of one pixel: 0 / 0 is no overlap, as in torchvision
            iou = common / (area[best] + area[rest] - common)
        rest = rest[~(iou.astype(np.float64) > threshold)]
    alive = np.zeros(len(bbox), dtype=bool)
    alive[chosen] = True
    return alive


def _distinct_pixels(masks: Masks, alive: np.ndarray, threshold: float) -> np.ndarray:
    """As `distinct_boxes`, by the masks' own pixels, among the masks that are `alive`."""
    alive = alive.copy()
    first, second = _alike(masks, np.flatnonzero(alive), threshold)
    for i in np.lexsort((second, first)):
        if alive[first[i]]:
            alive[second[i]] = False
    return alive


def _alike(masks: Masks, which: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """(first, second), first < second: the pairs among the masks `which` (k,) whose IoU is over the threshold."""
    found = [np.zeros((2, 0), np.int64)]
    pieces = np.diff(masks.offsets)
    for pairs in _perhaps_alike(masks.area[which], masks.bbox[which], threshold):
        ordered = np.sort(which[pairs], axis=0)
        batch = np.cumsum(pieces[ordered[1]]) // _PIECES_AT_ONCE
        for number in np.unique(batch):
            first, second = some = ordered[:, batch == number]
            common = _shared(masks, first, second)
            found.append(some[:, common > threshold * (masks.area[first] + masks.area[second] - common)])
    first, second = np.concatenate(found, 1)
    return first, second


def _perhaps_alike(area: np.ndarray, bbox: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """(2, p) pairs of masks whose areas and boxes (n, 4) xywh allow an IoU over the threshold, in batches."""
    order = np.argsort(area, kind="stable")
    order = order[area[order] > 0]
    rising = area[order].astype(np.float64)
    # masks of very unequal area cannot overlap enough
    stop = np.searchsorted(rising, rising / max(threshold, 1e-9) * (1 + 1e-9), side="right")
    pairs = np.maximum(stop - np.arange(len(order)) - 1, 0)
    low, high = bbox[:, :2].astype(np.int64), (bbox[:, :2] + bbox[:, 2:]).astype(np.int64)
    batch = np.cumsum(pairs) // _PAIRS_AT_ONCE
    for number in np.unique(batch[pairs > 0]):
        smaller = np.flatnonzero((batch == number) & (pairs > 0))
        count = pairs[smaller]
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        one, other = order[np.repeat(smaller, count)], order[np.repeat(smaller + 1, count) + place]
        sides = np.minimum(high[one], high[other]) - np.maximum(low[one], low[other])
        most = np.minimum(np.maximum(sides, 0).prod(1), area[one])  # pixels that they can share; `one` is the smaller
        near = most * (1 + threshold) >= threshold * (area[one] + area[other]) * (1 - 1e-9)
        near &= most > 0
        yield np.stack([one[near], other[near]])


def _shared(masks: Masks, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pixels that the masks of each pair have in common, (p,) float64, exact.

    How many pixels of a mask lie before a position is linear between the ends of its runs; all masks stand one behind the other.
    """
    pixels = masks.size[0] * masks.size[1]
    involved, place = np.unique(np.concatenate([first, second]), return_inverse=True)
    some = masks.select(involved)
    one, other = place[: len(first)], place[len(first) :]
    owner, start, stop = rle.intervals(some.runs, some.offsets)
    begin = np.searchsorted(owner, np.arange(len(some) + 1))
    ends = np.stack([start, stop], 1) + (owner * pixels)[:, None]
    before = np.stack([np.cumsum(stop - start) - (stop - start), np.cumsum(stop - start)], 1)
    count = begin[other + 1] - begin[other]
    pair = np.repeat(np.arange(len(one)), count)
    piece = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count) + begin[other[pair]]
    shift = one[pair] * pixels
    covered = [np.interp(edge[piece] + shift, ends.ravel(), before.ravel()) for edge in (start, stop)]
    return np.bincount(pair, covered[1] - covered[0], len(one))


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
