"""Is a predicted quality worth something: ranks, errors, calibration, and what is left when the doubtful are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.errors import InputError
from terralabel.evaluate.curves import Chart, Line, draw_charts

__all__ = [
    "GOOD",
    "QualityReport",
    "area_under_curve",
    "calibration_error",
    "quality_report",
    "reliability",
    "reliability_picture",
    "risk_coverage",
    "risk_coverage_picture",
    "spearman",
]

#: A label with at least this true IoU is a good one, for the area under the curve.
GOOD = 0.7
_BINS = 10


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Rank correlation of two (n,) arrays, ties with their mean rank; NaN where one of them is constant or n < 2."""
    if len(predicted) < 2:
        return math.nan
    a, b = _ranks(predicted), _ranks(true)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale else math.nan


def _ranks(values: np.ndarray) -> np.ndarray:
    _, member, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[member]


def area_under_curve(predicted: np.ndarray, good: np.ndarray) -> float:
    """The chance that a good label ((n,) bool) has a higher score than another, ties half; NaN where all are alike."""
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return math.nan
    return (float(_ranks(predicted)[good].sum()) - positives * (positives + 1) / 2) / (positives * negatives)


def reliability(predicted: np.ndarray, true: np.ndarray, bins: int = _BINS) -> list[tuple[float, float, int]]:
    """(mean predicted, mean true, number) of the labels in each of `bins` equal parts of [0, 1] that has any."""
    member = np.minimum((np.asarray(predicted) * bins).astype(int), bins - 1)
    rows = []
    for part in np.unique(member).tolist():
        inside = member == part
        rows.append((float(predicted[inside].mean()), float(true[inside].mean()), int(inside.sum())))
    return rows


def calibration_error(predicted: np.ndarray, true: np.ndarray, bins: int = _BINS) -> float:
    """Expected calibration error: |mean predicted - mean true| of the bins of `reliability`, weighted by their labels."""
    rows = reliability(predicted, true, bins)
    total = sum(count for _, _, count in rows)
    return sum(abs(p - t) * count for p, t, count in rows) / total if total else math.nan


def risk_coverage(predicted: np.ndarray, true: np.ndarray) -> list[tuple[float, float, float]]:
    """(share kept, mean true IoU of those kept, lowest score kept), best scores first; equal scores are kept together."""
    order = np.argsort(-predicted, kind="stable")
    scores, mean = predicted[order], np.cumsum(true[order], dtype=np.float64) / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(order) else np.zeros(0, dtype=int)
    return [((int(i) + 1) / len(order), float(mean[i]), float(scores[i])) for i in ends]


@dataclass(frozen=True)
class QualityReport:
    """How well predicted IoU agrees with true IoU; values that do not exist are NaN, and null in JSON.

    `auc`: of "true IoU >= .7". `ece`: expected calibration error, ten bins. `kept`, `rejected`: mean true IoU of the labels that
    were accepted and rejected, `reviewed` of those between. `coverage`: share accepted.
    """

    labels: int
    mean_true: float
    spearman: float
    mae: float
    auc: float
    ece: float
    coverage: float
    kept: float
    reviewed: float
    rejected: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(self).items()}

    def to_text(self) -> str:
        """Lines for a terminal."""
        shown = {name: "-" if value is None else f"{value:.3f}" for name, value in self.as_dict().items() if name != "labels"}
        return "\n".join(
            [
                f"labels with truth  {self.labels}, mean true IoU {shown['mean_true']}",
                f"predicted IoU      Spearman {shown['spearman']}, MAE {shown['mae']}, AUC (IoU >= {GOOD:g}) {shown['auc']},"
                f" calibration error {shown['ece']}",
                f"mean true IoU      accepted {shown['kept']} ({shown['coverage']} of all), review {shown['reviewed']},"
                f" rejected {shown['rejected']}",
            ]
        )


def quality_report(predicted: np.ndarray, true: np.ndarray, decisions: Sequence[str]) -> QualityReport:
    """Compare (n,) predicted with (n,) true IoU, and what was decided on each; rows with a NaN are left out."""
    if not len(predicted) == len(true) == len(decisions):
        raise InputError(
            f"{len(predicted)} predictions, {len(true)} true values, {len(decisions)} decisions: expected one each."
        )
    known = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = np.asarray(predicted, np.float64)[known], np.asarray(true, np.float64)[known]
    decided = np.asarray(decisions, dtype=object)[known]

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else math.nan

    return QualityReport(
        labels=len(true),
        mean_true=mean(true),
        spearman=spearman(predicted, true),
        mae=mean(np.abs(predicted - true)),
        auc=area_under_curve(predicted, true >= GOOD),
        ece=calibration_error(predicted, true),
        coverage=mean((decided == "accept").astype(float)),
        kept=mean(true[decided == "accept"]),
        reviewed=mean(true[decided == "review"]),
        rejected=mean(true[decided == "reject"]),
    )


def reliability_picture(final: Path, predicted: np.ndarray, true: np.ndarray, title: str = "Reliability") -> Path:
    """Write the reliability diagram as a PNG: mean true over mean predicted IoU, beside the diagonal; returns `final`."""
    rows = reliability(predicted, true)
    lines = [Line("as predicted", [(0.0, 0.0), (1.0, 1.0)]), Line("true IoU", [(p, t) for p, t, _ in rows], dots=True)]
    return draw_charts(final, [Chart(f"{title}: {len(true)} labels", "predicted IoU", lines, 0.0, 1.0)])


def risk_coverage_picture(
    final: Path, predicted: np.ndarray, true: np.ndarray, title: str = "Mean IoU of what is kept"
) -> Path:
    """Write the risk-coverage curve as a PNG: mean true IoU over the share kept, beside the best and a random order."""
    lines = [
        Line("by score", [(c, m) for c, m, _ in risk_coverage(predicted, true)]),
        Line("by true IoU", [(c, m) for c, m, _ in risk_coverage(true, true)]),
        Line("at random", [(0.0, float(true.mean())), (1.0, float(true.mean()))] if len(true) else []),
    ]
    return draw_charts(final, [Chart(f"{title}: {len(true)} labels", "share kept", lines, None, 1.0)])
