"""Masks as vertical segments, and run lengths moved from one frame to another without decoding a pixel.

A segment is a stretch of one column: `column`, `top` (first row), `bottom` (row past the last). All the work on large
objects is done on segments, so memory follows the length of an outline, never the area of a bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.core import rle
from terralabel.core.coco import compress, decompress
from terralabel.core.objects import Objects

__all__ = ["Segments", "compress", "decompress", "object_segments", "run_segments", "to_frame"]


@dataclass(frozen=True)
class Segments:
    """Segments of `count` masks, each (m,) int64, ordered by owner, column, top; those of one column never touch."""

    owner: np.ndarray
    column: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    count: int

    def __len__(self) -> int:
        return len(self.owner)


def run_segments(runs: np.ndarray, offsets: np.ndarray, heights: np.ndarray | int) -> Segments:
    """The segments of run lengths; `heights` is the frame height of each mask, or one for all."""
    owner, first, stop = rle.intervals(runs, offsets)
    count = len(offsets) - 1
    height = np.broadcast_to(np.asarray(heights, dtype=np.int64), (count,))[owner]
    touches = np.concatenate([[False], (owner[1:] == owner[:-1]) & (first[1:] == stop[:-1])]) if owner.size else owner
    if np.any(touches):  # runs of zeros may be 0 long; such neighbours are one run
        keep = np.flatnonzero(~touches)
        last = np.concatenate([keep[1:], [owner.size]]) - 1
        owner, height, first, stop = owner[keep], height[keep], first[keep], stop[last]
    left, right = first // np.maximum(height, 1), (stop - 1) // np.maximum(height, 1)
    spans = right - left + 1
    source = np.repeat(np.arange(owner.size), spans)
    column = np.arange(source.size) - np.repeat(np.cumsum(spans) - spans, spans) + left[source]
    top = np.where(column == left[source], first[source] - column * height[source], 0)
    bottom = np.where(column == right[source], stop[source] - column * height[source], height[source])
    return Segments(owner[source], column, top, bottom, count)


def object_segments(objects: Objects) -> Segments:
    """The segments of a batch of objects, in scene pixels."""
    local = run_segments(objects.runs, objects.offsets, objects.bbox[:, 3])
    x, y = objects.bbox[local.owner, 0], objects.bbox[local.owner, 1]
    return Segments(local.owner, local.column + x, local.top + y, local.bottom + y, local.count)


def to_frame(segments: Segments, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths (runs int64, offsets int64) of every mask in the frame `size` = (H, W), in which all segments must lie."""
    height, width = size
    owner = segments.owner
    first, stop = segments.column * height + segments.top, segments.column * height + segments.bottom
    head = np.ones(owner.size, dtype=bool)
    head[1:] = (owner[1:] != owner[:-1]) | (first[1:] != stop[:-1])
    at = np.flatnonzero(head)
    owner, first = owner[at], first[at]
    stop = stop[np.append(at[1:], head.size) - 1] if at.size else stop
    pairs = np.bincount(owner, minlength=segments.count)
    edge_offsets = np.concatenate([[0], np.cumsum(2 * pairs + 2)])  # per mask: 0, first, stop, first, stop, ..., H * W
    edges = np.zeros(edge_offsets[-1], dtype=np.int64)
    place = 2 * np.arange(owner.size) + 2 * owner + 1
    edges[place], edges[place + 1] = first, stop
    edges[edge_offsets[1:] - 1] = height * width
    lengths = np.diff(edges, append=0)
    keep = np.ones(lengths.size, dtype=bool)
    keep[edge_offsets[1:] - 1] = False
    ends = edge_offsets[1:] - 2
    keep[ends[(lengths[ends] == 0) & (pairs > 0)]] = False  # no trailing run of zeros of length 0
    offsets = np.concatenate([[0], np.cumsum(keep)])[edge_offsets]
    return lengths[keep], offsets.astype(np.int64)
