"""Compiled loops over low-resolution logits: what lies over a cut-off once they are enlarged, outlines only.

Rows and columns of the tile come in groups whose pixels see the same two or three logits (`Axis`). A block, one group by
another, whose logits lie on one side of all cut-offs is settled at once; only in the others pixels are evaluated. A pixel
nearer to a cut-off than rounding is evaluated in torch's own order of operations, so that the last bit agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from terralabel.core import rle

__all__ = ["Axis", "measure_masks", "run_lengths"]

#: Rounding of a mean of at most nine logits, as a share of the largest of a mask; generous.
_ROUNDING = np.float32(2e-6)
_LARGEST = np.finfo(np.float32).max


class Axis(NamedTuple):
    """One axis of bilinear enlargement, in one step or in two with a middle picture between them.

    taps, weight             (k, 2) int64 and float32: the two logits of each pixel, of the middle picture if there is one
    then_taps, then_weight   (length, 2) the same from the middle picture to the tile; used where `twice`
    twice                    whether there is a middle picture
    bounds                   (g, 2) int64 first and last logit that a group of pixels sees, at most two apart
    starts                   (g + 1,) int64 first pixel of each group, and the end; groups cover the axis in order
    shares                   (length, 3) float32 the weight of each logit from the group's first on, both steps together
    """

    taps: np.ndarray
    weight: np.ndarray
    then_taps: np.ndarray
    then_weight: np.ndarray
    twice: bool
    bounds: np.ndarray
    starts: np.ndarray
    shares: np.ndarray


def _compiled(function: Callable[..., Any]) -> Any:
    """Compiled at the first call; kept on disk where a place can be written."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither beside this file nor in the user's cache
        return numba.njit(nogil=True)(function)


@_compiled
def _fused(a, b, c):  # type: ignore[no-untyped-def]
    """a * b + c rounded once, the same on every machine."""
    return np.float32(np.float64(a) * np.float64(b) + np.float64(c))


@_compiled
def _mean(v00, v01, v10, v11, wy0, wy1, wx0, wx1):  # type: ignore[no-untyped-def]
    """The bilinear mean of four corners as torch rounds it."""
    first = _fused(wy0 * wx0, v00, (wy0 * wx1) * v01)
    return _fused(wy1 * wx1, v11, _fused(wy1 * wx0, v10, first))


@_compiled
def _middle(part, y, x, oy, ox, rows, columns):  # type: ignore[no-untyped-def]
    """One pixel of logits enlarged once; `part` begins at logit (oy, ox)."""
    top, bottom = rows.taps[y, 0] - oy, rows.taps[y, 1] - oy
    left, right = columns.taps[x, 0] - ox, columns.taps[x, 1] - ox
    wy0, wy1, wx0, wx1 = rows.weight[y, 0], rows.weight[y, 1], columns.weight[x, 0], columns.weight[x, 1]
    return _mean(part[top, left], part[top, right], part[bottom, left], part[bottom, right], wy0, wy1, wx0, wx1)


@_compiled
def _exact(part, y, x, oy, ox, rows, columns):  # type: ignore[no-untyped-def]
    """One pixel of the tile: enlarged once, or from four pixels of the middle picture."""
    if not rows.twice:
        return _middle(part, y, x, oy, ox, rows, columns)
    top, bottom, left, right = rows.then_taps[y, 0], rows.then_taps[y, 1], columns.then_taps[x, 0], columns.then_taps[x, 1]
    v00 = _middle(part, top, left, oy, ox, rows, columns)
    v01 = _middle(part, top, right, oy, ox, rows, columns)
    v10 = _middle(part, bottom, left, oy, ox, rows, columns)
    v11 = _middle(part, bottom, right, oy, ox, rows, columns)
    wy0, wy1 = rows.then_weight[y, 0], rows.then_weight[y, 1]
    return _mean(v00, v01, v10, v11, wy0, wy1, columns.then_weight[x, 0], columns.then_weight[x, 1])


@_compiled
def _largest(part):  # type: ignore[no-untyped-def]
    """The largest absolute logit; -1 where one is NaN or infinite."""
    most = np.zeros(part.shape[1], dtype=np.float32)
    bad = 0
    for i in range(part.shape[0]):
        for j in range(part.shape[1]):
            size = abs(part[i, j])
            bad += not (size <= _LARGEST)
            most[j] = size if size > most[j] else most[j]
    return np.float32(-1) if bad else most.max()


