"""Coarse versions of true labels, as people and old maps make them: to measure what repairs labels, with the truth known.

A label is (H, W) uint8 class ids with 255 for "no label". Everything but the `background` class is objects: connected components of
one class; those that fill little of their convex hull (roads, rivers) piece by piece, as people draw them. Whatever is done to objects, pixels of no label stay so, and uncovered ground becomes background. The same label, kind and
seed give the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["KINDS", "coarse"]

#: Pixels that outlines are moved by, at the reference size.
_GROWN = 4
#: Least and most shift, pixels.
_SHIFT = (4, 8)
#: Least and most vertices of polygons that are drawn in a hurry, at most so many each.
_VERTICES = (3, 5)
#: Of the objects that are left out; false ones for as many as this share of them.
_MISSING = _EXTRA = 0.2
#: Components smaller than this are specks and stay as they are.
_SPECK = 8
#: A component that fills less of its convex hull is no object but a network, and taken in pieces of this side.
_SOLID, _PIECE = 0.6, 64


@dataclass(frozen=True)
class _Object:
    """One connected component: its class, its box (slices) and the (h, w) bool mask in it."""

    class_id: int
    at: tuple[slice, slice]
    mask: np.ndarray


def coarse(label: np.ndarray, kind: str, *, background: int = 0, seed: int = 0) -> np.ndarray:
    """(H, W) uint8: the label made worse.

    Kinds: "dilated" and "eroded" by 4 pixels; "shifted" by 4 to 8 pixels, all in one direction, as a map that does not fit its image;
    "polygons" of 3 to 5 vertices, and "boxes", for each object; "missing": one object in five is gone; "extra": a false object for one
    in five, a copy of a real one elsewhere. Where objects grow into each other the larger one lies below. `background`: the class
    that is no object; raises `ValueError` for an unknown kind.

    >>> import numpy as np
    >>> from terralabel.testing.coarse import coarse
    >>> label = np.zeros((40, 40), np.uint8)
    >>> label[10:20, 10:20] = 1
    >>> [int((coarse(label, kind) == 1).sum()) for kind in ("dilated", "eroded", "boxes")]
    [300, 36, 100]
    """
    if kind not in _MAKERS:
        raise ValueError(f"{kind!r} is no kind of coarse label; known: {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind), label.shape[0], int(label.astype(np.uint64).sum()) & 0xFFFFFFFF])
    out = np.full(label.shape, background, dtype=np.uint8)
    for class_id, mask in _MAKERS[kind](_objects(label, background), label, rng):
        out[mask] = class_id
    out[label == IGNORE] = IGNORE
    return out


_Painted = list[tuple[int, np.ndarray]]


def _objects(label: np.ndarray, background: int) -> list[_Object]:
    """What one would draw in one go, the largest first."""
    found = []
    for class_id in np.setdiff1d(np.unique(label), [background, IGNORE]).tolist():
        for at, mask in _components(label == class_id):
            parts = [(at, mask)] if _solidity(mask) >= _SOLID else _pieces(at, mask)
            found += [_Object(class_id, *part) for part in parts]
    return sorted(found, key=lambda o: (-int(o.mask.sum()), o.at[0].start, o.at[1].start))


_Part = tuple[tuple[slice, slice], np.ndarray]


def _components(mask: np.ndarray, corner: tuple[int, int] = (0, 0)) -> list[_Part]:
    """(place, (h, w) bool) of the connected components of a mask whose first pixel is at `corner` (row, column)."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    out = []
    for k in range(1, count):
        x, y, w, h, _ = stats[k].tolist()
        at = slice(corner[0] + y, corner[0] + y + h), slice(corner[1] + x, corner[1] + x + w)
        out.append((at, parts[y : y + h, x : x + w] == k))
    return out


def _solidity(mask: np.ndarray) -> float:
    """The share of its convex hull that a mask fills."""
    outline = np.argwhere(mask).astype(np.int32)
    hull = cv2.fillConvexPoly(np.zeros(mask.shape, dtype=np.uint8), cv2.convexHull(outline[:, ::-1].copy()), (1,))
    return float(mask.sum() / max(int(hull.sum()), 1))


def _pieces(at: tuple[slice, slice], mask: np.ndarray) -> list[_Part]:
    """The components of a mask in squares of 64 pixels."""
    out = []
    for y in range(0, mask.shape[0], _PIECE):
        for x in range(0, mask.shape[1], _PIECE):
            out += _components(mask[y : y + _PIECE, x : x + _PIECE], (at[0].start + y, at[1].start + x))
    return out


