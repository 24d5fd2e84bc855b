"""Small tiles that hold what a backend meets in the field."""

from __future__ import annotations

import numpy as np

from terralabel.core.tile import Tile

__all__ = ["sample_tiles"]


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
