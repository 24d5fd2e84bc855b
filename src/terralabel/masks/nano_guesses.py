"""Boxes that `masks nano` guesses: at the points it is given, or at every cell of its maps."""

from __future__ import annotations

import numpy as np

from terralabel.core.tile import Tile
from terralabel.masks.nano_views import FACTOR, LONGEST, Views
from terralabel.nets.nano.runtime import Runtime

__all__ = ["guess_at", "guess_everywhere", "three_of", "with_points"]


def guess_at(net: Runtime, state: Views, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, c, 4) in pixels of the tile and the IoU expected of them (n, c), of all pictures, at points (n, 2)."""
    boxes, fits = [], []
    for k, seen in enumerate(state.seen):
        found, fit = net.guess(seen, xy / np.float32(FACTOR**k))
        boxes.append(found * FACTOR**k)
        fits.append(_suited(found, fit, k, len(state.seen)))
    return np.concatenate(boxes, 1), np.concatenate(fits, 1)


def _suited(boxes: np.ndarray, fits: np.ndarray, level: int, levels: int) -> np.ndarray:
    """Expected IoU less so for boxes (..., 4), in pixels of picture `level`, that another picture shows better."""
    side = (boxes[..., 2:] - boxes[..., :2]).max(-1)
    too_small = (level > 0) & (side < LONGEST / FACTOR * 0.8)
    too_large = (level + 1 < levels) & (side > LONGEST * 1.2)
    return np.where(too_small | too_large, fits * 0.5, fits)


def three_of(boxes: np.ndarray, fits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The three best boxes (n, 3, 4) of (n, c, 4) that are not nearly the same, and their `fits` (n, 3) of (n, c)."""
    rows = np.arange(len(boxes))
    left, chosen, theirs = fits.astype(np.float64).copy(), [], []
    for _ in range(3):
        best = left.argmax(1)
        chosen.append(boxes[rows, best])
        theirs.append(fits[rows, best])
        same = _iou(boxes, chosen[-1][:, None])
        left *= np.where(same > 0.7, 0.3, 1.0)
        left[rows, best] = -1
    return np.stack(chosen, 1), np.stack(theirs, 1)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    shared = np.maximum(np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2]), 0).prod(-1)
    areas = [np.maximum(box[..., 2:] - box[..., :2], 0).prod(-1) for box in (one, other)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-6)


def with_points(boxes: np.ndarray, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Boxes (n, 4) made large enough for the object points among (n, p, 2)."""
    mine = (labels == 1)[..., None]
    low = np.where(mine, points - 1, np.inf).min(1)
    high = np.where(mine, points + 1, -np.inf).max(1)
    return np.concatenate([np.minimum(boxes[:, :2], low), np.maximum(boxes[:, 2:], high)], 1).astype(np.float32)


def guess_everywhere(net: Runtime, state: Views, tile: Tile, lowest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (n, 4) guessed at every cell of every picture with the IoU expected of them (n,), if it is at least `lowest`, and
    the points (n, 2), valid pixels of the tile, that they were guessed at."""
    every: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for k, (seen, (h, w)) in enumerate(zip(state.seen, state.sizes, strict=True)):
        y, x = np.mgrid[4:h:8, 4:w:8].astype(np.float32) if min(h, w) > 4 else np.zeros((2, 1, 1), np.float32) + 0.5
        xy = np.stack([x.ravel(), y.ravel()], 1)
        found, fit = net.guess(seen, xy)
        fits = _suited(found, fit, k, len(state.seen))
        every.append((found * FACTOR**k, fits, np.repeat(xy[:, None] * FACTOR**k, found.shape[1], 1)))
    boxes, fits, points = (np.concatenate([part[i].reshape(-1, *part[i].shape[2:]) for part in every]) for i in range(3))
    column, row = (np.minimum(points[:, axis].astype(np.int64), tile.size[1 - axis] - 1) for axis in (0, 1))
    keep = np.flatnonzero((fits >= lowest) & tile.valid[row, column])
    return boxes[keep], fits[keep], points[keep].astype(np.float32)
