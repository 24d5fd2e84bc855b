"""From logits on a window's grid to masks of the tile: enlarged bilinearly inside the window, cut at 0."""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core import rle

__all__ = ["paste", "stability"]


def paste(logits: np.ndarray, windows: np.ndarray, valid: np.ndarray) -> list[np.ndarray]:
    """Run lengths in the tile's frame of logits (n, g, g) float32 over windows (n, 4) xyxy float, in pixels of the tile.

    Only pixels whose centres lie in the window, and that are `valid` (H, W) bool, can belong to a mask.
    """
    height, width = valid.shape
    limit = np.array([width, height, width, height])
    inner = np.clip(np.ceil(windows - 0.5), 0, limit).astype(np.int64)  # first and past-the-last pixel centre inside
    scale = logits.shape[-1] / (windows[:, 2:] - windows[:, :2])
    codes = []
    for values, (x0, y0, x1, y1), (sx, sy), corner in zip(logits, inner, scale, windows[:, :2], strict=True):
        if x1 <= x0 or y1 <= y0:
            codes.append(np.array([height * width], dtype=np.uint32))
            continue
        shift_x, shift_y = (x0 + 0.5 - corner[0]) * sx - 0.5, (y0 + 0.5 - corner[1]) * sy - 0.5
        affine = np.array([[sx, 0, shift_x], [0, sy, shift_y]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        large = cv2.warpAffine(values, affine, (int(x1 - x0), int(y1 - y0)), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        codes.append(rle.encode_boxed((large > 0) & valid[y0:y1, x0:x1], int(x0), int(y0), (height, width)))
    return codes


def stability(logits: np.ndarray, offset: float) -> np.ndarray:
    """SAM's stability score (n,) float32 on the grid: cells over `offset` divided by cells over -`offset`; 0 for none."""
    high, low = ((logits > cut).sum((1, 2)) for cut in (offset, -offset))
    return (high / np.maximum(low, 1)).astype(np.float32)
