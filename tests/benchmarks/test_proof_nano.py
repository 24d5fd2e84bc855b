"""The measures of the proof of `masks nano`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from proof_nano import bright_parts, calibration, components


def test_calibration_is_the_gap_between_promise_and_truth() -> None:
    assert calibration(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0.2, 0.3, 0.7, 0.8])) == pytest.approx(0)
    assert calibration(np.array([0.95, 0.95]), np.array([0.45, 0.45])) == pytest.approx(0.5)


def test_components_of_classes_are_instances() -> None:
    mask = np.array([[1, 1, 0, 2], [0, 0, 0, 2], [1, 0, 1, 1]], np.uint8)
    assert components()(mask).max() == 4 and components(2)(mask).max() == 1
    assert (components()(mask) > 0).sum() == 7
    assert bright_parts((mask == 2).astype(np.uint8) * 255).max() == 1
