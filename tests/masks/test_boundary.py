"""The boundary redrawn by a graph cut, and the guard that keeps the old mask."""

import cv2
import numpy as np
import pytest

from terralabel.masks.boundary import refine_boundary


def scene(size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on dark ground, both with noise: (size, size, 3) uint8, (size, size) bool."""
    truth = np.zeros((size, size), np.uint8)
    cv2.circle(truth, (size // 2, size // 2), size // 4, 1, -1)
    noise = np.random.default_rng(seed).normal(0, 8, (size, size, 3))
    clean = np.where(truth[..., None] > 0, (190, 180, 170), (60, 90, 50))
    return np.clip(clean + noise, 0, 255).astype(np.uint8), truth > 0


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def box_of(size: int) -> np.ndarray:
    return np.array([size / 4 - 2, size / 4 - 2, size * 3 / 4 + 3, size * 3 / 4 + 3])


@pytest.mark.parametrize("size", [96, 400])
def test_a_mask_that_is_off_is_put_right(size):
    image, truth = scene(size)
    shift = max(1, size // 96)
    rough = np.roll(truth, (shift, -shift), (0, 1))
    refined = refine_boundary(image, rough, box_of(size))
    assert refined.accepted
    assert refined.why == "accepted"
    assert iou(refined.mask, truth) > max(0.97, iou(rough, truth))


def test_the_same_input_gives_the_same_mask():
    image, truth = scene(160, 4)
    once, again = (refine_boundary(image, truth, box_of(160)).mask for _ in range(2))
    assert np.array_equal(once, again)


def test_pixels_far_from_the_boundary_stay():
    image, truth = scene()
    image[45:51, 45:51] = (60, 90, 50)  # a dark spot deep inside
    image[5:12, 5:12] = (190, 180, 170)  # a bright one outside
    refined = refine_boundary(image, truth, np.array([0, 0, 96, 96]))
    assert refined.mask[45:51, 45:51].all()
    assert not refined.mask[:15, :15].any()


def test_few_samples_keep_the_old_mask():
    image, _ = scene()
    tiny = np.zeros((96, 96), bool)
    tiny[50:55, 50:55] = True
    refined = refine_boundary(image, tiny, np.array([49, 49, 56, 56]))
    assert not refined.accepted
    assert refined.why == "smaller than 1,600 pixels"
    assert refined.mask is tiny


def test_a_mask_that_fills_what_is_seen_leaves_nothing_to_learn():
    image, _ = scene()
    full = np.zeros((96, 96), bool)
    full[10:80, 10:80] = True
    refined = refine_boundary(image[10:80, 10:80], full[10:80, 10:80], np.array([0, 0, 70, 70]))
    assert not refined.accepted
    assert refined.why == "too few samples"


@pytest.mark.parametrize("mask", [np.zeros((96, 96), bool), np.ones((96, 96), bool)])
def test_empty_and_full_masks_stay(mask):
    refined = refine_boundary(scene()[0], mask, np.array([10, 10, 80, 80]))
    assert not refined.accepted
    assert np.array_equal(refined.mask, mask)


def test_degenerate_boxes_change_nothing():
    image, truth = scene()
    for box in ((5, 5, 5, 5), (200, 200, 300, 300), (60, 60, 20, 20)):
        assert np.array_equal(refine_boundary(image, truth, np.array(box, float)).mask, truth)
