"""Boxes of a thing all over a scene: those of a person, and those that a locator found tile by tile, joined across seams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from terralabel.core.classes import plain_name
from terralabel.core.grid import Window
from terralabel.core.tile import Tile
from terralabel.errors import ContractError

__all__ = ["GivenBoxes", "Located", "joined_across_seams"]

#: A box this near to the side of its tile, in pixels, is taken as cut by it.
_CUT = 2.0
#: Two boxes of two tiles are one thing when what both tiles saw of them overlaps by at least this (IoU).
_SAME = 0.5
#: Words for whatever there is.
_ANYTHING = ("object", "objects", "thing", "things", "everything", "anything", "box", "boxes")


@dataclass(frozen=True)
class Located:
    """`n` boxes of one thing: `xyxy` (n, 4) float64 scene pixels and `score` (n,) float32."""

    xyxy: np.ndarray
    score: np.ndarray

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.score), 4):
            raise ContractError(f"Located: expected {len(self.score)} x 4 numbers, got {self.xyxy.shape}.")

    def __len__(self) -> int:
        return len(self.score)

    def take(self, which: np.ndarray) -> Located:
        """Those at `which`, in that order."""
        return Located(self.xyxy[which], self.score[which])

    def inside(self, width: int, height: int) -> Located:
        """Cut to the scene; what is no box, or has not a pixel in it, is left out."""
        cut = np.clip(self.xyxy, 0, np.array([width, height, width, height], dtype=np.float64))
        keep = np.isfinite(self.xyxy).all(axis=1) & (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
        return Located(cut[keep], self.score[keep])


@dataclass(frozen=True)
class GivenBoxes:
    """A `contracts.Locator` for one scene whose boxes are known: a text finds those of the class that it names.

    xyxy (n, 4) scene pixels, names: the class of each, "" where it has none (any text finds it), score (n,). A box is found in
    the tile whose core holds its centre, whole. Case, articles and the plural do not matter.
    """

    xyxy: np.ndarray
    names: tuple[str, ...]
    score: np.ndarray
    name: str = field(default="boxes", init=False)
    version: str = field(default="1", init=False)

    def of(self, text: str) -> Located:
        """Those of the class that a text names, all over the scene."""
        wanted = plain_name(text)
        which = [k for k, name in enumerate(self.names) if not name or plain_name(name) == wanted or wanted in _ANYTHING]
        return Located(self.xyxy[which].reshape(-1, 4), np.asarray(self.score, dtype=np.float32)[which])

    def locate(self, tile: Tile, text: str) -> tuple[np.ndarray, np.ndarray]:
        """See `contracts.Locator`."""
        found, core, window = self.of(text), tile.plan.core, tile.plan.window
        x, y = (found.xyxy[:, 0] + found.xyxy[:, 2]) / 2, (found.xyxy[:, 1] + found.xyxy[:, 3]) / 2
        here = found.take(np.flatnonzero((x >= core.x) & (x < core.right) & (y >= core.y) & (y < core.bottom)))
        return (here.xyxy - np.array([window.x, window.y, window.x, window.y])).astype(np.float32), here.score


def joined_across_seams(parts: Sequence[tuple[Window, Located]], width: int, height: int) -> Located:
    """The boxes of all tiles of a scene ((window, boxes in scene pixels) each), those that a seam cuts put together.

    Two boxes of different tiles are one thing when a side of a tile cuts one of them and, in the part that both tiles see, they
    overlap by half. The box of a thing is round all of its pieces, its score the best.
    """
    boxes = np.concatenate([part.xyxy for _, part in parts]) if parts else np.zeros((0, 4))
    score = np.concatenate([part.score for _, part in parts]) if parts else np.zeros(0, np.float32)
    seen = np.array([(w.x, w.y, w.right, w.bottom) for w, part in parts for _ in range(len(part))], dtype=np.float64).reshape(
        -1, 4
    )
    owner = np.array([k for k, (_, part) in enumerate(parts) for _ in range(len(part))], dtype=np.int64)
    ends = np.array([0, 0, width, height], dtype=np.float64)
    cut = ((np.abs(boxes - seen) <= _CUT) & (seen != ends)).any(axis=1)
    parent = np.arange(len(boxes))
    for i in np.flatnonzero(cut).tolist():
        common = _common(np.tile(seen[i], (len(boxes), 1)), seen)
        mine, theirs = _common(np.tile(boxes[i], (len(boxes), 1)), common), _common(boxes, common)
        for j in np.flatnonzero((_iou(mine, theirs) >= _SAME) & (owner != owner[i])).tolist():
            a, b = _root(parent, i), _root(parent, j)
            parent[max(a, b)] = min(a, b)
    roots = np.array([_root(parent, i) for i in range(len(boxes))], dtype=np.int64)
    whole = []
    for root in np.unique(roots).tolist():
        pieces = boxes[roots == root]
        whole.append((np.concatenate([pieces[:, :2].min(0), pieces[:, 2:].max(0)]), score[roots == root].max()))
    return Located(np.array([box for box, _ in whole]).reshape(-1, 4), np.array([best for _, best in whole], dtype=np.float32))


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        i = int(parent[i])
    return i


def _common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy in both; turned round where there is nothing."""
    return np.concatenate([np.maximum(one[:, :2], other[:, :2]), np.minimum(one[:, 2:], other[:, 2:])], axis=1)


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) of boxes in pairs; 0 where one of them is turned round."""
    sizes = [np.clip(box[:, 2:] - box[:, :2], 0, None).prod(axis=1) for box in (one, other, _common(one, other))]
    return np.where(sizes[2] > 0, sizes[2] / np.maximum(sizes[0] + sizes[1] - sizes[2], 1e-9), 0.0)
