"""Generated radar pictures of waters."""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.imagery.waters import paint_waters


def test_same_state_same_picture_another_state_another() -> None:
    one, other, third = (paint_waters(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != third[0]).any()


def test_waters_are_dark_grey_and_each_in_one_piece() -> None:
    shares, darker = [], []
    for seed in range(12):
        pixels, ids = paint_waters(np.random.default_rng([9, seed]), 128)
        assert pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8 and ids.dtype == np.int32
        assert (pixels == pixels[..., :1]).all()
        for value in range(1, ids.max() + 1):
            assert cv2.connectedComponents((ids == value).astype(np.uint8), connectivity=4)[0] == 2
            assert (ids == value).sum() >= 64
        shares.append((ids > 0).mean())
        darker.append(np.median(pixels[ids == 0]) - np.median(pixels[ids > 0]))
    assert min(darker) > 0 and np.median(darker) > 40
    assert min(shares) > 0.01 and max(shares) > 0.4
