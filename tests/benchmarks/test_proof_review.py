from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import proof_review


def test_drawing_all_true_objects_ends_at_one() -> None:
    true = np.full((80, 80), proof_review.UNKNOWN, np.uint8)
    true[:30, :30], true[50:, 50:], true[:20, 60:] = 1, 1, 4
    told = list(proof_review.drawn([true], [1, 4]))
    curve = [value for _, value in told]
    assert len(curve) == 4 and curve[0] == 0 and curve[-1] == 1 and curve == sorted(curve)
    assert told[0][0] == 0 and told[-1][0] == 12  # three rectangles: four clicks each


def test_an_outline_costs_a_click_a_corner() -> None:
    ring = np.ones((20, 30), bool)
    assert proof_review.corners(ring) == 4
    ring[6:14, 8:22] = False
    assert proof_review.corners(ring) == 8


def test_the_largest_part_that_is_wrong_is_found() -> None:
    true, shown = np.zeros((40, 40), int), np.zeros((40, 40), int)
    true[5:15, 5:15], true[30:33, 30:33] = 1, 2
    place, (x, y) = proof_review._largest_wrong(true, shown, 3)
    assert place == 1 and 8 <= x <= 11 and 8 <= y <= 11
    assert proof_review._largest_wrong(true, true, 3) is None


def test_the_tally_is_the_mean_iou() -> None:
    tally = proof_review.Tally([1, 2])
    tally.add(np.array([6, 2]), 0)
    tally.add(np.array([0, 4]), 1)
    tally.add(np.array([2, 0]), -1)
    assert tally.miou == pytest.approx((6 / 10 + 4 / 6) / 2)
