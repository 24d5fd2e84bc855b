"""Counts of predicted ids against true classes, and the measures that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.core.matching import majority, one_to_one
from terralabel.errors import InputError, SettingsError

__all__ = ["MATCHES", "Confusion", "Contingency", "adjusted_rand", "matched", "mutual_information", "purity"]

#: majority: each cluster stands for its most frequent class; hungarian: one cluster a class; none: ids are the classes'.
MATCHES = ("majority", "hungarian", "none")

_IDS = 65536


@dataclass(frozen=True)
class Contingency:
    """What `Confusion` counted.

    predicted (p,) and true (t,) int64: the ids that occur, ascending; counts (p, t) int64 pixels;
    unlabelled (t,) int64: pixels of each true class that have no label in the prediction;
    ignored: pixels left out because of their true id.
    """

    predicted: np.ndarray
    true: np.ndarray
    counts: np.ndarray
    unlabelled: np.ndarray
    ignored: int

    @property
    def pixels(self) -> int:
        """Pixels that count: with a true class that is not ignored."""
        return int(self.counts.sum() + self.unlabelled.sum())

    @property
    def with_unlabelled(self) -> np.ndarray:
        """(p or p + 1, t): the counts, with the unlabelled pixels as one more cluster if there are any."""
        return np.concatenate([self.counts, self.unlabelled[None]]) if self.unlabelled.any() else self.counts


class Confusion:
    """A confusion matrix that is fed image by image, or strip by strip; ids 0..65535.

    Pixels whose true id is in `ignore` do not count. Pixels with a true class that are 255 in the prediction are
    unlabelled: they count, and are wrong.
    """

    def __init__(self, ignore: tuple[int, ...] = (IGNORE,)) -> None:
        self.ignore = tuple(sorted(set(ignore)))
        self._pairs: dict[tuple[int, int], int] = {}
        self._small = np.zeros(256 * 256, np.int64)
        self._ignored = 0

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count two arrays of ids, of one shape; `InputError` for other shapes, floats or ids outside 0..65535."""
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape:
            raise InputError(
                f"The prediction is {prediction.shape}, the truth {truth.shape}: expected equal sizes.", "wrong-size"
            )
        for name, ids in (("prediction", prediction), ("truth", truth)):
            if ids.dtype.kind not in "uib":
                raise InputError(f"The {name} is {ids.dtype}: expected whole numbers, one class id a pixel.", "not-class-ids")
            if ids.dtype not in (np.uint8, np.bool_) and ids.size and (ids.min() < 0 or ids.max() >= _IDS):
                raise InputError(f"The {name} has ids {ids.min()}..{ids.max()}: expected 0..{_IDS - 1}.", "not-class-ids")
        if prediction.dtype.itemsize == truth.dtype.itemsize == 1:
            pairs = prediction.astype(np.uint16).ravel() * np.uint16(256) + truth.ravel()
            self._small += np.bincount(pairs, minlength=256 * 256)
            return
        pairs, counts = np.unique(prediction.astype(np.int64).ravel() * _IDS + truth.ravel(), return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            self._pairs[divmod(pair, _IDS)] = self._pairs.get(divmod(pair, _IDS), 0) + count

    def _all_pairs(self) -> dict[tuple[int, int], int]:
        pairs = dict(self._pairs)
        for pair in np.flatnonzero(self._small).tolist():
            pairs[divmod(pair, 256)] = pairs.get(divmod(pair, 256), 0) + int(self._small[pair])
        return pairs

    def count_of_true(self, true_id: int) -> int:
        """Pixels with this true id, ignored or not."""
        return sum(count for (_, true), count in self._all_pairs().items() if true == true_id)

    def contingency(self) -> Contingency:
        """The counts so far."""
        pairs = self._all_pairs()
        kept = {pair: count for pair, count in pairs.items() if pair[1] not in self.ignore}
        predicted = sorted({p for p, _ in kept if p != IGNORE})
        true = sorted({t for _, t in kept})
        row, column = {p: i for i, p in enumerate(predicted)}, {t: i for i, t in enumerate(true)}
        counts, unlabelled = np.zeros((len(predicted), len(true)), np.int64), np.zeros(len(true), np.int64)
        for (p, t), count in kept.items():
            if p == IGNORE:
                unlabelled[column[t]] = count
            else:
                counts[row[p], column[t]] = count
        ignored = sum(pairs.values()) - sum(kept.values())
        return Contingency(np.array(predicted, np.int64), np.array(true, np.int64), counts, unlabelled, ignored)


def matched(table: Contingency, match: str) -> dict[int, int | None]:
    """Predicted id -> the true class it stands for, or None when it stands for none.

    "majority": the class it shares most pixels with (the lowest id of equals). "hungarian": one to one, agreeing in
    most pixels. "none": the ids of both sides mean the same; ids that the truth does not have stand for None.
    """
    if match not in MATCHES:
        raise SettingsError(f"match {match!r}: expected one of {', '.join(MATCHES)}.")
    if match == "none":
        known = set(table.true.tolist())
        return {p: p if p in known else None for p in table.predicted.tolist()}
    columns = (majority if match == "majority" else one_to_one)(table.counts)
    return {p: int(table.true[c]) if c >= 0 else None for p, c in zip(table.predicted.tolist(), columns, strict=True)}


def adjusted_rand(counts: np.ndarray) -> float:
    """Adjusted Rand index (Hubert and Arabie 1985) of a contingency table, in whole numbers; NaN without pixels."""
    cells = sum(n * n for n in counts.ravel().tolist())
    rows = sum(n * n for n in counts.sum(axis=1).tolist())
    columns = sum(n * n for n in counts.sum(axis=0).tolist())
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    # pairs of pixels: together in both, in the rows only, in the columns only, in none
    both, row_only, column_only = cells - total, rows - cells, columns - cells
    neither = total * total - rows - columns + cells
    if row_only == 0 and column_only == 0:
        return 1.0
    above = 2 * (both * neither - row_only * column_only)
    return above / ((both + row_only) * (row_only + neither) + (both + column_only) * (column_only + neither))


def mutual_information(counts: np.ndarray) -> float:
    """Normalised mutual information: over the mean of both entropies; 1 for one cluster and one class; NaN without pixels."""
    total = counts.sum()
    if total == 0:
        return float("nan")
    joint = counts[counts.any(axis=1)][:, counts.any(axis=0)] / total
    if joint.size == 1:
        return 1.0
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    present = joint > 0
    information = float((joint[present] * np.log(joint[present] / np.outer(rows, columns)[present])).sum())
    entropies = -float((rows * np.log(rows)).sum()) - float((columns * np.log(columns)).sum())
    return max(0.0, min(1.0, 2 * information / entropies))


def purity(table: Contingency) -> float:
    """Share of the pixels that are of the majority class of their cluster; unlabelled pixels are of none."""
    if table.pixels == 0:
        return float("nan")
    return int(table.counts.max(axis=1, initial=0).sum()) / table.pixels