@_compiled
def _span(part, first, last, low, high):  # type: ignore[no-untyped-def]
    """Smallest and largest of rows first .. last, column by column, into `low` and `high`."""
    for j in range(part.shape[1]):
        low[j] = part[first, j]
        high[j] = part[first, j]
    for i in range(first + 1, last + 1):
        for j in range(part.shape[1]):
            value = part[i, j]
            low[j] = value if value < low[j] else low[j]
            high[j] = value if value > high[j] else high[j]


@_compiled
def _levels(low, high, cuts, slack, least, most):  # type: ignore[no-untyped-def]
    """Over how many cut-offs the smallest and the largest logit of each column surely and possibly lie; whether any does."""
    sure0, sure1, sure2 = cuts[0] + slack, cuts[1] + slack, cuts[2] + slack
    may0, may1, may2 = cuts[0] - slack, cuts[1] - slack, cuts[2] - slack
    some = 0
    for j in range(len(low)):
        some += high[j] > may0
    if some:
        for j in range(len(low)):
            least[j] = np.int8(low[j] > sure0) + np.int8(low[j] > sure1) + np.int8(low[j] > sure2)
            most[j] = np.int8(high[j] > may0) + np.int8(high[j] > may1) + np.int8(high[j] > may2)
    return some > 0


@_compiled
def _block(part, r, g, cuts, slack, rows, columns, over, box):  # type: ignore[no-untyped-def]
    """Evaluate the pixels of one block: adds to `over` (3,), widens `box` (left, top, right, bottom)."""
    a, c = rows.bounds[r, 0], rows.bounds[r, 1]
    left, right = columns.bounds[g, 0], columns.bounds[g, 1]
    b, middle = min(a + 1, c), min(left + 1, right)
    v00, v01, v02 = part[a, left], part[a, middle], part[a, right]
    v10, v11, v12 = part[b, left], part[b, middle], part[b, right]
    v20, v21, v22 = part[c, left], part[c, middle], part[c, right]
    cut0, cut1, cut2 = cuts[0], cuts[1], cuts[2]
    for y in range(rows.starts[r], rows.starts[r + 1]):
        s0, s1, s2 = rows.shares[y, 0], rows.shares[y, 1], rows.shares[y, 2]
        h0, h1, h2 = s0 * v00 + s1 * v10 + s2 * v20, s0 * v01 + s1 * v11 + s2 * v21, s0 * v02 + s1 * v12 + s2 * v22
        for x in range(columns.starts[g], columns.starts[g + 1]):
            value = columns.shares[x, 0] * h0 + columns.shares[x, 1] * h1 + columns.shares[x, 2] * h2
            if min(abs(value - cut0), abs(value - cut1), abs(value - cut2)) <= slack:
                value = _exact(part, y, x, 0, 0, rows, columns)
            over[0] += value > cut0
            over[2] += value > cut2
            if value > cut1:
                over[1] += 1
                box[0], box[1], box[2], box[3] = min(box[0], x), min(box[1], y), max(box[2], x), max(box[3], y)


@_compiled
def measure_masks(logits, cuts, rows, columns, counts, boxes):  # type: ignore[no-untyped-def]
    """Pixels over each of three rising cut-offs, and the box over the middle one, of (n, m, m) float32 logits.

    Fills `counts` (n, 3) int64, -1 for logits that are not finite, and `boxes` (n, 4) int32 xywh, zeros for nothing.
    """
    m = logits.shape[2]
    low, high = np.empty(m, np.float32), np.empty(m, np.float32)
    least, most = np.empty(m, np.int8), np.empty(m, np.int8)
    over, box = np.empty(3, np.int64), np.empty(4, np.int64)
    sees_first, sees_last = columns.bounds[:, 0].copy(), columns.bounds[:, 1].copy()
    for k in range(len(logits)):
        part = logits[k]
        size = _largest(part)
        if size < 0:
            counts[k, :] = -1
            continue
        slack = size * _ROUNDING
        over[:] = 0
        box[0], box[1], box[2], box[3] = columns.starts[-1], rows.starts[-1], -1, -1
        for r in range(len(rows.bounds)):
            _span(part, rows.bounds[r, 0], rows.bounds[r, 1], low, high)
            if not _levels(low, high, cuts, slack, least, most):
                continue
            y0, y1 = rows.starts[r], rows.starts[r + 1]
            begin, end = 0, m - 1
            while most[begin] == 0:
                begin += 1
            while most[end] == 0:
                end -= 1
            first, last = np.searchsorted(sees_last, begin), np.searchsorted(sees_first, end, side="right")
            for g in range(first, last):
                a, c = columns.bounds[g, 0], columns.bounds[g, 1]
                b = min(a + 1, c)
                above = max(most[a], most[b], most[c])
                if above == 0:
                    continue
                if min(least[a], least[b], least[c]) < above:
                    _block(part, r, g, cuts, slack, rows, columns, over, box)
                    continue
                x0, x1 = columns.starts[g], columns.starts[g + 1]
                pixels = (y1 - y0) * (x1 - x0)
                over[0] += pixels
                if above >= 2:
                    over[1] += pixels
                    box[0], box[1], box[2], box[3] = min(box[0], x0), min(box[1], y0), max(box[2], x1 - 1), max(box[3], y1 - 1)
                if above == 3:
                    over[2] += pixels
        counts[k, :] = over
        if over[1]:
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = box[0], box[1], box[2] - box[0] + 1, box[3] - box[1] + 1


