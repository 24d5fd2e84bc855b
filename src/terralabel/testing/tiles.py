"""Small tiles that hold what a backend meets in the field, and prompts for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from terralabel.core.masks import Masks
from terralabel.core.tile import Tile

__all__ = ["sample_prompts", "sample_tiles"]


def sample_tiles(bands: int = 3) -> list[Tile]:
    """Small tiles, always the same: blocks, blocks with invalid pixels, a strip, one colour, one pixel, nothing valid."""
    rng = np.random.default_rng(0)

    def blocks(height: int, width: int) -> np.ndarray:
        colours = rng.integers(20, 236, (4, 4, bands))
        row, column = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        return (colours[row][:, column] + rng.integers(-3, 4, (height, width, bands))).astype(np.uint8)

    partly = np.ones((48, 64), dtype=bool)
    partly[:20, :30] = False
    masked = np.where(partly[..., None], blocks(48, 64), 0).astype(np.uint8)
    nothing = np.zeros((16, 16), dtype=bool)
    return [
        Tile.from_array(blocks(48, 64), key="blocks"),
        Tile.from_array(masked, partly, key="partly"),
        Tile.from_array(blocks(3, 70), key="strip"),
        Tile.from_array(np.full((24, 24, bands), 90, dtype=np.uint8), key="plain"),
        Tile.from_array(np.full((1, 1, bands), 200, dtype=np.uint8), key="pixel"),
        Tile.from_array(np.zeros((16, 16, bands), dtype=np.uint8), nothing, key="nothing"),
    ]


def sample_prompts(tile: Tile) -> dict[str, dict[str, Any]]:
    """Three prompts of each kind and of kinds together, as keyword arguments of `Promptable.predict`."""
    height, width = tile.size
    scale = np.array([width, height], dtype=np.float32)
    points = np.array([[[0.4, 0.6]], [[0.9, 0.8]], [[0.6, 0.7]]], dtype=np.float32) * scale
    more = np.array([[0.1, 0.9], [0.0, 0.0]], dtype=np.float32) * scale
    several = np.concatenate([points, np.tile(more, (3, 1, 1))], axis=1)  # (3, 3, 2)
    corners = np.array([[0, 0, 0.5, 0.5], [0.25, 0.2, 1, 1], [0, 0, 1, 1]], dtype=np.float32)
    boxes = corners * np.concatenate([scale, scale])
    ones = np.ones((3, 1), dtype=np.int32)
    rough = Masks.from_arrays([_box_pixels(tile.size, box) for box in boxes], tile.size)
    return {
        "points": {"points": points, "point_labels": ones},
        "points of three kinds": {"points": several, "point_labels": np.tile(np.array([1, 0, -1], dtype=np.int32), (3, 1))},
        "boxes": {"boxes": boxes},
        "points in boxes": {"points": points, "point_labels": ones, "boxes": boxes},
        "rough masks": {"masks": rough},
    }


def _box_pixels(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels of a box, at least one."""
    inside = np.zeros(size, dtype=bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    inside[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return inside
