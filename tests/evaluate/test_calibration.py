"""Measures of predicted quality, against scikit-learn, scipy and numbers worked out by hand."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from terralabel.errors import InputError
from terralabel.evaluate.calibration import (
    area_under_curve,
    calibration_error,
    quality_report,
    reliability,
    reliability_picture,
    risk_coverage,
    risk_coverage_picture,
    spearman,
)


def test_ranks_and_areas_are_those_of_others_ties_too() -> None:
    rng = np.random.default_rng(0)
    predicted, true = np.round(rng.uniform(size=200), 1), np.round(rng.uniform(size=200), 1)
    assert spearman(predicted, true) == pytest.approx(spearmanr(predicted, true).statistic)
    assert area_under_curve(predicted, true >= 0.7) == pytest.approx(roc_auc_score(true >= 0.7, predicted))


def test_what_does_not_exist_is_nan() -> None:
    assert math.isnan(spearman(np.zeros(1), np.zeros(1))) and math.isnan(spearman(np.zeros(5), np.arange(5.0)))
    assert math.isnan(area_under_curve(np.arange(3.0), np.ones(3, bool)))
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))
    assert risk_coverage(np.zeros(0), np.zeros(0)) == []


def test_the_calibration_error_weighs_bins_by_their_labels() -> None:
    predicted, true = np.array([0.12, 0.18, 0.95, 1.0]), np.array([0.2, 0.3, 0.9, 0.7])
    assert reliability(predicted, true) == [pytest.approx((0.15, 0.25, 2)), pytest.approx((0.975, 0.8, 2))]
    assert calibration_error(predicted, true) == pytest.approx((0.1 * 2 + 0.175 * 2) / 4)


def test_risk_and_coverage_keep_equal_scores_together() -> None:
    rows = risk_coverage(np.array([0.5, 0.9, 0.5]), np.array([0.2, 0.8, 0.6]))
    assert rows == [pytest.approx((1 / 3, 0.8, 0.9)), pytest.approx((1.0, 1.6 / 3, 0.5))]


def test_the_report_counts_what_was_decided() -> None:
    predicted = np.array([0.9, 0.8, 0.5, 0.2, np.nan])
    true = np.array([0.8, 0.9, 0.6, 0.1, 0.5])
    report = quality_report(predicted, true, ("accept", "accept", "review", "reject", "review"))
    assert (report.labels, report.kept, report.reviewed, report.rejected) == (4, pytest.approx(0.85), 0.6, 0.1)
    assert report.coverage == 0.5 and report.mae == pytest.approx(0.1) and report.auc == 1.0
    assert "accepted 0.850 (0.500 of all)" in report.to_text()
    with pytest.raises(InputError, match="expected one each"):
        quality_report(predicted, true, ("accept",))


def test_a_report_on_nothing_is_null_in_json() -> None:
    report = quality_report(np.zeros(0), np.zeros(0), ())
    assert report.labels == 0 and json.loads(json.dumps(report.as_dict(), allow_nan=False))["kept"] is None


def test_pictures_show_the_curves(tmp_path) -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(size=60)
    for draw, name in ((reliability_picture, "a.png"), (risk_coverage_picture, "b.png")):
        image = cv2.imread(str(draw(tmp_path / name, np.clip(true + 0.1, 0, 1), true)))
        assert image.shape == (360, 720, 3) and len(np.unique(image.reshape(-1, 3), axis=0)) > 10
        assert draw(tmp_path / name, np.zeros(0), np.zeros(0)).is_file()
