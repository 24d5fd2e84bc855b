"""Generated pictures with exact instances."""

from __future__ import annotations

import cv2
import numpy as np

from terralabel.imagery.collage import degrade, paint_collage


def test_same_state_same_picture_another_state_another() -> None:
    one, other, third = (paint_collage(np.random.default_rng(seed), 96) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert (one[0] != third[0]).any()


def test_instances_are_connected_and_parts_lie_in_wholes() -> None:
    pixels, ids = paint_collage(np.random.default_rng(11), 128)
    assert pixels.shape == (128, 128, 3) and pixels.dtype == np.uint8
    assert ids.shape == (2, 128, 128) and ids.dtype == np.int32
    assert len(np.unique(ids[0])) > 5
    for layer in ids:
        for value in np.unique(layer[layer > 0]):
            assert cv2.connectedComponents((layer == value).astype(np.uint8), connectivity=4)[0] == 2


def test_degraded_pictures_keep_their_shape() -> None:
    pixels, _ = paint_collage(np.random.default_rng(2), 64)
    for seed in range(12):
        out = degrade(np.random.default_rng(seed), pixels)
        assert out.shape == pixels.shape and out.dtype == np.uint8 and out.std() > 1


def test_radar_is_grey_and_speckled() -> None:
    pixels = np.full((64, 64, 3), 120, np.uint8)
    pixels[:, 32:] = 40
    out = degrade(np.random.default_rng(4), pixels, radar=1.0).astype(int)
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 1] == out[..., 2]).all()
    assert out[:, :28].std() > 5 and out[:, :28].mean() > out[:, 36:].mean() + 20
