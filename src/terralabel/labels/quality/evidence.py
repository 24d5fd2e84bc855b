"""What is known about the label of one picture, and the units of it that are judged: classes, objects, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.quality import EMPTY, Units
from terralabel.errors import ContractError, SettingsError
from terralabel.labels.quality.units import UNITS

__all__ = ["FEW_PIXELS", "REACH", "Evidence", "Piece", "pieces", "true_iou", "units_of"]

#: An object answers for the pixels nearer to it than to another object of its class, at most so far from it, pixels.
REACH = 16
#: Objects of fewer pixels are no units of their own.
FEW_PIXELS = 16


@dataclass(frozen=True)
class Evidence:
    """One label of one picture (a tile or a small image), and what there is to judge it by.

    label        (H, W) uint8 class ids, 255 where nobody said anything
    image        (H, W, 3) uint8, or None for labels without their images
    valid        (H, W) bool: where there is an image
    probability  (K, H, W) float32 in [0, 1], of the K classes in the order of `class_ids`; None for labels of other origin
    class_ids    K class ids, the background among them if there is one
    turned       (H, W) uint8 labels of flipped and rotated views of the picture, turned back
    sides        (H, W) uint8 labels of a network's coarser outputs
    learned      (K, H, W) float32 as `probability`, of a classifier that has seen pixels of other pictures only
    """

    label: np.ndarray
    image: np.ndarray | None
    valid: np.ndarray
    probability: np.ndarray | None
    class_ids: tuple[int, ...]
    turned: tuple[np.ndarray, ...] = ()
    sides: tuple[np.ndarray, ...] = ()
    learned: np.ndarray | None = None

    def __post_init__(self) -> None:
        size = self.label.shape
        if self.label.ndim != 2 or self.label.dtype != np.uint8:
            raise ContractError(f"Evidence.label: expected (H, W) uint8, got {size} {self.label.dtype}.")
        wanted: list[tuple[str, np.ndarray | None, tuple[int, ...], type]] = [
            ("image", self.image, (*size, 3), np.uint8),
            ("valid", self.valid, size, np.bool_),
            ("probability", self.probability, (len(self.class_ids), *size), np.float32),
            ("learned", self.learned, (len(self.class_ids), *size), np.float32),
            *(("turned", view, size, np.uint8) for view in self.turned),
            *(("sides", side, size, np.uint8) for side in self.sides),
        ]
        for name, array, shape, dtype in wanted:
            if array is not None and (array.shape != shape or array.dtype != dtype):
                raise ContractError(f"Evidence.{name}: expected {shape} {np.dtype(dtype)}, got {array.shape} {array.dtype}.")

    @property
    def known(self) -> np.ndarray:
        """(H, W) bool: valid pixels that have a label."""
        return self.valid & (self.label != IGNORE)


@dataclass(frozen=True)
class Piece:
    """One unit cut out of its picture: `mask` (h, w) bool its pixels, `known` (h, w) bool those it answers for, at `place`."""

    class_id: int
    component: int
    place: tuple[slice, slice]
    mask: np.ndarray
    known: np.ndarray

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The unit's part of an (..., H, W) array of the picture."""
        return array[(..., *self.place)]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xywh in picture pixels, tight; the whole piece where there is no pixel."""
        top, left = self.place[0].start, self.place[1].start
        if not self.mask.any():
            return left, top, self.mask.shape[1], self.mask.shape[0]
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return (
            int(left + columns[0]),
            int(top + rows[0]),
            int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1),
        )


def pieces(evidence: Evidence, background: int | None = None, units: str = "class") -> Iterator[Piece]:
    """The units of a picture, classes by id, objects in the order of their first pixels; `background` is the class that is no object.

    A picture in which nothing but background is labelled is one unit, `EMPTY`. One without any valid pixel has none.
    """
    if units not in UNITS:
        raise SettingsError(f"units {units!r}: expected one of {', '.join(UNITS)}.")
    if not evidence.valid.any():
        return
    known = evidence.known
    whole = slice(0, known.shape[0]), slice(0, known.shape[1])
    present = [i for i in np.unique(evidence.label[known]).tolist() if i != background]
    for class_id in present:
        mask = known & (evidence.label == class_id)
        if units == "class":
            yield Piece(class_id, 0, whole, mask, known)
        else:
            yield from _objects(class_id, mask, known)
    if not present:
        yield Piece(EMPTY, 0, whole, np.zeros(known.shape, dtype=bool), known if known.any() else evidence.valid)


def _objects(class_id: int, mask: np.ndarray, known: np.ndarray) -> Iterator[Piece]:
    """One piece for each object of a class that is not tiny."""
    away = (~mask).astype(np.uint8)
    # the nearest object of each pixel, by its number among the connected parts of zeros
    distance, nearest = cv2.distanceTransformWithLabels(away, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP)
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    height, width = mask.shape
    for component in range(1, count):
        x, y, w, h, area = statistics[component].tolist()
        if area < FEW_PIXELS:
            continue
        place = slice(max(y - REACH, 0), min(y + h + REACH, height)), slice(max(x - REACH, 0), min(x + w + REACH, width))
        mine = parts[place] == component
        zone = nearest[place][mine][0]
        yield Piece(class_id, component, place, mine, known[place] & (nearest[place] == zone) & (distance[place] <= REACH))


def units_of(found: list[Piece]) -> Units:
    """The record of pieces."""
    return Units.of_rows([(p.class_id, p.component, p.box, int(p.mask.sum())) for p in found])


def true_iou(evidence: Evidence, truth: np.ndarray, background: int | None = None, units: str = "class") -> np.ndarray:
    """(n,) float32: the IoU of each unit with the truth, (H, W) class ids; NaN where the truth says nothing of it.

    Pixels whose truth is 255 do not count. An object is compared with the true pixels it answers for (`REACH`). Of an empty
    picture it is 1 where the truth has no object either, else 0.
    """
    if truth.shape != evidence.label.shape:
        raise ContractError(f"The truth is {truth.shape}, the label {evidence.label.shape}: expected equal sizes.")
    return np.array(
        [_true_iou(piece, piece.cut(truth), background) for piece in pieces(evidence, background, units)], np.float32
    )


def _true_iou(piece: Piece, truth: np.ndarray, background: int | None) -> float:
    counted = piece.known & (truth != IGNORE)
    if not counted.any():
        return float("nan")
    if piece.class_id == EMPTY:
        return float(not (counted & (truth != background)).any())
    wanted, found = counted & (truth == piece.class_id), counted & piece.mask
    union = int((wanted | found).sum())
    return int((wanted & found).sum()) / union if union else float("nan")
