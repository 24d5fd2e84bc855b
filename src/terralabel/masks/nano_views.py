"""A tile as `masks nano` sees it: at full size and shrunk, each through the network's encoder; and windows decoded from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.masks.tree import TreeMasks
from terralabel.nets.nano import runtime
from terralabel.nets.nano.runtime import Runtime
from terralabel.nets.nano.sampling import around

__all__ = ["FACTOR", "LONGEST", "Asked", "Views", "as_input", "decode", "shrunk"]

#: Each picture of a tile is this much smaller than the one before; boxes longer than `LONGEST` pixels go to the next.
FACTOR, LONGEST = 4, 224
#: Windows decoded at once; sides of the network's input are multiples of the other.
_AT_ONCE, _MULTIPLE = 64, 64


@dataclass(frozen=True)
class Views:
    """What the network has seen of each picture of the tile, full size first, with its (h, w) before padding; the tile; its
    hierarchy, made when first asked for."""

    seen: tuple[Any, ...]
    sizes: tuple[tuple[int, int], ...]
    tile: Tile

    @cached_property
    def hierarchy(self) -> Encoded:
        """The tile as `tree` sees it."""
        return TreeMasks().encode(self.tile)


@dataclass(frozen=True)
class Asked:
    """Prompts as the decoder takes them, `n` of them, in pixels of the tile.

    boxes (n, 4) float32 with `sure` (n,); points (n, p, 2) and labels (n, p); rough: index of a mask of `masks`, or -1 (n,);
    fits: the IoU expected of guessed boxes (n,), None for others.
    """

    boxes: np.ndarray
    sure: np.ndarray
    points: np.ndarray
    labels: np.ndarray
    rough: np.ndarray
    masks: Masks | None
    fits: np.ndarray | None = None


def shrunk(tile: Tile) -> list[tuple[np.ndarray, np.ndarray]]:
    """(pixels (h, w, 3), valid (h, w)) of the tile, and of it 4 and 16 times smaller as long as it is large."""
    bands = tile.pixels.shape[2]
    if bands == 2:
        third = tile.pixels.astype(np.uint16).sum(2, keepdims=True) // 2
        rgb = np.concatenate([tile.pixels, third.astype(np.uint8)], 2)
    else:
        rgb = tile.pixels[:, :, :3] if bands >= 3 else np.repeat(tile.pixels, 3, 2)
    found, shrink = [(rgb, tile.valid)], FACTOR
    while max(tile.size) > LONGEST * shrink // FACTOR * 5 // 4:
        h, w = (max(round(side / shrink), 1) for side in tile.size)
        small = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA)
        there = cv2.resize(tile.valid.astype(np.float32), (w, h), interpolation=cv2.INTER_AREA) >= 0.5
        found.append((small, there))
        shrink *= FACTOR
    return found


def as_input(picture: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32 in [-1, 1], padded right and below, invalid pixels 0: mid-grey."""
    h, w = (-(-side // _MULTIPLE) * _MULTIPLE for side in valid.shape)
    padded = np.zeros((h, w, 3), np.float32)
    padded[: valid.shape[0], : valid.shape[1]] = np.where(valid[..., None], picture.astype(np.float32) / 127.5 - 1, 0)
    return padded


def decode(net: Runtime, state: Views, asked: Asked, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits (n, g, g) float32, the windows (n, 4) of the tile that they lie over, and the IoU to expect (n,)."""
    n = len(asked.boxes)
    logits, expected = np.zeros((n, grid, grid), np.float32), np.zeros(n, np.float32)
    windows = np.zeros((n, 4), np.float32)
    side = (asked.boxes[:, 2:] - asked.boxes[:, :2]).max(1, initial=1)
    level = np.searchsorted(LONGEST * float(FACTOR) ** np.arange(len(state.seen) - 1), side)
    for k in range(len(state.seen)):
        mine = np.flatnonzero(level == k)
        shrink = float(FACTOR**k)
        windows[mine] = around(asked.boxes[mine] / shrink) * shrink
        for start in range(0, len(mine), _AT_ONCE):
            part = mine[start : start + _AT_ONCE]
            question = _question(asked, part, windows[part], state.sizes[k], shrink, grid)
            logits[part], expected[part] = net.decode(state.seen[k], question)
    return logits, windows, expected


def _question(
    asked: Asked, part: np.ndarray, windows: np.ndarray, size: tuple[int, int], shrink: float, grid: int
) -> runtime.Asked:
    """The prompts at `part` in pixels of a picture of `size`, `shrink` times smaller than the tile."""
    return runtime.Asked(
        size,
        windows / shrink,
        asked.boxes[part] / shrink,
        asked.sure[part],
        asked.points[part] / shrink,
        asked.labels[part].astype(np.int64),
        np.stack([_rough(asked, int(i), window, grid) for i, window in zip(part, windows, strict=True)]),
    )


def _rough(asked: Asked, i: int, window: np.ndarray, grid: int) -> np.ndarray:
    """The rough mask of prompt `i` in the cells of its window, -1 or 1 (g, g) float32; zeros where none was given."""
    if asked.masks is None or asked.rough[i] < 0:
        return np.zeros((grid, grid), np.float32)
    mask = asked.masks.array(int(asked.rough[i]))
    steps = (np.arange(grid) + 0.5) / grid
    x = np.floor(window[0] + (window[2] - window[0]) * steps).astype(np.int64)
    y = np.floor(window[1] + (window[3] - window[1]) * steps).astype(np.int64)
    inside = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))
    cells = mask[y.clip(0, mask.shape[0] - 1)[:, None], x.clip(0, mask.shape[1] - 1)]
    return np.where(cells & inside, 1, -1).astype(np.float32)
