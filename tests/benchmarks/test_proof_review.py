from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import proof_review


def test_drawing_all_true_objects_ends_at_one() -> None:
    true = np.full((8, 8), proof_review.UNKNOWN, np.uint8)
    true[:3, :3], true[5:, 5:], true[:2, 6:] = 1, 1, 4
    curve = list(proof_review.drawn([true], [1, 4]))
    assert len(curve) == 4 and curve[0] == 0 and curve[-1] == 1 and curve == sorted(curve)


def test_the_tally_is_the_mean_iou() -> None:
    tally = proof_review.Tally([1, 2])
    tally.add(np.array([6, 2]), 0)
    tally.add(np.array([0, 4]), 1)
    tally.add(np.array([2, 0]), -1)
    assert tally.miou == pytest.approx((6 / 10 + 4 / 6) / 2)
