"""Self-training: what the network itself sees in a picture however it is turned, scaled and coloured, to learn from as from truth that
is not quite sure.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.tile import Tile
from terralabel.masks.nano import Nano
from terralabel.train.pictures import Picture, in_layers

__all__ = ["own_masks", "with_own_masks"]

#: A mask is stable when the network expects this IoU of it and finds it again, with this IoU, in every other view.
_TRUSTED, _AGREEING = 0.5, 0.75
#: Pixels of the smallest mask; the IoU with a true instance from which a mask says nothing new; views are compared on this many cells.
_SMALLEST, _KNOWN, _CELLS = 64, 0.5, 192
#: Turns by a right angle, scale, contrast and tint of the other views.
_VIEWS = ((1, 0.7, 0.85, (1.06, 1.0, 0.93)), (2, 1.3, 1.15, (0.95, 1.0, 1.05)))


def with_own_masks(picture: Picture, weights: Path) -> Picture:
    """The picture with the stable masks of a network's file before those of the hierarchy; its true instances stay as they are."""
    theirs = [
        picture.ids[layer] == number
        for layer in range(1, len(picture.ids))
        for number in np.unique(picture.ids[layer])
        if number
    ]
    found = own_masks(picture.pixels, weights)
    if picture.true:
        truth = [picture.ids[0] == number for number in np.unique(picture.ids[0]) if number]
        found = [found[i] for i in np.flatnonzero(_overlaps(found, truth).max(1, initial=0) < _KNOWN)]
    guesses = in_layers((((0, 0), mask) for mask in found + theirs), picture.ids.shape[1:])
    return replace(picture, ids=np.concatenate([picture.ids[:1], guesses]))


def own_masks(pixels: np.ndarray, weights: Path) -> list[np.ndarray]:
    """The network's masks (H, W) bool of a picture (H, W, 3) uint8 that it is sure of and that two other views of it show, too;
    the most promising first."""
    backend = Nano(weights=str(weights), fill=False)
    found = _seen(backend, pixels)
    for turns, scale, contrast, tint in _VIEWS:
        if not found:
            return found
        view = np.rot90(pixels, turns).astype(np.float32)
        view = np.clip(((view - 110) * contrast + 110) * np.array(tint, np.float32), 0, 255).astype(np.uint8)
        size = (round(view.shape[1] * scale), round(view.shape[0] * scale))
        again = _seen(backend, cv2.resize(view, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
        back = [
            np.rot90(cv2.resize(m.astype(np.uint8), view.shape[1::-1], interpolation=cv2.INTER_NEAREST), -turns) > 0
            for m in again
        ]
        found = [found[i] for i in np.flatnonzero(_overlaps(found, back).max(1, initial=0) >= _AGREEING)]
    return found


def _seen(backend: Nano, pixels: np.ndarray) -> list[np.ndarray]:
    """Every mask of the network that it expects enough of."""
    masks = backend.generate(backend.encode(Tile.from_array(np.ascontiguousarray(pixels))))
    trusted = np.flatnonzero((masks.predicted_iou >= _TRUSTED) & (masks.area >= _SMALLEST))
    return [masks.array(int(i)) for i in trusted]


def _overlaps(one: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """IoU (len(one), len(other)) of masks of one size, on at most `_CELLS` rows and columns."""
    if not one or not other:
        return np.zeros((len(one), len(other)), np.float32)
    step = max(-(-max(one[0].shape) // _CELLS), 1)
    flat = [np.stack([mask[::step, ::step].ravel() for mask in masks]).astype(np.float32) for masks in (one, other)]
    shared = flat[0] @ flat[1].T
    union = flat[0].sum(1)[:, None] + flat[1].sum(1)[None] - shared
    return np.asarray(shared / np.maximum(union, 1))
