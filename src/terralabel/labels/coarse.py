"""What a coarse label is worth: where it may be learned from, and how its word goes together with a network's.

Pure functions on label maps (H, W) uint8 of class ids or indices, 255 for "no label".
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.core.classes import IGNORE

__all__ = ["DEPTH", "SURE", "Belief", "agreed", "posterior", "signed_depth", "without_borders"]

#: Depths beyond this many pixels are alike.
DEPTH = 24
#: A coarse label is right so often, well inside.
SURE = 0.95
#: Probabilities are told apart in so many steps.
_STEPS = 20
#: Pixels as usual that every step begins with, so that rare ones say little.
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
class Belief:
    """What a network's word is worth: `log_odds` (K, steps) of a class at each step of its probability, over the usual odds.

    Measured on pictures the network has not seen, far from borders, with the coarse labels for truth: a network that has
    learned little says little, whatever it says of itself.
    """

    log_odds: np.ndarray

    @staticmethod
    def counted(probabilities: np.ndarray, labels: np.ndarray, band: int) -> np.ndarray:
        """(K, 2, steps) float64 sums of one picture, for `of_counts`: probabilities (K, H, W), labels (H, W) indices, 255 for none."""
        clear = without_borders(labels, band)
        known = clear != IGNORE
        counts = np.zeros((len(probabilities), 2, _STEPS))
        for index, p in enumerate(probabilities):
            steps, there = _step_of(p[known]), clear[known] == index
            for row, which in enumerate((there, ~there)):
                counts[index, row] = np.bincount(steps[which], minlength=_STEPS)
        return counts

    @classmethod
    def of_counts(cls, counts: np.ndarray) -> Belief:
        """From sums over a whole set. Odds only rise with the probability."""
        odds = []
        for there, elsewhere in counts.astype(np.float64):
            total = there + elsewhere
            base = (there.sum() + 1) / (total.sum() + 2)
            share = (there + _PRIOR * base) / (total + _PRIOR)
            odds.append(_rising(np.log(share / (1 - share)) - np.log(base / (1 - base)), total))
        return cls(np.array(odds))

    def odds(self, probabilities: np.ndarray) -> np.ndarray:
        """(K, H, W) float64: what probabilities (K, H, W) are worth."""
        return np.stack([self.log_odds[index][_step_of(p)] for index, p in enumerate(probabilities)])

    def applied(self, probabilities: np.ndarray, labels: np.ndarray, band: int, sure: float = SURE) -> np.ndarray:
        """`posterior` of the network's word alone."""
        return posterior(self.odds(probabilities), labels, band, sure)


def posterior(odds: np.ndarray, labels: np.ndarray, band: int, sure: float = SURE) -> np.ndarray:
    """(K, H, W) float32: the label's word and others' (log odds, (K, H, W)) together (Bayes); `labels` hold indices, 255 says nothing.

    A label is held for right with probability `sure` from `band` pixels inside its border on, for as good as unknown at it.
    """
    known, most = labels != IGNORE, np.log(sure / (1 - sure))
    logits = np.empty(odds.shape)
    for index, others in enumerate(odds):
        depth = signed_depth((labels == index) | ~known)
        logits[index] = np.where(known, most * np.clip(depth / max(band, 1), -1, 1), 0) + others
    shares = 1 / (1 + np.exp(-logits))
    return (shares / shares.sum(axis=0)).astype(np.float32)


def agreed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of two log odds the weaker, where both point the same way; 0 where they do not."""
    weaker = np.where(np.abs(one) < np.abs(other), one, other)
    return np.where(np.sign(one) == np.sign(other), weaker, 0.0)


def _step_of(probability: np.ndarray) -> np.ndarray:
    """Probabilities -> their steps 0.._STEPS - 1, int64."""
    return np.minimum((probability * _STEPS).astype(np.int64), _STEPS - 1)


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
