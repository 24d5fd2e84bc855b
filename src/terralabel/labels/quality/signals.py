"""Signals of the quality of a label: a row of numbers for each unit, NaN where there is nothing to measure.

The first five kinds are those of the evaluator (`SIGNALS`, with what each says to a person); those on pixels ask a classifier that
was fitted on other pictures of the set, and so know labels of any origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.quality import EMPTY, Signals, Units
from terralabel.labels.quality.evidence import FEW_PIXELS, Evidence, Piece, pieces, units_of

__all__ = ["BAND", "SIGNALS", "Signal", "iou", "no_signals", "outline", "signals"]

#: Half width of the band along an outline, pixels.
BAND = 5.0


@dataclass(frozen=True)
class Signal:
    """One signal: its name, the kind of reason it is, and whether it lies in [0, 1] with 1 for the best."""

    name: str
    kind: str
    share: bool = False


#: How far an outline is moved or grown to see whether it would fit the picture better, and the step, pixels.
_MOVED, _STEP = 8, 2
#: Pixels of an outline that are looked at under every move; of longer ones as many evenly spread.
_LOOKED = 2000


#: Every signal, in the order of the columns.
SIGNALS: tuple[Signal, ...] = (
    Signal("confidence_band", "outline", True),  # mean |2p - 1| at most 5 px from the outline
    Signal("confidence_inside", "inside", True),  # mean |2p - 1| in the foreground
    Signal("expected_iou", "inside", True),  # of sum(p in the mask) with the mask, as if pixels were independent
    Signal("stability", "outline", True),  # IoU(p > .7, p > .3)
    Signal("views", "views", True),  # mean IoU with the labels of turned views
    Signal("views_worst", "views", True),
    Signal("sides", "sides", True),  # mean IoU with the labels of coarser outputs
    Signal("edge_contrast", "edges"),  # image gradient on the outline over the image's mean
    Signal("edge_follow", "edges", True),  # share of the outline where the gradient is above the image's median
    Signal("edge_sharp", "edges"),  # gradient on the outline over that in the band around it
    Signal("side_contrast", "edges"),  # difference of mean colour inside and outside along the outline, in deviations
    Signal("edge_offset", "edges"),  # how far from the outline, in or out, the gradient is strongest, pixels
    Signal("edge_shift", "edges", True),  # gradient on the outline over that on the best outline moved by up to 8 px
    Signal("learned_iou", "pixels", True),  # IoU with what the classifier of pixels says
    Signal("learned_inside", "pixels", True),  # its mean probability in the mask
    Signal("learned_expected", "pixels", True),  # as expected_iou, by its probabilities
    Signal("components", "shape"),  # log(1 + number of connected parts)
    Signal("largest", "shape", True),  # share of the largest part
    Signal("specks", "shape"),  # share of the parts with fewer than 16 pixels
    Signal("roughness", "shape"),  # log of outline over the root of the area
    Signal("fraction", "size"),  # share of the picture
    Signal("at_border", "size"),  # share of the mask's pixels that lie on the picture's border, over those of a square
    Signal("strongest", "empty"),  # of an empty picture: the highest probability of an object, 5 x 5 mean
    Signal("learned_share", "empty"),  # of an empty picture: share where the classifier of pixels sees an object
)
_COLUMN = {signal.name: index for index, signal in enumerate(SIGNALS)}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 for two empty ones."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def signals(evidence: Evidence, background: int | None = None, units: str = "class") -> Signals:
    """The signals of every unit of a picture: see `evidence.pieces` for what units there are."""
    picture = _Picture(evidence, background)
    found = list(pieces(evidence, background, units))
    values = np.full((len(found), len(SIGNALS)), np.nan, dtype=np.float32)
    for row, piece in enumerate(found):
        measures = _EMPTY if piece.class_id == EMPTY else _MEASURES
        for measure in measures:
            for name, value in measure(picture, piece).items():
                values[row, _COLUMN[name]] = value
    return Signals(tuple(_COLUMN), values, units_of(found))


def no_signals() -> Signals:
    """The signals of no unit."""
    return Signals(tuple(_COLUMN), np.zeros((0, len(SIGNALS)), np.float32), Units.of_rows([]))


class _Picture:
    """What is computed once for all units of a picture."""

    def __init__(self, evidence: Evidence, background: int | None) -> None:
        self.evidence, self.background = evidence, background
        self.known_pixels = max(int(evidence.known.sum()), 1)
        self.border = np.ones(evidence.label.shape, dtype=bool)
        self.border[1:-1, 1:-1] = False
        self.gradient: np.ndarray | None = None
        if evidence.image is not None:
            self.gradient = _gradient(evidence.image)
            inside = self.gradient[evidence.valid]
            self.mean_gradient, self.median_gradient = float(inside.mean()), float(np.median(inside))

    def class_map(self, maps: np.ndarray | None, piece: Piece) -> np.ndarray | None:
        """(h, w) float32 of the unit's class, or None where nobody knows."""
        ids = self.evidence.class_ids
        if maps is None or piece.class_id not in ids:
            return None
        return piece.cut(maps[ids.index(piece.class_id)])

    def object_map(self, maps: np.ndarray | None, piece: Piece) -> np.ndarray | None:
        """(h, w) float32: the probability of anything but background."""
        if maps is None or self.background not in self.evidence.class_ids:
            return None
        return 1 - piece.cut(maps[self.evidence.class_ids.index(self.background)])


