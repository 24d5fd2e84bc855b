"""How well the outlines of classes agree: boundary F within a tolerance, fed strip by strip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from terralabel.errors import ContractError, SettingsError

__all__ = ["BoundaryF", "outline"]

#: No class: in the prediction, a pixel that stands for none of the true classes.
NO_CLASS = -1
#: Not looked at: the truth is ignored here.
HIDDEN = -2


def outline(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: the pixels with one of their 4 neighbours in another class; `HIDDEN` pixels are no neighbours.

    The outermost pixels of each class, so one pixel wide on each side of a border. The edge of the image is no border.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        ahead = [slice(None), slice(None)]
        behind = [slice(None), slice(None)]
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        a, b = labels[tuple(ahead)], labels[tuple(behind)]
        differ = (a != b) & (a != HIDDEN) & (b != HIDDEN)
        edge[tuple(ahead)] |= differ
        edge[tuple(behind)] |= differ
    return edge


class BoundaryF:
    """F1 of the outlines of each class, pooled over all images (the BF measure of Csurka et al. 2013, pooled).

    A predicted outline pixel of a class is right when a true outline pixel of the class lies within `tolerance` pixels
    (Euclidean, centre to centre), and the other way round. `classes` are the true ids; `meaning` maps predicted ids
    to them (None: no class). Pixels whose true id is not in `classes` are not looked at.

    Feed strips of an image from the top with `add`, then call `end_image`; memory holds one strip and its margin.
    """

    def __init__(self, classes: Iterable[int], meaning: dict[int, int | None], tolerance: float = 3.0) -> None:
        if not 0 <= tolerance <= 1000:
            raise SettingsError(f"tolerance {tolerance}: expected 0 to 1000 pixels.")
        self.classes = sorted(classes)
        self.tolerance = float(tolerance)
        index = {c: i for i, c in enumerate(self.classes)}
        self._of_true = np.full(65536, HIDDEN, np.int32)
        self._of_predicted = np.full(65536, NO_CLASS, np.int32)
        self._of_true[self.classes] = np.arange(len(self.classes))
        for predicted, true in meaning.items():
            self._of_predicted[predicted] = NO_CLASS if true is None else index[true]
        self._margin = int(np.ceil(tolerance)) + 1
        # pixels of the outline and those of them that are near the other's, predicted and true
        self._counts = np.zeros((4, len(self.classes)), np.int64)
        self._rows: list[np.ndarray] | None = None
        self._above = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """The next (h, W) rows of an image: ids of both, 0..65535."""
        if prediction.shape != truth.shape or prediction.ndim != 2:
            raise ContractError(f"Strips {prediction.shape} and {truth.shape}: expected two equal (h, W) arrays.")
        true = self._of_true[truth]
        predicted = np.where(true == HIDDEN, HIDDEN, self._of_predicted[prediction])
        if self._rows is not None:
            predicted, true = (np.concatenate(pair) for pair in zip(self._rows, (predicted, true), strict=True))
        done = max(self._above, len(true) - self._margin)
        self._measure(predicted, true, self._above, done)
        keep = max(0, done - self._margin)
        self._rows, self._above = [predicted[keep:], true[keep:]], done - keep

    def end_image(self) -> None:
        """The image has no more rows."""
        if self._rows is not None:
            predicted, true = self._rows
            self._measure(predicted, true, self._above, len(true))
        self._rows, self._above = None, 0

    def _measure(self, predicted: np.ndarray, true: np.ndarray, top: int, bottom: int) -> None:
        """Count rows top..bottom; the rows around them are there for the outlines within reach."""
        if bottom <= top:
            return
        edges = [np.where(outline(labels), labels, NO_CLASS) for labels in (predicted, true)]
        present = np.unique(np.concatenate([np.unique(edge) for edge in edges]))
        for index in present[present >= 0].tolist():
            ours, theirs = (edge == index for edge in edges)
            self._counts[0, index] += ours[top:bottom].sum()
            self._counts[1, index] += (ours & self._near(theirs))[top:bottom].sum()
            self._counts[2, index] += theirs[top:bottom].sum()
            self._counts[3, index] += (theirs & self._near(ours))[top:bottom].sum()

    def _near(self, edge: np.ndarray) -> np.ndarray:
        import cv2

        if not edge.any():
            return edge
        reach = int(self.tolerance)
        if reach <= 8:  # a small disc is faster laid on every pixel than distances are found
            y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
            disc = (x * x + y * y <= self.tolerance**2).astype(np.uint8)
            return cv2.dilate(edge.view(np.uint8), disc, borderType=cv2.BORDER_CONSTANT, borderValue=0).view(bool)
        distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return distance <= self.tolerance + 1e-3

    def per_class(self) -> dict[int, float]:
        """Class -> F1; NaN for a class without outline on both sides (it fills all images, or is never seen beside another)."""
        predicted, right, true, found = self._counts
        with np.errstate(invalid="ignore", divide="ignore"):
            precision, recall = right / predicted, found / true
            f1 = np.where(right + found > 0, 2 * precision * recall / (precision + recall), 0.0)
        f1 = np.where(predicted + true == 0, np.nan, f1)
        return dict(zip(self.classes, f1.tolist(), strict=True))

    def mean(self) -> float:
        """The mean over the classes with an outline; NaN if there is none."""
        values = [f for f in self.per_class().values() if not np.isnan(f)]
        return sum(values) / len(values) if values else float("nan")
