"""Charts of lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from terralabel.evaluate.curves import Chart, Line, draw_charts


def test_curves_are_drawn_where_the_points_are(tmp_path: Path) -> None:
    line = Line("a", [(0, 0.0), (10, 1.0)])
    path = draw_charts(tmp_path / "c.png", [Chart("title", "step", [line]), Chart("none", "step", [])])
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    red = (pixels[..., 0] - pixels[..., 1] > 60) & (pixels[..., 0] - pixels[..., 2] > 60)
    rows, columns = np.nonzero(red[:300, :500])
    assert len(rows) > 200
    assert np.corrcoef(rows, columns)[0, 1] < -0.99  # up to the right


@pytest.mark.parametrize("points", [[], [(3, 0.5)], [(1, 2.0), (2, 2.0)], [(1, float("nan")), (2, 1.0)]])
def test_odd_curves_are_drawn(tmp_path: Path, points: list) -> None:
    assert draw_charts(tmp_path / "c.png", [Chart("t", "x", [Line("a", points, spread=[0.1] * len(points))])]).exists()
