"""From a regressor's score to the IoU it stands for: isotonic regression, its steps joined by lines so that ranks stay."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ISOTONIC_FROM", "Calibration", "fit_calibration"]

#: Pairs from which isotonic regression is used; with fewer a straight line, which has two numbers to find and not many.
ISOTONIC_FROM = 40
#: Beyond the outermost knots the line goes on so steeply, so that no two scores become the same.
_SLOPE = 0.1


@dataclass(frozen=True)
class Calibration:
    """A rising line through knots: x (k,) and y (k,) in [0, 1]."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """(n,) float64 in [0, 1]."""
        x, y = np.array(self.x), np.array(self.y)
        beyond = np.minimum(scores - x[0], 0) + np.maximum(scores - x[-1], 0)
        return np.clip(np.interp(scores, x, y) + _SLOPE * beyond, 0.0, 1.0)


def fit_calibration(scores: np.ndarray, target: np.ndarray) -> Calibration:
    """Scores (n,) in [0, 1] and what they should have been (n,).

    Centred isotonic regression (Oron and Flournoy 2017): each step of the isotonic fit becomes one knot at its mean score.
    """
    if len(scores) < ISOTONIC_FROM or np.ptp(scores) == 0:
        return _line(scores, target)
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(scores, target).predict(scores)
    steps, member = np.unique(fitted, return_inverse=True)
    centre = np.bincount(member, scores) / np.bincount(member)
    return _knots(centre.tolist(), steps.tolist())


def _line(scores: np.ndarray, target: np.ndarray) -> Calibration:
    """The straight line of least squares; two more points say that 0 is 0 and 1 is 1, so that a few labels do not say too much."""
    x, y = np.append(scores, [0.0, 1.0]), np.append(target, [0.0, 1.0])
    slope = max(float(np.cov(x, y)[0, 1] / np.var(x, ddof=1)), _SLOPE)
    at_zero = float(y.mean() - slope * x.mean())
    return _knots([0.0, 1.0], [at_zero, at_zero + slope])


def _knots(x: list[float], y: list[float]) -> Calibration:
    return Calibration(tuple(float(f"{v:.7g}") for v in x), tuple(float(f"{v:.7g}") for v in y))
