"""Labels that lie off are moved, those that are too wide are shrunk, and those that are right are left alone."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.labels.registration import (
    compact_objects,
    edges_along,
    edges_of,
    grown,
    growth_of,
    growth_scores,
    shift_of,
    shift_on,
)


def houses(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(160, 160, 3) uint8 picture of bright houses on noise, and (160, 160) uint8 where they are."""
    rng = np.random.default_rng(seed)
    label = np.zeros((160, 160), np.uint8)
    for _ in range(12):
        y, x, h, w = *rng.integers(12, 125, 2), *rng.integers(12, 24, 2)
        label[y : y + h, x : x + w] = 1
    image = 90 + 70 * label[..., None] + rng.normal(0, 10, (160, 160, 3))
    return np.clip(image, 0, 255).astype(np.uint8), label


def edges(image: np.ndarray) -> np.ndarray:
    return edges_of(image, np.ones(image.shape[:2], bool))


@pytest.mark.parametrize("shift", [(5, -3), (-7, 6), (0, 4)])
def test_a_shift_is_found(shift: tuple[int, int]) -> None:
    image, label = houses()
    coarse = np.roll(label, (-shift[0], -shift[1]), (0, 1))
    assert shift_of(edges(image), coarse, 8) == shift


def test_no_shift_is_invented() -> None:
    rng = np.random.default_rng(0)
    found = []
    for seed in range(6):
        image, label = houses(seed)
        found.append(shift_of(edges(image), label, 8))
        noise = np.clip(rng.normal(120, 25, image.shape), 0, 255).astype(np.uint8)
        found.append(shift_of(edges(noise), label, 8))
    assert found == [(0, 0)] * 12
    image, label = houses()
    assert shift_of(edges(image), label, 0) == (0, 0)
    assert shift_of(edges(image), np.zeros_like(label), 8) == (0, 0)


@pytest.mark.parametrize("growth", [-4, -2, 0, 3])
def test_a_growth_is_found_and_undone(growth: int) -> None:
    pairs = [houses(seed) for seed in range(3)]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(growth) + 1,) * 2)
    worse = [(cv2.dilate if growth < 0 else cv2.erode)(label, disc) for _, label in pairs]
    sums = sum(growth_scores(edges(image), coarse, 0) for (image, _), coarse in zip(pairs, worse, strict=True))
    assert abs(growth_of(sums) - growth) <= 1 and (growth != 0 or growth_of(sums) == 0)
    mended = [grown(coarse, growth_of(sums), 0) for coarse in worse]
    assert all((m == label).mean() > 0.95 for m, (_, label) in zip(mended, pairs, strict=True))


def test_growing_keeps_classes_apart_and_small_objects_alive() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[5:15, 5:15], label[5:15, 25:35], label[30:33, 30:33] = 2, 7, 2
    wide = grown(label, 3, 0)
    assert wide[10, 17] == 2 and wide[10, 22] == 7 and (wide[label > 0] == label[label > 0]).all()
    narrow = grown(label, -3, 0)
    assert narrow[5, 5] == 0 and narrow[10, 10] == 2 and (narrow[30:33, 30:33] == 2).all()
    label[:, 20:] = IGNORE
    assert (grown(label, 3, 0)[:, 20:] == IGNORE).all()
    np.testing.assert_array_equal(grown(label, 0, 0), label)


def test_nothing_can_be_said_without_edges() -> None:
    _, label = houses()
    flat = np.full((*label.shape, 3), 100, np.uint8)
    assert growth_of(growth_scores(edges(flat), label, 0)) == 0 and not edges(flat).any()
    assert growth_of(growth_scores(edges(flat), np.full_like(label, IGNORE), 0)) == 0


@pytest.mark.parametrize("shift", [(6, 2), (0, 0)])
def test_a_shift_is_found_on_what_others_say(shift: tuple[int, int]) -> None:
    """Two classes in a background; the maps are vague and noisy."""
    rng = np.random.default_rng(0)
    label = houses()[1]
    label[:, 80:] *= 2
    said = np.stack([cv2.GaussianBlur((label == k).astype(np.float32), (0, 0), 4) for k in range(3)])
    odds = 6 * said - 3 + rng.normal(0, 1, said.shape)
    coarse = np.roll(label, (-shift[0], -shift[1]), (0, 1))
    found = shift_on(odds, coarse, 0, 8)
    assert np.abs(np.subtract(found, shift)).max() <= 1 and (found != (0, 0)) == (shift != (0, 0))
    assert shift_on(rng.normal(0, 1, said.shape), coarse, 0, 8) == (0, 0)
    assert shift_on(odds, coarse, 0, 0) == (0, 0) == shift_on(odds, np.zeros_like(coarse), 0, 8)


def test_networks_of_lines_and_specks_are_no_compact_objects() -> None:
    label = np.zeros((60, 60), np.uint8)
    label[5:15, 5:20], label[30:33, 2:58], label[20:58, 30:33], label[50:52, 5:8] = 2, 1, 1, 2
    label[40:48, 40:50] = IGNORE
    (class_id, place, mask), *more = compact_objects(label, 0)
    assert class_id == 2 and (place.x, place.y, place.width, place.height) == (5, 5, 15, 10) and mask.all() and not more


def test_edges_along_an_outline() -> None:
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    picture = np.repeat(np.where(mask, 200, 60).astype(np.uint8)[..., None], 3, axis=2)
    found = edges(picture)
    assert edges_along(found, mask) > 2 * edges_along(found, np.roll(mask, 5, 1)) > 0 == edges_along(found, np.zeros_like(mask))