def _gradient(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 magnitude of the gradient of a slightly smoothed (H, W, 3) uint8 image, the largest of its channels."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    x, y = cv2.Sobel(smooth, -1, 1, 0, scale=0.125), cv2.Sobel(smooth, -1, 0, 1, scale=0.125)
    return np.sqrt(x * x + y * y).max(axis=2)


def outline(mask: np.ndarray, known: np.ndarray) -> np.ndarray:
    """(h, w) bool: known pixels with a known 4-neighbour on the other side of the mask's border; both sides count."""
    line = np.zeros(mask.shape, dtype=bool)
    for axis in (0, 1):
        before, after = ((slice(None), slice(0, -1)), (slice(None), slice(1, None)))
        if axis == 0:
            before, after = before[::-1], after[::-1]
        crossing = (mask[before] != mask[after]) & known[before] & known[after]
        line[before] |= crossing
        line[after] |= crossing
    return line


def _band(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """(outline, known pixels at most `BAND` from it), (h, w) bool each."""
    line = outline(piece.mask, piece.known)
    if not line.any():
        return line, line
    return line, (cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5) <= BAND) & piece.known


def _of_confidence(picture: _Picture, piece: Piece) -> dict[str, float]:
    probability = picture.class_map(picture.evidence.probability, piece)
    if probability is None:
        return {}
    certainty = np.abs(2 * probability - 1)
    _, band = _band(piece)
    high, low = (probability > 0.7) & piece.known, (probability > 0.3) & piece.known
    return {
        "confidence_band": float(certainty[band].mean()) if band.any() else float("nan"),
        "confidence_inside": float(certainty[piece.mask].mean()),
        "expected_iou": _expected_iou(probability, piece),
        "stability": iou(high, low),
    }


def _expected_iou(probability: np.ndarray, piece: Piece) -> float:
    """The expected intersection over the expected union of the mask with what is drawn from the probabilities."""
    shared = float(probability[piece.mask].sum(dtype=np.float64))
    union = int(piece.mask.sum()) + float(probability[piece.known & ~piece.mask].sum(dtype=np.float64))
    return shared / union


def _of_agreement(picture: _Picture, piece: Piece) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, labels in (("views", picture.evidence.turned), ("sides", picture.evidence.sides)):
        agreed = [iou((piece.cut(other) == piece.class_id) & piece.known, piece.mask) for other in labels]
        if agreed:
            found[name] = float(np.mean(agreed))
            found |= {"views_worst": min(agreed)} if name == "views" else {}
    return found


def _of_edges(picture: _Picture, piece: Piece) -> dict[str, float]:
    line, band = _band(piece)
    if picture.gradient is None or picture.evidence.image is None or not line.any():
        return {}
    gradient, image = piece.cut(picture.gradient), picture.evidence.image[piece.place].astype(np.float32)
    on_line, around = float(gradient[line].mean()), float(gradient[band].mean())
    found = {
        "edge_contrast": on_line / max(picture.mean_gradient, 1e-3),
        "edge_follow": float((gradient[line] > picture.median_gradient).mean()),
        "edge_sharp": on_line / max(around, 1e-3),
    }
    found |= {"edge_offset": _offset(gradient, piece), "edge_shift": _shift(gradient, line)}
    inside, outside = band & piece.mask, band & ~piece.mask
    if inside.any() and outside.any():
        difference = np.abs(image[inside].mean(axis=0) - image[outside].mean(axis=0))
        deviation = np.sqrt((image[inside].var(axis=0) + image[outside].var(axis=0)) / 2)
        found["side_contrast"] = float((difference / (deviation + 1)).max())
    return found


def _offset(gradient: np.ndarray, piece: Piece) -> float:
    """Distance from the outline, inwards or outwards, of the ring of one pixel where the mean gradient is largest."""
    inside = cv2.distanceTransform(piece.mask.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~piece.mask).astype(np.uint8), cv2.DIST_L2, 5)
    ring = np.where(piece.mask, _MOVED - np.ceil(inside), _MOVED - 1 + np.ceil(outside)).astype(np.int32)
    counted = piece.known & (ring >= 0) & (ring < 2 * _MOVED)
    total = np.bincount(ring[counted], gradient[counted], 2 * _MOVED)
    number = np.bincount(ring[counted], minlength=2 * _MOVED)
    best = int(np.argmax(np.where(number >= BAND, total / np.maximum(number, 1), -1)))
    return float(abs(best - _MOVED + 0.5) - 0.5)