def _full(item: _Object, shape: tuple[int, ...], shift: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(H, W) bool: the object in its image, moved by (rows, columns); what leaves the image is cut off."""
    out = np.zeros(shape, dtype=bool)
    rows = np.arange(item.at[0].start, item.at[0].stop) + shift[0]
    columns = np.arange(item.at[1].start, item.at[1].stop) + shift[1]
    row, column = (rows >= 0) & (rows < shape[0]), (columns >= 0) & (columns < shape[1])
    out[np.ix_(rows[row], columns[column])] = item.mask[np.ix_(row, column)]
    return out


def _as_they_are(objects: Sequence[_Object], label: np.ndarray) -> _Painted:
    return [(o.class_id, _full(o, label.shape)) for o in objects]


def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _dilated(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    return [(i, cv2.dilate(m.astype(np.uint8), _disc(_GROWN)) > 0) for i, m in _whole(objects, label)]


def _whole(objects: Sequence[_Object], label: np.ndarray) -> _Painted:
    """Connected components, pieces put together again, the largest first."""
    parts = [(i, at, m) for i in sorted({o.class_id for o in objects}) for at, m in _components(label == i)]
    parts.sort(key=lambda part: -int(part[2].sum()))
    return [(i, _full(_Object(i, at, m), label.shape)) for i, at, m in parts]


def _eroded(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    """Narrow things would vanish, and nobody draws them so: half of the erosion, or none, is theirs."""
    out = []
    for class_id, mask in _whole(objects, label):
        smaller = (cv2.erode(mask.astype(np.uint8), _disc(r), borderValue=1) > 0 for r in (_GROWN, _GROWN // 2))
        out.append((class_id, next((m for m in smaller if m.sum() >= max(_SPECK, mask.sum() / 10)), mask)))
    return out


def _shifted(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    length, angle = rng.uniform(*_SHIFT), rng.uniform(0, 2 * np.pi)
    shift = round(length * np.sin(angle)), round(length * np.cos(angle))
    return [(o.class_id, _full(o, label.shape, shift)) for o in objects]


def _polygons(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    return [
        (o.class_id, _few_vertices(_full(o, label.shape), int(rng.integers(_VERTICES[0], _VERTICES[1] + 1)))) for o in objects
    ]


def _few_vertices(mask: np.ndarray, most: int) -> np.ndarray:
    """The outline with at most `most` vertices, holes filled: Douglas and Peucker's line with the least tolerance that gives so few."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=len)
    low, high = 0.0, float(max(mask.shape))
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (low, middle) if len(cv2.approxPolyDP(outline, middle, True)) <= most else (middle, high)
    vertices = cv2.approxPolyDP(outline, high, True)
    if len(vertices) < 3:  # the line collapses: a turned rectangle is what one would draw
        vertices = np.round(cv2.boxPoints(cv2.minAreaRect(outline))).astype(np.int32)
    return cv2.fillPoly(np.zeros(mask.shape, dtype=np.uint8), [vertices], (1,)) > 0


def _boxes(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    out = []
    for item in objects:
        mask = np.zeros(label.shape, dtype=bool)
        mask[item.at] = True
        out.append((item.class_id, mask))
    return out


def _missing(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    kept = rng.random(len(objects)) >= _MISSING
    return _as_they_are([o for o, keep in zip(objects, kept, strict=True) if keep or o.mask.sum() < _SPECK], label)


def _extra(objects: Sequence[_Object], label: np.ndarray, rng: np.random.Generator) -> _Painted:
    out = _as_they_are(objects, label)
    for item in objects:
        if rng.random() >= _EXTRA or item.mask.sum() < _SPECK:
            continue
        height, width = item.mask.shape
        to = [int(rng.integers(0, max(size - side, 0) + 1)) for size, side in zip(label.shape, (height, width), strict=True)]
        out.append((item.class_id, _full(item, label.shape, (to[0] - item.at[0].start, to[1] - item.at[1].start))))
    return out


_MAKERS: dict[str, Callable[[Sequence[_Object], np.ndarray, np.random.Generator], _Painted]] = {
    "dilated": _dilated,
    "eroded": _eroded,
    "shifted": _shifted,
    "polygons": _polygons,
    "boxes": _boxes,
    "missing": _missing,
    "extra": _extra,
}
#: The kinds of `coarse`, in the order of the pages.
KINDS = tuple(_MAKERS)
