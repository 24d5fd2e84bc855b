"""Where a coarse label fits its image: moved as a whole, or grown or shrunk, so that its outline lies on the image's edges.

Of a few hundred places the best one always looks better than the one at hand, so a shift must show twice: found on half of the
outline, it has to fit the other half, and the other way round. Growth is one number for a whole set of labels.
"""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["GROWTHS", "edges_of", "grown", "growth_of", "growth_scores", "shift_of"]

#: Growths that are tried: pixels by which true outlines lie outside of coarse ones.
GROWTHS = tuple(range(-5, 6))
#: Squares of this side are dealt out to the two halves in turn.
_SQUARE = 32
#: A half with fewer pixels of outline proves nothing.
_FEWEST = 40
#: By what share edges must be stronger on the half that the shift was not found on; how far the halves' shifts may differ.
_GAIN, _APART = 0.08, 2
#: By what share edges must be stronger along grown outlines; growths within this share of the best are equal, the least is taken.
_GROWTH_GAIN, _EQUAL = 0.1, 0.02


def edges_of(image: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """(H, W) float32: gradient of a slightly smoothed (H, W, 3) uint8 image over its mean, the strongest capped; 0 where invalid."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    x, y = cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1)
    strength = np.sqrt(x * x + y * y).max(axis=2)
    strength[cv2.erode(valid.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0] = 0
    if not strength.any():
        return strength
    strength = np.minimum(strength, np.quantile(strength[valid], 0.97))
    return strength / max(float(strength[valid].mean()), 1e-6)


def _outline(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels beside one of another class; where there is no label there is no border."""
    known = labels != IGNORE
    highest = cv2.dilate(np.where(known, labels, 0).astype(np.uint8), np.ones((3, 3), np.uint8))
    lowest = cv2.erode(labels, np.ones((3, 3), np.uint8))
    return (highest != lowest) & known


def shift_of(edges: np.ndarray, labels: np.ndarray, most: int) -> tuple[int, int]:
    """(rows, columns) by which a coarse label (H, W) uint8 is to be moved, at most `most` each way; (0, 0) unless it shows twice."""
    line = _outline(labels).astype(np.float32)
    inner = slice(most + 1, -most - 1)
    kept = np.zeros_like(line)
    kept[inner, inner] = line[inner, inner]  # what may leave the image says nothing
    rows, columns = np.indices(line.shape) // _SQUARE
    halves = [kept * ((rows + columns) % 2 == half) for half in (0, 1)]
    if not most or min(float(half.sum()) for half in halves) < _FEWEST:
        return 0, 0
    scores = [_scores(edges, half, most) for half in halves]
    best = [np.array(np.unravel_index(int(s.argmax()), s.shape)) for s in scores]
    if np.abs(best[0] - best[1]).max() > _APART:
        return 0, 0
    for own, other in ((0, 1), (1, 0)):
        there = scores[other][tuple(best[own])]
        if there < (1 + _GAIN) * scores[other][most, most]:
            return 0, 0
    whole = sum(float(half.sum()) * s for half, s in zip(halves, scores, strict=True))
    row, column = np.unravel_index(int(np.argmax(whole)), (2 * most + 1, 2 * most + 1))
    return int(row) - most, int(column) - most


def _scores(edges: np.ndarray, line: np.ndarray, most: int) -> np.ndarray:
    """(2 most + 1, 2 most + 1): mean strength of edges under an outline moved by -most .. most rows and columns."""
    padded = cv2.copyMakeBorder(edges, most, most, most, most, cv2.BORDER_REFLECT)
    return cv2.matchTemplate(padded, line, cv2.TM_CCORR).astype(np.float64) / max(float(line.sum()), 1.0)


def _depth(mask: np.ndarray) -> np.ndarray:
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 5) for m in (mask, ~mask))
    return np.where(mask, inside - 0.5, 0.5 - outside)


def growth_scores(edges: np.ndarray, labels: np.ndarray, background: int | None) -> np.ndarray:
    """(2, growths) float64 sums over a picture: strength of edges along the outlines of objects grown by each of `GROWTHS`, and pixels."""
    sums = np.zeros((2, len(GROWTHS)))
    known = labels != IGNORE
    for class_id in np.unique(labels[known]).tolist():
        mask = labels == class_id
        if class_id == background or mask[known].all():
            continue
        depth = _depth(mask)
        for position, growth in enumerate(GROWTHS):
            line = (np.abs(depth + growth) < 1) & known
            sums[:, position] += float(edges[line].sum()), float(line.sum())
    return sums


def growth_of(sums: np.ndarray) -> int:
    """The growth that sums of `growth_scores` over a whole set speak for; 0 unless edges are clearly stronger there."""
    mean = sums[0] / np.maximum(sums[1], 1)
    middle = GROWTHS.index(0)
    if sums[1].min() < _FEWEST or mean.max() < (1 + _GROWTH_GAIN) * mean[middle - 1 : middle + 2].max():
        return 0
    return min((g for g, m in zip(GROWTHS, mean, strict=True) if m >= (1 - _EQUAL) * mean.max()), key=abs)


def grown(labels: np.ndarray, growth: int, background: int) -> np.ndarray:
    """The label with its objects grown (or shrunk, where negative) by so many pixels into, or out of, the class `background`."""
    if not growth:
        return labels
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(growth) + 1, 2 * abs(growth) + 1))
    out = labels.copy()
    objects = (labels != background) & (labels != IGNORE)
    if growth < 0:
        kept = cv2.erode((objects | (labels == IGNORE)).astype(np.uint8), disc, borderValue=1) > 0
        gone = _vanished(objects, kept)
        out[objects & ~kept & ~gone] = background
        return out
    near = cv2.dilate(objects.astype(np.uint8), disc) > 0
    new = near & (labels == background)
    _, nearest = cv2.distanceTransformWithLabels((~objects).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value = np.zeros(int(nearest.max()) + 1, labels.dtype)
    value[nearest[objects]] = labels[objects]
    out[new] = value[nearest[new]]
    return out


def _vanished(objects: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(H, W) bool: objects of which nothing would be left; they stay as they are."""
    _, parts = cv2.connectedComponents(objects.astype(np.uint8), connectivity=8)
    left = np.zeros(int(parts.max()) + 1, bool)
    left[parts[kept]] = True
    return objects & ~left[parts]