@_compiled
def _outline(part, oy, ox, box, slack, rows, columns, edges):  # type: ignore[no-untyped-def]
    """Column-major positions where a mask begins and ends, by turns, into `edges`; returns how many there are."""
    x, y, w, h = box[0], box[1], box[2], box[3]
    height = rows.starts[-1]
    flipped = part.T.copy()
    low, high = np.empty(part.shape[0], np.float32), np.empty(part.shape[0], np.float32)
    mixed = np.empty(part.shape[0], np.float32)
    g, fresh = np.searchsorted(columns.starts, x, side="right") - 1, -1
    first = np.searchsorted(rows.starts, y, side="right") - 1
    count, inside = 0, False
    for column in range(x, x + w):
        while column >= columns.starts[g + 1]:
            g += 1
        left, right = columns.bounds[g, 0] - ox, columns.bounds[g, 1] - ox
        if g != fresh:
            _span(flipped, left, right, low, high)
            fresh = g
        s0, s1, s2, middle = (
            columns.shares[column, 0],
            columns.shares[column, 1],
            columns.shares[column, 2],
            min(left + 1, right),
        )
        for i in range(part.shape[0]):
            mixed[i] = s0 * flipped[left, i] + s1 * flipped[middle, i] + s2 * flipped[right, i]
        base = column * height
        if inside and y > 0:
            edges[count] = base
            count, inside = count + 1, False
        row, r = y, first
        while row < y + h:
            stop = min(rows.starts[r + 1], y + h)
            a, c = rows.bounds[r, 0] - oy, rows.bounds[r, 1] - oy
            b = min(a + 1, c)
            sure = min(low[a], low[b], low[c]) > slack
            if sure or max(high[a], high[b], high[c]) <= -slack:
                if inside != sure:
                    edges[count] = base + row
                    count, inside = count + 1, sure
            else:
                for here in range(row, stop):
                    value = rows.shares[here, 0] * mixed[a] + rows.shares[here, 1] * mixed[b] + rows.shares[here, 2] * mixed[c]
                    if abs(value) <= slack:
                        value = _exact(part, here, column, oy, ox, rows, columns)
                    if inside != (value > 0):
                        edges[count] = base + here
                        count, inside = count + 1, not inside
            row, r = stop, r + 1
        if inside and y + h < height:
            edges[count] = base + y + h
            count, inside = count + 1, False
    if inside:
        edges[count] = (x + w) * height
        count += 1
    return count


def run_lengths(part: np.ndarray, corner: np.ndarray, box: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """COCO run lengths (uint32, see `core.rle`) of what is over 0 inside `box` (xywh, as `measure_masks` gave it).

    `part` holds the logits from `corner` = (row, column) on that the pixels of the box see.
    """
    pixels = int(rows.starts[-1] * columns.starts[-1])
    if not box[2]:
        return rle.from_edges(np.zeros(0, dtype=np.int64), pixels)
    edges = np.empty((int(box[2]) + 1) * (int(box[3]) + 2), dtype=np.int64)
    slack = np.float32(np.abs(part).max()) * _ROUNDING
    count = _outline(part, int(corner[0]), int(corner[1]), box.astype(np.int64), slack, rows, columns, edges)
    return rle.from_edges(edges[:count], pixels)
