"""One model of a judge: signals of some kinds in, the expected IoU out; rules, or a forest over them, calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terralabel.core.quality import Signals
from terralabel.labels.quality.calibration import Calibration, fit_calibration
from terralabel.labels.quality.forest import Forest, fit_forest
from terralabel.labels.quality.signals import SIGNALS

__all__ = ["FEWEST", "FOREST_FROM", "WEIGHTS", "Agreement", "Model", "fit_model", "folds_of", "rank_agreement", "rules_model"]

#: Units, and pictures, with truth below which rules are only told how good labels are as a whole.
FEWEST, FEWEST_PICTURES = 6, 4
#: Units from which a forest is tried.
FOREST_FROM = 24
_FOLDS = 5
#: The rank correlation of held-out scores must be so many standard errors above 0: 90 % certainty, one-sided.
_SURELY = 1.28
#: The rules: a mean of those signals that lie in [0, 1], weighted; what is not known is left out.
WEIGHTS: dict[str, float] = {
    "expected_iou": 3.0,
    "stability": 2.0,
    "views": 2.0,
    "views_worst": 1.0,
    "sides": 1.0,
    "confidence_band": 1.0,
    "confidence_inside": 1.0,
    "learned_iou": 2.0,
    "learned_inside": 1.0,
    "edge_follow": 0.5,
    "largest": 0.25,
}
#: Kinds without which a row cannot be given to a model that was fitted with them; the others may be missing here and there.
_NEEDED = ("outline", "inside", "views", "sides", "pixels")


def _kind_of() -> dict[str, str]:
    return {signal.name: signal.kind for signal in SIGNALS}


@dataclass(frozen=True)
class Model:
    """Expected IoU from the signals `names`.

    `fill`: in place of a missing value; `typical`: of good labels, by which reasons are found. `forest` None: rules.
    `calibration` None: as the rules say. `held_out`: ((n,) predictions, (n,) true IoU, (n,) picture numbers) of pictures that the
    prediction did not see, on which gates are set.
    """

    names: tuple[str, ...]
    fill: tuple[float, ...]
    typical: tuple[float, ...]
    forest: Forest | None
    calibration: Calibration | None
    held_out: tuple[tuple[float, ...], tuple[float, ...], tuple[int, ...]] = ((), (), ())

    @property
    def form(self) -> str:
        """ "rules", "calibrated rules" or "forest"."""
        return "forest" if self.forest is not None else "rules" if self.calibration is None else "calibrated rules"

    def serves(self, signals: Signals) -> np.ndarray:
        """(n,) bool: rows that have what the model needs."""
        kinds = _kind_of()
        served = np.ones(len(signals), dtype=bool)
        for kind in {kinds[name] for name in self.names} & set(_NEEDED):
            columns = [i for i, name in enumerate(self.names) if kinds[name] == kind]
            served &= np.isfinite(self.columns(signals)[:, columns]).any(axis=1)
        return served

    def columns(self, signals: Signals) -> np.ndarray:
        """(n, s) float32 of the model's signals, NaN where they are not known, or were not measured when the others were."""
        unknown = np.full((len(signals), 1), np.nan, dtype=np.float32)
        order = [signals.names.index(name) if name in signals.names else len(signals.names) for name in self.names]
        return np.hstack([signals.values, unknown])[:, order]

    def predict(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 in [0, 1] of what `columns` gave; NaN where nothing is known."""
        raw = _rules(self.names, values) if self.forest is None else self.forest.predict(self._filled(values))
        raw = np.where(np.isfinite(values).any(axis=1), raw, np.nan)
        return raw if self.calibration is None else self.calibration.apply(raw)

    def _filled(self, values: np.ndarray) -> np.ndarray:
        """Missing values replaced, and the rules' score as one more column."""
        filled = np.where(np.isnan(values), np.array(self.fill, dtype=np.float32), values).astype(np.float32)
        return np.column_stack([filled, np.nan_to_num(_rules(self.names, values), nan=0.5).astype(np.float32)])

    def gains(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Kind of signal -> (n,) by how much the prediction would rise if the signals of that kind were those of good labels."""
        kinds, before = _kind_of(), self.predict(values)
        found = {}
        for kind in dict.fromkeys(kinds[name] for name in self.names):
            columns = [i for i, name in enumerate(self.names) if kinds[name] == kind]
            known = np.isfinite(values[:, columns])
            changed = values.copy()
            changed[:, columns] = np.where(known, np.array(self.typical, dtype=np.float32)[columns], np.nan)
            found[kind] = np.nan_to_num(self.predict(changed) - before)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "signals": list(self.names),
            "fill": list(self.fill),
            "typical": list(self.typical),
            "forest": None if self.forest is None else self.forest.to_dict(),
            "calibration": None if self.calibration is None else [list(self.calibration.x), list(self.calibration.y)],
            "held_out": [list(column) for column in self.held_out],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Model:
        """Read what `to_dict` gave."""
        calibration = data["calibration"]
        scores, true, picture = data["held_out"]
        return cls(
            tuple(map(str, data["signals"])),
            tuple(map(float, data["fill"])),
            tuple(map(float, data["typical"])),
            None if data["forest"] is None else Forest.from_dict(data["forest"]),
            None if calibration is None else Calibration(*(tuple(map(float, side)) for side in calibration)),
            (tuple(map(float, scores)), tuple(map(float, true)), tuple(map(int, picture))),
        )


def _rules(names: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    """(n,) float64: the weighted mean of the known shares; NaN where none is known."""
    weights = np.array([WEIGHTS.get(name, 0.0) for name in names])
    known = np.isfinite(values) & (weights > 0)
    total = (known * weights).sum(axis=1)
    mean = (np.where(known, values, 0).astype(np.float64) * weights).sum(axis=1) / np.maximum(total, 1e-12)
    return np.where(total > 0, np.clip(mean, 0, 1), np.nan)


def rules_model(names: tuple[str, ...]) -> Model:
    """The rules alone: what is used when too few labels have truth."""
    shares = {signal.name for signal in SIGNALS if signal.share}
    return Model(names, (0.5,) * len(names), tuple(1.0 if n in shares else 0.0 for n in names), None, None)


def folds_of(groups: np.ndarray, seed: int) -> np.ndarray:
    """(n,) fold of each row, 0..4 at most, so that a picture is in one fold only; drawn by the seed."""
    names, member = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % min(_FOLDS, len(names)))[member]


def fit_model(signals: Signals, names: tuple[str, ...], target: np.ndarray, groups: np.ndarray, seed: int) -> Model:
    """Rules or a forest, whichever predicts pictures better that it has not seen, calibrated on such predictions.

    target (n,) true IoU, groups (n,) picture of each row. The held-out pairs are calibrated without their own fold.
    """
    plain = rules_model(names)
    values = plain.columns(signals)
    fill, typical = _summaries(values, target)
    plain = Model(names, fill, typical, None, None)
    folds = folds_of(groups, seed)
    raw = {"rules": np.nan_to_num(plain.predict(values), nan=0.5)}
    if len(target) >= FOREST_FROM and len(np.unique(groups)) >= FEWEST_PICTURES:
        raw["forest"] = _out_of_fold(plain, values, target, folds, seed)
    held_out = {form: _calibrated_out_of_fold(score, target, folds) for form, score in raw.items()}
    best = min(held_out, key=lambda form: float(np.abs(held_out[form] - target).mean()))
    forest = fit_forest(plain._filled(values), target, seed) if best == "forest" else None
    _, number = np.unique(groups, return_inverse=True)
    pairs = (_short(held_out[best]), _short(target), tuple(int(k) for k in number))
    return Model(names, fill, typical, forest, fit_calibration(raw[best], target), pairs)


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of scores with what is true, 0 where one of them is constant, and the least that says something."""

    correlation: float
    asked: float

    @property
    def surely(self) -> bool:
        """Whether it is hardly chance."""
        return self.correlation >= self.asked


def rank_agreement(scores: Sequence[float], true: Sequence[float], pictures: Sequence[int]) -> Agreement:
    """How well (n,) held-out scores order labels; pictures (n,), not labels, are the witnesses."""
    from scipy.stats import rankdata

    witnesses = len(set(pictures))
    asked = _SURELY / (witnesses - 1) ** 0.5 if witnesses > 1 else float("inf")
    if len(set(scores)) < 2 or len(set(true)) < 2:
        return Agreement(0.0, asked)
    return Agreement(float(np.corrcoef(rankdata(scores), rankdata(true))[0, 1]), asked)


def _summaries(values: np.ndarray, target: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(medians, medians of the better half) of each signal, over what is known; .5 where nothing is."""
    better = values[target >= np.median(target)]
    return tuple(_short([_median(column) for column in side.T]) for side in (values, better))  # type: ignore[return-value]


def _median(column: np.ndarray) -> float:
    known = column[np.isfinite(column)]
    return float(np.median(known)) if len(known) else 0.5


def _out_of_fold(plain: Model, values: np.ndarray, target: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """(n,) predictions of forests that did not see the row's picture."""
    out = np.zeros(len(target))
    filled = plain._filled(values)
    for fold in np.unique(folds).tolist():
        out[folds == fold] = fit_forest(filled[folds != fold], target[folds != fold], seed).predict(filled[folds == fold])
    return out


def _calibrated_out_of_fold(scores: np.ndarray, target: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(n,) scores after a calibration that did not see the row's fold."""
    out = np.zeros(len(target))
    for fold in np.unique(folds).tolist():
        out[folds == fold] = fit_calibration(scores[folds != fold], target[folds != fold]).apply(scores[folds == fold])
    return out


def _short(values: Any) -> tuple[float, ...]:
    return tuple(float(f"{float(v):.6g}") for v in values)
