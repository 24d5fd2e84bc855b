"""Where a coarse label fits its image: moved as a whole, or grown or shrunk, so that its outline lies on the image's edges.

Of a few hundred places the best one always looks better than the one at hand, so a shift must show twice: found on half of the
outline, it has to fit the other half, and the other way round. Growth is one number for a whole set of labels.
"""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window

__all__ = [
    "GROWTHS",
    "compact_objects",
    "edges_along",
    "edges_of",
    "grown",
    "growth_of",
    "growth_scores",
    "shift_of",
    "shift_on",
]

#: Growths that are tried: pixels by which true outlines lie outside of coarse ones.
GROWTHS = tuple(range(-5, 6))
#: Squares of this side are dealt out to the two halves in turn.
_SQUARE = 32
#: A half with fewer pixels of outline proves nothing.
_FEWEST = 40
#: By what share edges must be stronger on the half that the shift was not found on; how far the halves' shifts may differ.
_GAIN, _APART = 0.08, 2
#: Side of the surroundings that a label is held against when it is laid over a map of what it should be.
_AROUND = 33
#: By what share edges must be stronger along grown outlines; growths within this share of the best are equal, the least is taken.
_GROWTH_GAIN, _EQUAL = 0.1, 0.02
#: Compact objects have so many pixels, and fill so much of their convex hull.
_SPECK, _SOLID = 16, 0.6


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
    return _shown_twice(
        [_scores(edges, half, most) for half in halves], [float(half.sum()) for half in halves], most, 1 + _GAIN
    )


def shift_on(said: np.ndarray, labels: np.ndarray, background: int | None, most: int) -> tuple[int, int]:
    """The same by maps of what others say is there: log odds (K, H, W) of the classes whose indices are the label's."""
    inner, known = slice(most + 1, -most - 1), labels != IGNORE
    rows, columns = np.indices(labels.shape) // _SQUARE
    scores, weights = [np.zeros((2 * most + 1, 2 * most + 1)) for _ in range(2)], [0.0, 0.0]
    for index in np.setdiff1d(np.unique(labels[known]), [-1 if background is None else background]).tolist():
        mask = ((labels == index) & known).astype(np.float32)
        kept = np.zeros_like(mask)
        kept[inner, inner] = (mask - cv2.blur(mask, (_AROUND, _AROUND)))[
            inner, inner
        ]  # what lies round an object speaks against it
        for half in (0, 1):
            part = kept * ((rows + columns) % 2 == half)
            weights[half] += float(np.abs(part).sum())
            scores[half] += _correlation(said[index].astype(np.float32), part.astype(np.float32), most)
    if not most or min(weights) < _FEWEST:
        return 0, 0
    return _shown_twice([s / w for s, w in zip(scores, weights, strict=True)], weights, most, 1.0)


def _shown_twice(scores: list[np.ndarray], weights: list[float], most: int, least: float) -> tuple[int, int]:
    """The best shift of both halves' scores, where each half's best is near the other's and better there, by `least`, than none."""
    best = [np.array(np.unravel_index(int(s.argmax()), s.shape)) for s in scores]
    if np.abs(best[0] - best[1]).max() > _APART:
        return 0, 0
    for own, other in ((0, 1), (1, 0)):
        there = scores[other][tuple(best[own])]
        if there <= 0 or there < least * scores[other][most, most]:
            return 0, 0
    whole = weights[0] * scores[0] + weights[1] * scores[1]
    row, column = np.unravel_index(int(np.argmax(whole)), (2 * most + 1, 2 * most + 1))
    if whole[row, column] < (1 + _GAIN) * whole[most, most]:
        return 0, 0
    return int(row) - most, int(column) - most


def _scores(edges: np.ndarray, line: np.ndarray, most: int) -> np.ndarray:
    """(2 most + 1, 2 most + 1): mean strength of edges under an outline moved by -most .. most rows and columns."""
    return _correlation(edges, line, most) / max(float(line.sum()), 1.0)


def _correlation(values: np.ndarray, pattern: np.ndarray, most: int) -> np.ndarray:
    """(2 most + 1, 2 most + 1) float64: sums of values (H, W) under a pattern (H, W) that is moved by -most .. most rows and columns."""
    padded = cv2.copyMakeBorder(values, most, most, most, most, cv2.BORDER_REFLECT)
    return cv2.matchTemplate(padded, pattern, cv2.TM_CCORR).astype(np.float64)


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


def edges_along(edges: np.ndarray, mask: np.ndarray) -> float:
    """Mean strength of edges (H, W) at most a pixel from the outline of a mask (H, W) bool, but for the rim of the picture."""
    line = np.abs(_depth(np.pad(mask, 1))[1:-1, 1:-1]) < 1
    line[[0, -1]], line[:, [0, -1]] = False, False
    return float(edges[line].mean()) if line.any() else 0.0


def compact_objects(labels: np.ndarray, background: int | None) -> list[tuple[int, Window, np.ndarray]]:
    """(class id, place, (h, w) bool) of the connected parts of class maps (H, W) that are no networks, such as roads are, and no specks."""
    found = []
    for class_id in np.setdiff1d(np.unique(labels), [IGNORE if background is None else background, IGNORE]).tolist():
        count, parts, boxes, _ = cv2.connectedComponentsWithStats((labels == class_id).astype(np.uint8), connectivity=4)
        for k in range(1, count):
            x, y, width, height, area = boxes[k].tolist()
            mask = parts[y : y + height, x : x + width] == k
            if area >= _SPECK and area >= _SOLID * _hull_area(mask):
                found.append((class_id, Window(x, y, width, height), mask))
    return found


def _hull_area(mask: np.ndarray) -> int:
    outline = np.argwhere(mask)[:, ::-1].astype(np.int32)
    return int(cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(outline), (1,)).sum())
