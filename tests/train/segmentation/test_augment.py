"""Random views: what stays together, what is padded, what one class may fill."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.train.segmentation.augment import Augmentation, distort, turned


def coded(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels whose red says the label, so that one can be told from the other after any move."""
    labels = (np.arange(height)[:, None] // 8 * 3 + np.arange(width)[None] // 8) % 7
    pixels = np.stack([30 * labels + 20, labels * 0 + 90, labels * 0 + 40], axis=-1)
    return pixels.astype(np.uint8), labels.astype(np.uint8)


def a_view(augmentation: Augmentation, pixels: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    height, width = labels.shape
    choice = augmentation.choose(width, height, lambda window: labels[window.slices()], rng)
    return augmentation.view(pixels[choice.window.slices()], choice, rng)


@pytest.mark.parametrize("seed", range(8))
def test_pixels_and_labels_move_together(seed: int) -> None:
    pixels, labels = coded(120, 90)
    augmentation = Augmentation(64, photometric=False)
    found, ids = a_view(augmentation, pixels, labels, seed)
    assert found.shape == (64, 64, 3)
    assert ids.shape == (64, 64)
    seen = ids != IGNORE
    assert seen.mean() > 0.2
    # interpolation blurs only where two labels meet
    assert (np.abs(found[..., 0].astype(int) - (30 * ids + 20))[seen] <= 3).mean() > 0.6
    assert (found[~seen] == 0).all()


def test_without_resizing_and_turning_a_view_is_a_crop() -> None:
    pixels, labels = coded(100, 100)
    augmentation = Augmentation(64, scale_min=1.0, scale_max=1.0, turns=False, photometric=False)
    found, ids = a_view(augmentation, pixels, labels, 3)
    assert any(
        (found == pixels[y : y + 64, x : x + 64]).all() and (ids == labels[y : y + 64, x : x + 64]).all()
        for y in range(37)
        for x in range(37)
    )


def test_small_images_are_resized_as_large_ones_and_padded() -> None:
    pixels, labels = coded(20, 30)
    augmentation = Augmentation(64, scale_min=2.0, scale_max=2.0, turns=False, photometric=False)
    found, ids = a_view(augmentation, pixels, labels, 0)
    assert (ids[:40, :60] != IGNORE).all()
    assert (ids[40:] == IGNORE).all()
    assert (ids[:, 60:] == IGNORE).all()
    assert not found[40:].any()


def test_a_crop_that_one_class_fills_is_drawn_again() -> None:
    labels = np.zeros((200, 200), np.uint8)
    labels[:, 150:] = 1
    augmentation = Augmentation(64, scale_min=1.0, scale_max=1.0)
    mixed = 0
    for seed in range(40):
        choice = augmentation.choose(200, 200, lambda window: labels[window.slices()], np.random.default_rng(seed))
        mixed += 0.25 <= choice.labels.mean() <= 0.75
    once = Augmentation(64, scale_min=1.0, scale_max=1.0, max_share=1.0)
    plain = sum(
        0.25 <= once.choose(200, 200, lambda w: labels[w.slices()], np.random.default_rng(seed)).labels.mean() <= 0.75
        for seed in range(40)
    )
    assert mixed >= 36
    assert plain <= 20


def test_labels_are_asked_for_inside_the_image_only() -> None:
    asked: list[Window] = []

    def labels(window: Window) -> np.ndarray:
        asked.append(window)
        return np.zeros((window.height, window.width), np.uint8)

    Augmentation(64).choose(50, 500, labels, np.random.default_rng(1))
    assert asked
    assert all(w.x == 0 and w.width <= 50 and w.y >= 0 and w.bottom <= 500 for w in asked)


def test_turned_is_one_of_eight() -> None:
    pixels, labels = coded(16, 24)
    shapes = {turned(pixels, labels, q, f)[1].tobytes() for q in range(4) for f in (False, True)}
    assert len(shapes) == 8


@pytest.mark.parametrize("colours", [True, False])
def test_distortion_keeps_blank_pixels_and_dtype(colours: bool) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (40, 40, 3)).astype(np.uint8)
    pixels[:10] = 0
    changed = [distort(pixels, np.random.default_rng(seed), colours=colours) for seed in range(10)]
    assert all(out.dtype == np.uint8 and not out[:10].any() for out in changed)
    assert sum(bool((out != pixels).any()) for out in changed) >= 6


def test_distortion_of_many_bands_keeps_their_order() -> None:
    pixels = np.random.default_rng(0).integers(20, 200, (30, 30, 6)).astype(np.uint8)
    for seed in range(5):
        out = distort(pixels, np.random.default_rng(seed), colours=True).astype(int)
        for band in range(6):
            order = np.argsort(pixels[..., band].ravel(), kind="stable")
            assert (np.diff(out[..., band].ravel()[order]) >= 0).all()
