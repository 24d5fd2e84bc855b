"""Of the network's three answers to a point and the hierarchy's three, the three that promise most."""

from __future__ import annotations

import numpy as np

from terralabel.core.masks import Masks
from terralabel.masks.gates import drop_duplicates

__all__ = ["best_three"]

#: Answers whose IoU is higher are one answer.
_SAME = 0.85


def best_three(both: Masks, count: int) -> Masks:
    """Three masks for each of `count` prompts, most promising first; `both` holds three rows a prompt, then three more a prompt.

    Of answers that are alike the more promising one counts; a double fills up where fewer than three differ.
    """
    chosen = []
    for i in range(count):
        rows = np.concatenate([3 * i + np.arange(3), 3 * (count + i) + np.arange(3)])
        rows = rows[np.argsort(-both.predicted_iou[rows], kind="stable")]
        one = both.select(rows)
        ranks = np.arange(len(rows), dtype=np.float32)
        marked = drop_duplicates(one, box_iou=None, mask_iou=_SAME, scores=-ranks).masks
        distinct = _rows_of(marked, one)
        doubles = np.setdiff1d(np.arange(len(rows)), distinct)
        chosen.append(rows[np.concatenate([distinct, doubles])[:3]])
    return both.select(np.concatenate(chosen)) if chosen else both


def _rows_of(some: Masks, every: Masks) -> np.ndarray:
    """Where the masks of `some`, which are in the order of `every`, stand in it."""
    found, at = [], 0
    for i in range(len(some)):
        while not np.array_equal(some.code(i), every.code(at)) or some.predicted_iou[i] != every.predicted_iou[at]:
            at += 1
        found.append(at)
        at += 1
    return np.array(found, dtype=np.int64)
