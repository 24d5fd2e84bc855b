"""A mask's boundary redrawn by colours: Gaussian mixtures inside and outside, a graph cut between (PSLG-SAM, arXiv 2506.10503).

OpenCV's grabCut is the method: five components each side, eight neighbours, gamma 50. What is deep inside the mask and what is
well outside stay what they are; only a band round the boundary is open. A guard keeps the old mask where the new one strays.

One rule of the guard is ours: masks under 1,600 pixels stay. A mixture has 50 numbers to learn, and on small masks the cut cost
up to 7 points of IoU with true boxes (docs/refer.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.masks.evidence import box_pixels

__all__ = ["Refined", "refine_boundary"]

#: The cut sees the box with each side longer by this share.
_LARGER = 0.2
#: Half the width of the open band: this share of the square root of the mask's area, in pixels within the bounds.
_BAND, _LEAST_BAND, _MOST_BAND = 0.03, 1, 15
#: At most so many rounds; enough when less than this share of the pixels changes.
_ROUNDS, _SETTLED = 5, 0.001
#: The guard: IoU with the old mask, ratio of the areas, pixels that each model learns from.
_LEAST_IOU, _LEAST_RATIO, _MOST_RATIO, _LEAST_SAMPLES = 0.7, 0.7, 1.4, 50
#: Smaller masks, in pixels, keep their boundary.
_LEAST_AREA = 1600
#: The cut runs on a copy of at most so many pixels, which takes some 20 ms; what it does not change keeps its full detail.
_MOST_PIXELS = 16_384


@dataclass(frozen=True)
class Refined:
    """(H, W) bool mask, the new one where it was `accepted`, otherwise the old one; `why` says which rule decided."""

    mask: np.ndarray
    accepted: bool
    why: str


def refine_boundary(pixels: np.ndarray, mask: np.ndarray, box: np.ndarray) -> Refined:
    """Redraw the boundary of a mask; the same for the same input.

    pixels (H, W, 3) uint8, mask (H, W) bool, box (4,) xyxy in pixels: the prompt that made the mask. The new mask is accepted
    only if its IoU with the old one is at least .7, the ratio of their areas lies in [.7, 1.4], both models have 50 samples and the
    old mask 1,600 pixels; of it, parts count that touch the old mask's inside.
    """
    frame = _frame(box, mask.shape)
    before, crop = mask[frame], pixels[frame]
    if before.sum() < _LEAST_AREA:
        return Refined(mask, False, f"smaller than {_LEAST_AREA:,} pixels")
    shrink = min(1.0, np.sqrt(_MOST_PIXELS / before.size))
    size = (max(2, round(before.shape[1] * shrink)), max(2, round(before.shape[0] * shrink)))
    small = cv2.resize(before.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    inside, outside = _certain(small)
    if min(small.sum(), (~small).sum()) < _LEAST_SAMPLES or not inside.any():
        return Refined(mask, False, "too few samples")
    cut = _cut(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), small, inside, outside)
    after = _enlarged(_touching(cut, inside), small, before)
    refused = _refusal(before, after)
    if refused:
        return Refined(mask, False, refused)
    new = mask.copy()
    new[frame] = after
    return Refined(new, True, "accepted")


def _frame(box: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, slice]:
    wide, high = (box[2] - box[0]) * _LARGER / 2, (box[3] - box[1]) * _LARGER / 2
    left, top, right, bottom = box_pixels(np.asarray(box) + np.array([-wide, -high, wide, high]), shape)
    return slice(top, bottom), slice(left, right)


def _certain(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is surely inside (h, w) bool and surely outside, by distance from the boundary."""
    reach = int(np.clip(round(_BAND * float(np.sqrt(mask.sum()))), _LEAST_BAND, _MOST_BAND))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    stored = mask.astype(np.uint8)
    return cv2.erode(stored, disc) > 0, cv2.dilate(stored, disc) == 0


def _cut(crop: np.ndarray, mask: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """(h, w) bool: the graph cut of a picture (h, w, 3) uint8, repeated until it settles."""
    states = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    states[inside], states[outside] = cv2.GC_FGD, cv2.GC_BGD
    crop, models, current = np.ascontiguousarray(crop), (np.zeros((1, 65)), np.zeros((1, 65))), mask
    cv2.setRNGSeed(0)
    for turn in range(_ROUNDS):
        mode = cv2.GC_INIT_WITH_MASK if turn == 0 else cv2.GC_EVAL
        cv2.grabCut(crop, states, (0, 0, 1, 1), *models, 1, mode)  # the rectangle plays no part where a mask is given
        before, current = current, (states & 1) > 0  # odd states are foreground
        if (before != current).mean() < _SETTLED:
            break
    return current


def _touching(mask: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that have a pixel of `inside`."""
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    keep = np.zeros(count, dtype=bool)
    keep[parts[inside & mask]] = True
    return keep[parts]


def _enlarged(small_after: np.ndarray, small_before: np.ndarray, before: np.ndarray) -> np.ndarray:
    """The new mask at the size of `before`, which stays as it was where the small one did."""
    if small_after.shape == before.shape:
        return small_after
    size = before.shape[::-1]
    changed = cv2.resize((small_after != small_before).astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    return np.where(changed, cv2.resize(small_after.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5, before)


def _refusal(before: np.ndarray, after: np.ndarray) -> str:
    """Why the new mask is not taken; "" when it is."""
    common, either = (before & after).sum(), (before | after).sum()
    ratio = after.sum() / before.sum()
    if common < _LEAST_IOU * either:
        return f"IoU {common / either:.2f} with the old mask is under {_LEAST_IOU:g}"
    if not _LEAST_RATIO <= ratio <= _MOST_RATIO:
        return f"area changed to {ratio:.2f} of the old"
    return ""
