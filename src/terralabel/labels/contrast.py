"""Where borders of coarse labels lie, told by how much the picture's look changes across them, over a whole set.

Edges tell it of things with an outline, such as roofs. A road's verge has no edge that stands out, but on one side of it lie other
colours and textures than on the other. So pixels are sorted into a few dozen looks, and the looks just outside of a line are
held against those just inside, for lines farther in and farther out: the change is largest at the true border.
"""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = [
    "LOOKS",
    "RINGS",
    "change_across",
    "change_at_border",
    "growth_by_change",
    "growth_shows",
    "look_of",
    "looks",
    "rings",
    "typical_looks",
]

#: Looks that pixels are sorted into.
LOOKS = 48
#: What counts as a step of lightness, of the two colour axes and of the edges' strength.
_SCALE = np.array([20, 6, 8, 1], np.float32)
#: Rings of one pixel that are counted, from so far outside of a border to so far inside; lines farther away are not tried.
_REACH, _FARTHEST = 10, 7
#: Rings in all.
RINGS = 2 * _REACH
#: Rings on either side of a line that are held against each other.
_WIDE = 3
#: Lines with so large a share of the largest change are as good; the nearest is taken, unless it is nearer than `_LEAST` pixels.
_EQUAL, _LEAST = 0.95, 3
#: The change must be so many times the one at the label's border.
_GAIN = 1.5
#: Beyond a valley, so many times its depth and this share of the largest change are a second border: the label lies off, it is not too wide.
_VALLEY, _HILL = 1.33, 0.5
#: Counts as usual that every side of a line begins with.
_PRIOR = 2.0


def looks(image: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(H, W, 4) float32 of an image (H, W, 3) uint8 and its `registration.edges_of`: Lab and edges, each in steps that count alike."""
    smooth = cv2.GaussianBlur(image, (0, 0), 0.8).astype(np.float32) / np.float32(255)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)
    return np.dstack([lab, edges.astype(np.float32)]) / _SCALE


def typical_looks(samples: np.ndarray) -> np.ndarray:
    """(LOOKS or fewer, 4) float32 centres of samples (n, 4) float32, by k-means; the same for the same samples."""
    different = np.unique(samples, axis=0)
    if len(different) <= LOOKS:
        return different
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 15, 1e-3)
    return cv2.kmeans(np.ascontiguousarray(samples), LOOKS, None, stop, 1, cv2.KMEANS_PP_CENTERS)[2]  # type: ignore[call-overload]


def look_of(found: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the nearest centre to every pixel of `looks`."""
    flat = found.reshape(-1, found.shape[2])
    squared = (centres * centres).sum(axis=1) - 2 * flat @ centres.T
    return squared.argmin(axis=1).astype(np.uint8).reshape(found.shape[:2])


def rings(look: np.ndarray, labels: np.ndarray, background: int | None) -> np.ndarray:
    """(RINGS, LOOKS) float64: pixels of each look in rings round the objects of one picture, from outside to inside."""
    counts = np.zeros((RINGS, LOOKS))
    known = labels != IGNORE
    for class_id in np.unique(labels[known]).tolist():
        mask = labels == class_id
        if class_id == background or mask[known].all():
            continue
        inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in (mask, ~mask))
        ring = np.where(mask, np.ceil(inside) - 1, -np.ceil(outside)).astype(np.int64) + _REACH
        near = known & (ring >= 0) & (ring < RINGS)
        counts += np.bincount(ring[near] * LOOKS + look[near], minlength=counts.size).reshape(counts.shape)
    return counts


def change_across(counts: np.ndarray) -> np.ndarray:
    """(2 _FARTHEST + 1,) float64: how much looks change across lines from _FARTHEST pixels outside of the border to as many inside.

    Jensen and Shannon's divergence of the looks on either side, times the pixels that show it.
    """
    found = []
    for line in range(_REACH - _FARTHEST, _REACH + _FARTHEST + 1):
        sides = [counts[line - _WIDE : line].sum(axis=0), counts[line : line + _WIDE].sum(axis=0)]
        both = sides[0] + sides[1]
        usual = _PRIOR * both / max(both.sum(), 1.0)
        shares = [(side + usual) / (side.sum() + _PRIOR) for side in sides]
        middle = np.maximum((shares[0] + shares[1]) / 2, 1e-12)
        parts = [(p * np.log(np.maximum(p, 1e-12) / middle)).sum() / 2 for p in shares]
        found.append(sum(parts) * min(side.sum() for side in sides))
    return np.array(found)


def change_at_border(counts: np.ndarray) -> float:
    """`change_across` the labels' own borders."""
    return float(change_across(counts)[_FARTHEST])


def growth_by_change(counts: np.ndarray) -> int:
    """Pixels by which true borders lie outside of coarse ones, from sums of `rings` over a set; 0 unless it is clear."""
    change = change_across(counts)
    lines = np.arange(-_FARTHEST, _FARTHEST + 1)
    best = min(lines[change >= _EQUAL * change.max()].tolist(), key=abs)
    clear = change.max() >= _GAIN * change[_FARTHEST] and abs(best) >= _LEAST
    at = _FARTHEST + best
    return -int(best) if clear and not _rises(change[at:]) and not _rises(change[at::-1]) else 0


def _rises(change: np.ndarray) -> bool:
    """Whether a fall from the first value on ends in a valley with a hill behind it."""
    valley = np.minimum.accumulate(change)
    return bool(((change > _VALLEY * valley) & (change > _HILL * change.max())).any())


def growth_shows(counts: np.ndarray, growth: int) -> bool:
    """Whether looks change as much near the borders of labels grown by `growth` as at those of the labels as they are."""
    change = change_across(counts)
    middle = _FARTHEST - growth
    return bool(change[max(middle - 2, 0) : middle + 3].max() >= change[_FARTHEST])
