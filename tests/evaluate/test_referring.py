"""mIoU, oIoU and precision by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from terralabel.errors import InputError
from terralabel.evaluate.referring import ReferringReport, overlap, write_reports


def test_figures_by_hand(tmp_path: Path) -> None:
    report = ReferringReport(("a", "b", "c"), np.array([8, 50, 0]), np.array([10, 100, 0]))
    assert report.iou.tolist() == [0.8, 0.5, 0.0]
    assert report.miou == pytest.approx(1.3 / 3)
    assert report.oiou == pytest.approx(58 / 110)
    assert [report.precision(x) for x in (0.5, 0.6, 0.8, 0.9)] == pytest.approx([2 / 3, 1 / 3, 1 / 3, 0])
    assert report.row["pr50"] == pytest.approx(200 / 3)
    write_reports([report], tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["native"]["iou"]["a"] == 0.8


def test_overlap_at_both_sizes() -> None:
    found, truth = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    found[:50], truth[:, :100] = True, True
    assert overlap(found, truth) == (5000, 15000)
    assert overlap(found, truth, 480) == (240 * 240, 480 * 480 * 3 // 4)
    with pytest.raises(InputError, match="200 x 100 pixels, the truth 100 x 100"):
        overlap(found, truth[:, :100])
