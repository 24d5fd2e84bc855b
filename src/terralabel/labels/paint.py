"""Labels from masks: largest first, so that a small mask is never hidden by a large one, straight from run lengths.

Each pixel takes the value of the smallest object that covers it (ALPS, step 6, without the released code's faults: painting
in file-name order onto zeros, where the first cluster vanishes). How: see `docs/labels.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from terralabel.core.grid import TilePlan, Window
from terralabel.core.masks import Masks
from terralabel.errors import ContractError
from terralabel.labels.spans import Spans, intervals_of, spans_of
from terralabel.labels.stitch import Pieces

__all__ = ["cover", "paint", "paint_core", "painting_order"]


def painting_order(areas: np.ndarray, ids: np.ndarray | None = None) -> np.ndarray:
    """Rank of each object, (n,) int64: 0 is painted first; area descending, then id (default: position) ascending."""
    ids = np.arange(len(areas)) if ids is None else ids
    rank = np.empty(len(areas), dtype=np.int64)
    rank[np.lexsort((ids, -np.asarray(areas)))] = np.arange(len(areas))
    return rank


def cover(rank: np.ndarray, start: np.ndarray, stop: np.ndarray, length: int) -> np.ndarray:
    """For each of `length` places the highest `rank` (>= 0) among the intervals [start, stop) over it, -1 where none is.

    Returns (length,) int16, or int32 for ranks past 32,767. Cost: number of intervals + length * log2(longest interval), whatever their overlap. Every
    interval is two blocks of one power of two (as in a sparse table); the blocks of a size are laid down, then each is
    halved, from the largest size to single places.
    """
    small = rank.max(initial=0) <= np.iinfo(np.int16).max
    top = np.full(length, -1, dtype=np.int16 if small else np.int32)
    keep = np.flatnonzero(stop > start)
    if not len(keep):
        return top
    if np.any(np.diff(rank[keep]) < 0):
        keep = keep[np.argsort(rank[keep], kind="stable")]
    level = (np.frexp((stop[keep] - start[keep]).astype(np.float64))[1] - 1).astype(np.int8)  # floor(log2(interval))
    order = np.argsort(-level, kind="stable")
    keep, level = keep[order], level[order]
    rank, start, stop = rank[keep].astype(top.dtype), start[keep], stop[keep]
    sizes = np.arange(int(level[0]), -1, -1)
    bounds = np.searchsorted(-level, -sizes, side="left"), np.searchsorted(-level, -sizes, side="right")
    spare = np.empty_like(top)
    for size, low, high in zip(sizes.tolist(), bounds[0].tolist(), bounds[1].tolist(), strict=True):
        for place in (start[low:high], stop[low:high] - (1 << size)):
            top[place] = np.maximum(top[place], rank[low:high])  # ranks ascend, and of equal places the last one stays
        if size:
            half = 1 << (size - 1)
            spare[:half] = top[:half]
            np.maximum(top[half:], top[:-half], out=spare[half:])
            top, spare = spare, top
    return top


def paint(
    masks: Masks,
    values: np.ndarray,
    *,
    areas: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    fill: int = 255,
    dtype: type[np.integer] | None = None,
) -> np.ndarray:
    """(H, W) labels: mask i writes `values[i]` (n,) int, largest first by `areas` (default: its own), then by `ids`.

    Pixels under no mask are `fill`. The dtype is uint16, or int32 where a value does not fit, unless given.
    """
    if len(values) != len(masks):
        raise ContractError(f"paint: expected {len(masks)} values, one for each mask, got {len(values)}.")
    order = np.argsort(painting_order(masks.area if areas is None else areas, ids))
    length = masks.size[0] * masks.size[1]
    top = cover(*intervals_of(masks, order, 0, length), length)
    return _look_up(top, np.asarray(values)[order], masks.size, fill, dtype)


def paint_core(
    plan: TilePlan,
    tiles: Sequence[tuple[TilePlan, Masks, Pieces]],
    values: np.ndarray,
    areas: np.ndarray,
    *,
    fill: int = 255,
    dtype: type[np.integer] | None = None,
) -> np.ndarray:
    """The labels of one tile's core, (core.height, core.width), equal to what painting the whole scene at once gives there.

    `tiles` holds this tile and its neighbours (whose guests it shows), in any order; `values` and `areas` (k,) are looked up
    by object number. Painted largest object first (area over the whole scene), then by object number.
    """
    parts = [_in_core(plan, *tile) for tile in tiles]
    spans = Spans.join(parts)
    numbers, local = np.unique(spans.owner, return_inverse=True)
    rank = painting_order(areas[numbers], numbers)
    table = np.empty(len(numbers), dtype=np.int64)
    table[rank] = values[numbers]
    size = (plan.core.height, plan.core.width)
    top = cover(rank[local], spans.column * size[0] + spans.first, spans.column * size[0] + spans.stop, size[0] * size[1])
    return _look_up(top, table, size, fill, dtype)


def _in_core(plan: TilePlan, source: TilePlan, masks: Masks, pieces: Pieces) -> Spans:
    """What `source` shows in the core of `plan`, in that core's frame, owner = object number."""
    if source.key != plan.key:
        pieces = pieces.take(pieces.whole)
    window: Window = plan.core.relative_to(source.window)
    boxes = masks.bbox[pieces.mask]
    inside = (boxes[:, 0] < window.right) & (boxes[:, 0] + boxes[:, 2] > window.x)
    inside &= (boxes[:, 1] < window.bottom) & (boxes[:, 1] + boxes[:, 3] > window.y)
    pieces = pieces.take(inside)
    frame = Window(0, 0, masks.size[1], masks.size[0])
    spans = spans_of(masks, pieces.mask, window.intersect(frame))
    return spans.owned_by(pieces.object.astype(np.int64)).moved(-window.x, -window.y)


def _look_up(
    top: np.ndarray, table: np.ndarray, size: tuple[int, int], fill: int, dtype: type[np.integer] | None
) -> np.ndarray:
    """Column-major ranks -> (H, W) values, refusing a dtype that would wrap."""
    table = np.concatenate([table, [fill]])  # rank -1 finds the fill at the end
    low, high = int(table.min()), int(table.max())
    if dtype is None:
        dtype = np.uint16 if low >= 0 and high <= np.iinfo(np.uint16).max else np.int32
    if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
        raise ContractError(f"paint: values {low}..{high} do not fit {np.dtype(dtype)}: choose a wider dtype.")
    out = np.empty(size, dtype=dtype)
    if not len(top):
        return out
    from cv2 import transpose  # by blocks: numpy's strided copy is several times slower

    rows: np.ndarray = transpose(top.reshape(size[1], size[0]))
    table, step = table.astype(dtype), max(1, (1 << 16) // size[1])
    for row in range(0, size[0], step):  # few rows at a time, for `take` makes indices of eight bytes
        table.take(rows[row : row + step], mode="wrap", out=out[row : row + step])
    return out
