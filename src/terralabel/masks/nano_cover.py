"""Masks for what the good ones leave bare: a labelling wants every pixel, an annotator does not mind."""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core import rle
from terralabel.core.masks import Masks

__all__ = ["cover"]

#: A spare mask is taken when at least this share of it is bare.
_MOSTLY = 0.5


def cover(good: Masks, spare: Masks, valid: np.ndarray, smallest: int) -> Masks:
    """The good masks, then those of `spare` (in their order) that are mostly bare, then the connected pieces of the rest.

    Pieces of fewer than `smallest` pixels stay bare; a piece's `predicted_iou` and `stability_score` are 0: nothing is known of it.
    """
    bare = valid.copy()
    for i in range(len(good)):
        x, y, w, h = good.bbox[i]
        bare[y : y + h, x : x + w] &= ~good.crop(i)
    taken = [i for i in range(len(spare)) if _take(spare, i, bare)]
    pieces = _pieces(bare, smallest)
    parts = [(good, range(len(good))), (spare, taken), (pieces, range(len(pieces)))]
    return Masks.from_codes(
        [masks.code(i) for masks, which in parts for i in which],
        good.size,
        predicted_iou=np.concatenate([masks.predicted_iou[list(which)] for masks, which in parts]),
        stability_score=np.concatenate([masks.stability_score[list(which)] for masks, which in parts]),
        point_coords=np.concatenate([masks.point_coords[list(which)] for masks, which in parts]),
    )


def _take(spare: Masks, i: int, bare: np.ndarray) -> bool:
    """Whether mask `i` is mostly bare; if so it is bare no more."""
    x, y, w, h = spare.bbox[i]
    crop, part = spare.crop(i), bare[y : y + h, x : x + w]
    if np.count_nonzero(part & crop) < _MOSTLY * spare.area[i]:
        return False
    part &= ~crop
    return True


def _pieces(bare: np.ndarray, smallest: int) -> Masks:
    """The 4-connected pieces of a bool raster."""
    _, names, stats, _ = cv2.connectedComponentsWithStats(bare.astype(np.uint8), connectivity=4)
    codes = []
    for name, (x, y, w, h, area) in enumerate(stats[1:], 1):
        if area >= smallest:
            codes.append(rle.encode_boxed(names[y : y + h, x : x + w] == name, int(x), int(y), bare.shape))
    nothing = np.zeros(len(codes), dtype=np.float32)
    return Masks.from_codes(codes, bare.shape, predicted_iou=nothing, stability_score=nothing)