def _shift(gradient: np.ndarray, line: np.ndarray) -> float:
    """Mean gradient on the outline over the highest there would be, were it moved."""
    rows, columns = np.nonzero(line)
    if len(rows) > _LOOKED:
        chosen = np.linspace(0, len(rows) - 1, _LOOKED).astype(int)
        rows, columns = rows[chosen], columns[chosen]
    moves = range(-_MOVED, _MOVED + 1, _STEP)
    bottom, right = gradient.shape[0] - 1, gradient.shape[1] - 1
    means = [float(gradient[np.clip(rows + y, 0, bottom), np.clip(columns + x, 0, right)].mean()) for y in moves for x in moves]
    return float(gradient[rows, columns].mean()) / max(*means, 1e-3)


def _of_pixels(picture: _Picture, piece: Piece) -> dict[str, float]:
    learned = picture.class_map(picture.evidence.learned, piece)
    if learned is None or picture.evidence.learned is None:
        return {}
    best = piece.cut(picture.evidence.learned).argmax(axis=0) == picture.evidence.class_ids.index(piece.class_id)
    return {
        "learned_iou": iou(best & piece.known, piece.mask),
        "learned_inside": float(learned[piece.mask].mean()),
        "learned_expected": _expected_iou(learned, piece),
    }


def _of_shape(picture: _Picture, piece: Piece) -> dict[str, float]:
    area = int(piece.mask.sum())
    count, _, statistics, _ = cv2.connectedComponentsWithStats(piece.mask.astype(np.uint8), connectivity=8)
    areas = statistics[1:, cv2.CC_STAT_AREA]
    line = outline(piece.mask, piece.known) & piece.mask
    return {
        "components": float(np.log1p(count - 1)),
        "largest": float(areas.max() / area),
        "specks": float((areas < FEW_PIXELS).mean()),
        "roughness": float(np.log(max(int(line.sum()), 1) / np.sqrt(area))),
        "fraction": area / picture.known_pixels,
        "at_border": float((piece.mask & piece.cut(picture.border)).sum() / np.sqrt(area)),
    }


def _of_emptiness(picture: _Picture, piece: Piece) -> dict[str, float]:
    found: dict[str, float] = {}
    probability = picture.object_map(picture.evidence.probability, piece)
    if probability is not None:
        smooth = cv2.blur(probability, (5, 5))
        found["strongest"] = float(smooth[piece.known].max())
    learned = picture.object_map(picture.evidence.learned, piece)
    if learned is not None:
        found["learned_share"] = float((learned[piece.known] > 0.5).mean())
    for name, labels in (("views", picture.evidence.turned), ("sides", picture.evidence.sides)):
        agreed = [not _any_object(other, picture.background, piece.known) for other in labels]
        found |= {name: float(np.mean(agreed))} if agreed else {}
    return found


def _any_object(label: np.ndarray, background: int | None, known: np.ndarray) -> bool:
    return bool(((label != background) & (label != IGNORE) & known).any())


_Measure = Callable[[_Picture, Piece], dict[str, float]]
_MEASURES: tuple[_Measure, ...] = (_of_confidence, _of_agreement, _of_edges, _of_pixels, _of_shape)
_EMPTY: tuple[_Measure, ...] = (_of_emptiness,)
