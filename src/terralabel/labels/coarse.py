"""What a coarse label is worth: where it may be learned from, where it lies off, and how much to believe it how far inside.

Pure functions on label maps (H, W) uint8 of class ids or indices, 255 for "no label".
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["DEPTH", "Trust", "best_shift", "shift_scores", "signed_depth", "without_borders"]

#: Depths beyond this many pixels are alike.
DEPTH = 24
#: Depths are told apart in steps of so many pixels.
_STEP = 2
#: Pixels as usual that every depth begins with, so that rare ones say little.
_PRIOR = 500.0


def without_borders(labels: np.ndarray, band: int) -> np.ndarray:
    """The label without its pixels at most `band` from a border between classes, which may lie anywhere there.

    What is narrow would vanish: of it the inner half stays, whatever the band.
    """
    out = labels.copy()
    for class_id in np.unique(labels).tolist() if band else ():
        if class_id == IGNORE:
            continue
        depth = _depth((labels == class_id) | (labels == IGNORE))
        around = cv2.dilate(depth, np.ones((2 * band + 1, 2 * band + 1), np.uint8))
        out[(labels == class_id) & (depth <= np.minimum(band, around / 2))] = IGNORE
    return out


def _depth(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: pixels from each of a mask's to the nearest that is not; large where all are."""
    if mask.all():
        return np.full(mask.shape, 1e6, np.float32)
    return cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)


def signed_depth(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [-DEPTH, DEPTH]: how far inside a mask, or (negative) outside."""
    return np.clip(_depth(mask) - _depth(~mask), -DEPTH, DEPTH)


@dataclass(frozen=True)
class Trust:
    """How much more often a depth in the coarse label is met where a class really is: log ratios (K, bins) float64, by class.

    Found without truth, from what networks say that have not seen the label: their probabilities stand for what is there.
    """

    log_ratio: np.ndarray

    @staticmethod
    def bins() -> int:
        """Steps of depth."""
        return 2 * DEPTH // _STEP + 1

    @staticmethod
    def bin_of(depth: np.ndarray) -> np.ndarray:
        """Depths -> their steps, int64."""
        return np.floor((depth + DEPTH) / _STEP).astype(np.int64)

    @classmethod
    def counted(cls, probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(K, 2, bins) float64 sums of one picture, for `of_counts`: probabilities (K, H, W), labels (H, W) indices."""
        known = labels != IGNORE
        counts = np.zeros((len(probabilities), 2, cls.bins()))
        for index, p in enumerate(probabilities):
            bins = cls.bin_of(signed_depth((labels == index) | ~known))[known]
            for row, weights in enumerate((p[known], 1 - p[known])):
                counts[index, row] = np.bincount(bins, weights, minlength=cls.bins())
        return counts

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> Trust:
        """From sums (K, 2, bins) of the probability of each class, and of all but it, over the pixels of a depth.

        Ratios only rise with depth: what is deeper in the label is no less likely to be right.
        """
        ratios = []
        for there, elsewhere in counts.astype(np.float64):
            total = there + elsewhere
            base = (there.sum() + 1) / (total.sum() + 2)
            share = (there + _PRIOR * base) / (total + _PRIOR)  # how often the class is there at this depth
            ratios.append(_rising(np.log(share / (1 - share)) - np.log(base / (1 - base)), total))
        return cls(np.clip(np.array(ratios), -6, 6))

    def applied(self, probabilities: np.ndarray, labels: np.ndarray, sure: float = 0.97) -> np.ndarray:
        """(K, H, W) float32: probabilities with the label's word added (Bayes); `labels` hold indices 0..K-1, 255 says nothing.

        Probabilities are held within [1 - sure, sure], for networks are surer than they are right.
        """
        p = np.clip(probabilities.astype(np.float64), 1 - sure, sure)
        logits = np.log(p / (1 - p))
        known = labels != IGNORE
        for index in range(len(p)):
            word = self.log_ratio[index][self.bin_of(signed_depth((labels == index) | ~known))]
            logits[index] += np.where(known, word, 0)
        odds = 1 / (1 + np.exp(-logits))
        return (odds / odds.sum(axis=0)).astype(np.float32)


def _rising(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest rising sequence (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value, weight in zip(values.tolist(), (weights + 1e-6).tolist(), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            b, a = blocks.pop(), blocks.pop()
            total = a[1] + b[1]
            blocks.append([(a[0] * a[1] + b[0] * b[1]) / total, total, a[2] + b[2]])
    return np.concatenate([np.full(int(n), value) for value, _, n in blocks])


def shift_scores(probability: np.ndarray, mask: np.ndarray, most: int) -> np.ndarray:
    """(2 most + 1, 2 most + 1) float64: the probability (H, W) under a mask (H, W) bool moved by -most .. most rows and columns."""
    padded = cv2.copyMakeBorder(probability.astype(np.float32), most, most, most, most, cv2.BORDER_REPLICATE)
    return cv2.matchTemplate(padded, mask.astype(np.float32), cv2.TM_CCORR).astype(np.float64)


def best_shift(scores: np.ndarray, pixels: int, gain: float = 0.02) -> tuple[int, int]:
    """(rows, columns) of the highest of summed `shift_scores` over masks of so many pixels.

    (0, 0) unless the mean probability under the masks rises by `gain` and more.
    """
    most = len(scores) // 2
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    if not pixels or (scores[row, column] - scores[most, most]) / pixels < gain:
        return 0, 0
    return int(row) - most, int(column) - most
