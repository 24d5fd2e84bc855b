"""The point on the object in a box: clusters of colours, regions, the most convex one."""

import numpy as np
import pytest

from terralabel.masks.foreground import foreground_point


def picture(size: int = 64, seed: int = 0) -> np.ndarray:
    """Green ground with a little noise, (size, size, 3) uint8."""
    noise = np.random.default_rng(seed).integers(-6, 7, (size, size, 3))
    return (np.array([60, 110, 50]) + noise).astype(np.uint8)


def test_the_point_lies_on_the_object_and_its_regions_are_explained():
    image = picture()
    image[20:44, 16:40] = (200, 60, 60)
    (x, y), seen = foreground_point(image, np.array([8, 10, 52, 54]))
    assert (x, y) == pytest.approx((28, 32), abs=0.6)
    assert seen.why == "region"
    assert seen.box == (8, 10, 52, 54)
    assert seen.foreground.shape == seen.regions.shape == (44, 44)
    assert seen.foreground[10:34, 8:32].mean() > 0.95  # the object
    assert seen.foreground.sum() == pytest.approx(24 * 24, rel=0.05)


def test_the_same_input_gives_the_same_point():
    image = picture(200, 3)
    image[40:150, 60:160] = (180, 170, 160)
    box = np.array([30.4, 20.2, 190, 180])
    assert foreground_point(image, box)[0] == foreground_point(image, box)[0]


def test_two_discs_that_touch_are_cut_at_the_waist():
    import cv2

    image = picture(120)
    for x in (38, 82):
        cv2.circle(image, (x, 60), 22, (200, 60, 60), -1)
    (x, y), seen = foreground_point(image, np.array([5, 20, 115, 100]))
    assert seen.regions.max() == 2
    assert min(np.hypot(x - 38, y - 60), np.hypot(x - 82, y - 60)) < 4


def test_a_ring_is_hit_though_its_centroid_lies_outside():
    import cv2

    image = picture(100)
    cv2.ellipse(image, (50, 50), (22, 22), 0, 20, 320, (220, 220, 230), 20)
    (x, y), seen = foreground_point(image, np.array([16, 16, 84, 84]))
    assert image[int(y), int(x), 0] > 150
    assert seen.regions[int(y) - 16, int(x) - 16] == seen.chosen


@pytest.mark.parametrize("box", [(10, 10, 17, 30), (10, 10, 10, 10), (60, 60, 90, 90), (-20, -20, 4, 4), (30, 30, 10, 10)])
def test_small_and_degenerate_boxes_give_their_centre(box):
    (x, y), seen = foreground_point(picture(), np.array(box, dtype=float))
    assert seen.why == "small box"
    assert 0 <= x <= 64 and 0 <= y <= 64
    left, top, right, bottom = seen.box
    assert (x, y) == ((left + right) / 2, (top + bottom) / 2)


def test_one_colour_gives_the_centre():
    (x, y), seen = foreground_point(np.full((64, 64, 3), 90, np.uint8), np.array([10, 10, 50, 30]))
    assert (x, y) == (30, 20)
    assert seen.why == "no region"


def test_invalid_pixels_are_no_object():
    image = picture()
    image[20:44, 10:22] = (200, 60, 60)
    image[20:44, 40:50] = 0
    valid = np.ones((64, 64), bool)
    valid[20:44, 40:50] = False
    (x, y), seen = foreground_point(image, np.array([6, 12, 58, 52]), valid)
    assert valid[int(y), int(x)]
    assert not (seen.foreground & ~valid[12:52, 6:58]).any()
