"""Masks as vertical spans: the form in which they are clipped, compared, united and measured without any array of pixels.

A span is one column, a first row and a row past the last. Run lengths are column-major, so a run of ones is a span, or
several where it goes on at the top of the next column.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.core.grid import Window
from terralabel.core.masks import Masks

__all__ = ["Spans", "encode", "intervals_of", "spans_of", "unite"]


@dataclass(frozen=True)
class Spans:
    """`m` vertical spans; `owner` (m,) int64 says whose, `column`, `first`, `stop` (m,) int64 are pixels of one frame.

    Sorted by owner, then column, then first row, unless said otherwise.
    """

    owner: np.ndarray
    column: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    def take(self, which: np.ndarray) -> Spans:
        """The spans at `which` (indices or bool), in that order."""
        return Spans(self.owner[which], self.column[which], self.first[which], self.stop[which])

    def moved(self, x: int, y: int) -> Spans:
        """The same spans in a frame whose origin lies at (-x, -y) of this one."""
        return Spans(self.owner, self.column + x, self.first + y, self.stop + y)

    def owned_by(self, owner: np.ndarray) -> Spans:
        """The same spans with owner `owner[old]`."""
        return Spans(owner[self.owner], self.column, self.first, self.stop)

    def clip(self, window: Window) -> Spans:
        """The parts inside `window`, given in the spans' frame."""
        first, stop = np.maximum(self.first, window.y), np.minimum(self.stop, window.bottom)
        keep = (self.column >= window.x) & (self.column < window.right) & (first < stop)
        return Spans(self.owner[keep], self.column[keep], first[keep], stop[keep])

    def areas(self, n: int) -> np.ndarray:
        """Pixels of the owners 0..n-1, (n,) int64; right only where spans of an owner do not overlap."""
        return np.bincount(self.owner, self.stop - self.first, n).astype(np.int64)

    @staticmethod
    def join(parts: list[Spans]) -> Spans:
        """All spans of several records, one after the other."""
        if not parts:
            nothing = np.zeros(0, dtype=np.int64)
            return Spans(nothing, nothing, nothing, nothing)
        return Spans(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("owner", "column", "first", "stop"))
        )


def intervals_of(masks: Masks, which: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(owner, start, stop) int64: the runs of ones of the masks `which` between the column-major positions `low` and `high`.

    owner is 0..k-1 in the order of `which`. Every code adds up to the tile's pixels, so the running sum of all run lengths
    places mask i at i * H * W, and a binary search finds the part asked for: the rest is never looked at.
    """
    ends = np.cumsum(masks.runs, dtype=np.int64)
    base, first = which * (masks.size[0] * masks.size[1]), masks.offsets[which]
    head = np.searchsorted(ends, base + low, side="right")
    tail = np.minimum(np.searchsorted(ends, base + high - 1, side="right") + 1, masks.offsets[which + 1])
    head += (head - first) % 2 == 0  # runs of ones have odd places in their code
    count = np.maximum((tail - head + 1) // 2, 0)
    owner = np.repeat(np.arange(len(which)), count)
    run = (head - 2 * (np.cumsum(count) - count))[owner] + 2 * np.arange(len(owner))
    base = base[owner]
    return owner, np.maximum(ends[run - 1] - base, low), np.minimum(ends[run] - base, high)


def spans_of(masks: Masks, which: np.ndarray, window: Window | None = None) -> Spans:
    """The spans of the masks `which` ((k,) indices), owner 0..k-1, clipped to `window`; all in the masks' frame."""
    height, width = masks.size
    if not len(which) or not height * width or (window is not None and not window.area):
        return Spans.join([])
    left, right = (0, width) if window is None else (window.x, window.right)
    owner, start, stop = intervals_of(masks, np.asarray(which, dtype=np.int64), left * height, right * height)
    column = start // height
    top = column * height
    if len(stop) and np.any(stop - top > height):  # runs over several columns
        count = (stop - 1) // height - column + 1
        run = np.repeat(np.arange(len(count)), count)
        column = column[run] + np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
        owner, start, stop, top = owner[run], start[run], stop[run], column * height
    spans = Spans(owner, column, np.maximum(start - top, 0), np.minimum(stop - top, height))
    return spans if window is None else spans.clip(window)


def unite(spans: Spans) -> Spans:
    """Spans in any order -> the sorted, disjoint, non-touching spans of each owner's union."""
    order = np.lexsort((spans.first, spans.column, spans.owner))
    spans = spans.take(order)
    if not len(spans):
        return spans
    line = (
        np.cumsum(np.concatenate([[True], (spans.owner[1:] != spans.owner[:-1]) | (spans.column[1:] != spans.column[:-1])])) - 1
    )
    pitch = (
        int(spans.stop.max()) - int(spans.first.min()) + 1
    )  # lines one after the other, so that one running maximum serves all
    reach = np.maximum.accumulate(spans.stop + line * pitch)
    head = np.concatenate([[True], (spans.first[1:] + line[1:] * pitch > reach[:-1]) | (line[1:] != line[:-1])])
    last = np.concatenate([np.flatnonzero(head)[1:] - 1, [len(spans) - 1]])
    return Spans(spans.owner[head], spans.column[head], spans.first[head], reach[last] - line[last] * pitch)


def encode(spans: Spans, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(runs, offsets, bbox (n, 4) int64 xywh): the owners 0..n-1 as run lengths, each in the frame of its own tight box.

    `spans` are sorted and disjoint (see `unite`) and every owner has at least one.
    """
    if not n:
        return np.zeros(0, dtype=np.uint32), np.zeros(1, dtype=np.int64), np.zeros((0, 4), dtype=np.int64)
    head = np.searchsorted(spans.owner, np.arange(n))
    tail = np.concatenate([head[1:], [len(spans)]]) - 1
    x, y = spans.column[head], np.minimum.reduceat(spans.first, head)
    width, height = spans.column[tail] - x + 1, np.maximum.reduceat(spans.stop, head) - y
    base = (spans.column - x[spans.owner]) * height[spans.owner] - y[spans.owner]
    start, stop = base + spans.first, base + spans.stop
    joined = (start[1:] == stop[:-1]) & (spans.owner[1:] == spans.owner[:-1])  # goes on at the top of the next column
    first_of_run, last_of_run = np.concatenate([[True], ~joined]), np.concatenate([~joined, [True]])
    return *_runs(spans.owner[first_of_run], start[first_of_run], stop[last_of_run], width * height), np.stack(
        [x, y, width, height], 1
    )


def _runs(owner: np.ndarray, start: np.ndarray, stop: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(runs uint32, offsets) from the separate runs of ones of owners 0..n-1, frames of `total` pixels."""
    n = len(total)
    before = np.concatenate([[0], stop[:-1]])
    before[np.concatenate([[True], owner[1:] != owner[:-1]])] = 0
    pairs = np.stack([start - before, stop - start], 1).ravel()
    end = np.searchsorted(owner, np.arange(n), side="right")
    rest = total - stop[end - 1]
    tail = np.flatnonzero(rest > 0)
    runs = np.insert(pairs, 2 * end[tail], rest[tail]).astype(np.uint32)
    lengths = 2 * np.diff(np.concatenate([[0], end])) + (rest > 0)
    return runs, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
