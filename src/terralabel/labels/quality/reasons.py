"""Why a label is doubted, in words: the kinds of signals without which it would have passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

__all__ = ["REASONS", "reasons"]

#: Kind of signal -> what it says of a label that it speaks against.
REASONS: dict[str, str] = {
    "outline": "unsure along the outline",
    "inside": "unsure inside the outline",
    "views": "flipped views disagree",
    "sides": "coarse and fine outputs disagree",
    "edges": "edges do not follow the picture",
    "pixels": "pixels look unlike this class elsewhere",
    "shape": "odd shape, or many small pieces",
    "size": "unusual size or place in the picture",
}
_EMPTY, _NONE, _UNKNOWN = (
    "nothing is labelled, something may be missing",
    "all signals are somewhat low",
    "nothing to judge it by",
)
#: A kind is a reason when the expected IoU would be so much higher with it as of good labels.
_WORTH = 0.02
_MOST = 3


def reasons(
    quality: np.ndarray, decision: Sequence[str], empty: np.ndarray, gains: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """A sentence for each of n labels, at most three reasons joined by "; "; "" for those that are accepted.

    quality (n,), decision n, empty (n,) bool, gains as of `Judge.gains`.
    """
    kinds = list(gains)
    table = np.stack([gains[kind] for kind in kinds]) if kinds else np.zeros((0, len(quality)))  # (kinds, n)
    return tuple(
        "" if decided == "accept" else _of_one(float(quality[row]), bool(empty[row]), kinds, table[:, row])
        for row, decided in enumerate(decision)
    )


def _of_one(quality: float, empty: bool, kinds: list[str], gain: np.ndarray) -> str:
    if np.isnan(quality):
        return _UNKNOWN
    if empty:
        return _EMPTY
    order = [k for k in np.argsort(-gain, kind="stable")[:_MOST].tolist() if gain[k] >= _WORTH]
    return "; ".join(REASONS[kinds[k]] for k in order) or _NONE
