"""The gate: which labels are used, which a person looks at, which are left out; by a promise, or by a share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from terralabel.errors import SettingsError
from terralabel.labels.quality.units import REJECT

__all__ = ["Gate", "Promise", "gate_for_promise", "gate_for_share", "parse_promise", "parse_share"]

#: The one-sided bound of each gate, and the fewest held-out labels it may rest on. The best of many gates is taken, so that a
#: bound of 95 % makes a promise of about 90 %.
_SURE, _FEWEST = 0.95, 10
#: The least spread of true IoU that is believed: a handful of equal values says little of the next.
_LEAST_SPREAD = 0.02
_PROMISE = re.compile(r"\s*(?:mean\s+iou|miou)\s*>=\s*(\d*\.?\d+)\s*(%?)\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Promise:
    """The mean true IoU of the labels that are accepted is to be at least `value`."""

    value: float

    def __str__(self) -> str:
        return f"mean IoU >= {self.value:g}"


def parse_promise(text: str) -> Promise:
    """ "mean IoU >= .85" or "mean IoU >= 85%"; `SettingsError` for anything else."""
    found = _PROMISE.fullmatch(text)
    value = float(found[1]) / (100 if found[2] else 1) if found else math.nan
    if not 0 < value <= 1:
        raise SettingsError(f'promise: expected "mean IoU >= X" with X above 0 and at most 1, or a percentage; got {text!r}.')
    return Promise(value)


def parse_share(text: str | float) -> float:
    """ "20%" or ".2" as .2; `SettingsError` for what is no share."""
    raw = str(text).strip()
    try:
        share = float(raw.removesuffix("%")) / (100 if raw.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise SettingsError(f'review: expected a share such as "20%" or .2; got {str(text)!r}.')
    return share


@dataclass(frozen=True)
class Gate:
    """Accepted: quality of at least `accept` (infinite: nothing is). Rejected: quality below `reject`. Between, or unknown: review.

    `note`: what it was set by and what follows, for a person.
    """

    accept: float
    reject: float = REJECT
    note: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.accept) or not 0 <= self.reject <= 1:
            raise SettingsError(
                f"A gate accepts from a number and rejects below one of 0 to 1; got {self.accept}, {self.reject}."
            )

    def decide(self, quality: np.ndarray) -> tuple[str, ...]:
        """ "accept", "review" or "reject" for each of (n,) scores; NaN is for review. Equal scores fare alike."""
        return tuple(
            "accept" if q >= self.accept else "reject" if q < self.reject else "review"
            for q in np.asarray(quality, dtype=np.float64).tolist()
        )


def gate_for_promise(
    scores: np.ndarray,
    true_iou: np.ndarray,
    promise: str | Promise,
    *,
    pictures: np.ndarray | None = None,
    reject: float = REJECT,
) -> Gate:
    """The gate that accepts the most labels and keeps the promise, by (n,) held-out scores and what was true of them.

    The mean true IoU of those accepted must reach the promise with 90 % certainty (by a t bound whose error counts pictures, not
    labels, where `pictures` (n,) says which belong together). Nothing is accepted where no gate does. It holds for labels like
    those it was set on, and on average: a single label may be worse.
    """
    promised = parse_promise(promise) if isinstance(promise, str) else promise
    scores, true = np.asarray(scores, dtype=np.float64), np.asarray(true_iou, dtype=np.float64)
    known = np.isfinite(scores) & np.isfinite(true)
    group = np.arange(len(scores)) if pictures is None else np.unique(pictures, return_inverse=True)[1]
    scores, true, group = scores[known], true[known], group[known]
    order = np.argsort(-scores, kind="stable")
    scores, true, group = scores[order], true[order], group[order]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, dtype=int)
    for end in ends[::-1].tolist():
        if end + 1 >= _FEWEST and _surely(true[: end + 1], group[: end + 1]) >= promised.value:
            share, mean = (end + 1) / len(scores), float(true[: end + 1].mean())
            note = f"{promised} with 90 % certainty: of {len(scores)} held-out labels {share:.0%} passed, mean IoU {mean:.3f}"
            return Gate(float(scores[end]), min(reject, float(scores[end])), note)
    why = f"{promised} cannot be promised by {len(scores)} held-out labels (at least {_FEWEST} must pass): nothing is accepted"
    return Gate(math.inf, reject, why)


def _surely(true: np.ndarray, group: np.ndarray) -> float:
    """The lower end of what the mean of (n,) values surely is; values of one group are no more than one witness."""
    from scipy.stats import t

    n, mean = len(true), float(true.mean())
    sums = np.bincount(group, true - mean)
    groups = len(np.unique(group))
    if groups < 2:
        return -math.inf
    error = math.sqrt(float((sums**2).sum()) * groups / (groups - 1)) / n
    error = max(error, _LEAST_SPREAD / math.sqrt(groups))
    return mean - float(t.ppf(_SURE, groups - 1)) * error


def gate_for_share(scores: np.ndarray, review: float | str, *, reject: float = REJECT) -> Gate:
    """The gate that leaves the worst share of (n,) labels to a person: at least that share, more where scores are equal.

    Of these, those below `reject` are rejected, which a person may look at too; NaN counts among the worst.
    """
    share = parse_share(review)
    scores = np.nan_to_num(np.asarray(scores, dtype=np.float64), nan=-1.0)
    count = math.ceil(share * len(scores) - 1e-9)
    if not count:
        accept = 0.0
    elif count == len(scores):
        accept = math.inf
    else:
        worst = np.sort(scores)[count - 1]
        above = scores[scores > worst]
        accept = float(above.min()) if len(above) else math.inf
    note = f"the worst {share:.0%} of {len(scores)} labels are left to a person"
    return Gate(accept, min(reject, accept), note)
