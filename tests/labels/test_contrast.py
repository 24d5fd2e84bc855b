"""Borders without an edge are found by the looks on either side; labels that lie off, or are right, are not grown."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.labels.contrast import (
    LOOKS,
    change_across,
    growth_by_change,
    growth_shows,
    look_of,
    looks,
    rings,
    typical_looks,
)
from terralabel.labels.registration import edges_of, grown, growth_of, growth_scores


def tracks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(160, 160, 3) uint8 rough ground crossed by smoother tracks of nearly the same colour, and (160, 160) uint8 tracks."""
    rng = np.random.default_rng(seed)
    label = np.zeros((160, 160), np.uint8)
    for _ in range(3):
        ends = rng.integers(0, 160, 4).tolist()
        cv2.line(label, ends[:2], ends[2:], 1, 17)
    ground = rng.normal(110, 26, (160, 160, 3))
    track = rng.normal(118, 9, (160, 160, 3))
    return np.clip(np.where(label[..., None] == 1, track, ground), 0, 255).astype(np.uint8), label


PAIRS = [tracks(seed) for seed in range(4)]


def counted(labels: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of rings and of edges over the pictures, with these labels."""
    edges = [edges_of(image, np.ones(image.shape[:2], bool)) for image, _ in PAIRS]
    found = [looks(image, e) for (image, _), e in zip(PAIRS, edges, strict=True)]
    typical = typical_looks(np.concatenate([f.reshape(-1, 4)[::17] for f in found]))
    sums = sum(rings(look_of(f, typical), label, 0) for f, label in zip(found, labels, strict=True))
    return sums, sum(growth_scores(e, label, 0) for e, label in zip(edges, labels, strict=True))


def disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)


@pytest.mark.parametrize("growth", [-5, -4, 0, 4])
def test_growth_is_found_where_there_are_no_edges(growth: int) -> None:
    worse = [(cv2.dilate if growth < 0 else cv2.erode)(label, disc(abs(growth))) if growth else label for _, label in PAIRS]
    sums, edges = counted(worse)
    found = growth_by_change(sums)
    assert growth > 0 or growth_of(edges) == 0, "edges tell nothing of labels too wide here"
    assert abs(found - growth) <= 1 and (found != 0) == (growth != 0)
    assert growth_shows(sums, found) and (growth or (not growth_shows(sums, 5) and not growth_shows(sums, -5)))
    mended = [grown(label, found, 0) for label in worse]
    assert np.mean([(m == label).mean() for m, (_, label) in zip(mended, PAIRS, strict=True)]) > 0.96


def test_a_label_that_lies_off_is_not_too_wide() -> None:
    """Looks change on one side far inside of it, on the other far outside."""
    sums, _ = counted([np.roll(label, (6, 0), (0, 1)) for _, label in PAIRS])
    assert growth_by_change(sums) == 0


def test_looks_of_noise_say_nothing() -> None:
    rng = np.random.default_rng(0)
    label = PAIRS[0][1]
    sums = sum(rings(rng.integers(0, LOOKS, label.shape).astype(np.uint8), label, 0) for _ in range(4))
    assert growth_by_change(sums) == 0 and (change_across(np.zeros_like(sums)) == 0).all()


def test_rings_are_counted_from_outside_to_inside() -> None:
    label = np.zeros((40, 40), np.uint8)
    label[10:30, 10:30] = 1
    label[:, 35:] = IGNORE
    look = np.where(label == 1, 1, 0).astype(np.uint8)
    counts = rings(look, label, 0)
    assert counts[:10, 1].sum() == 0 and counts[10:, 0].sum() == 0
    assert counts[10, 1] == 20**2 - 18**2 and counts[9, 0] == pytest.approx(4 * 20, abs=4)
    assert rings(look, np.full_like(label, IGNORE), 0).sum() == 0 == rings(look, np.ones_like(label), 0).sum()


def test_few_colours_are_looks_of_their_own() -> None:
    plain = np.full((8, 8, 3), 120, np.uint8)
    plain[:, 4:] = 30
    found = looks(plain, np.zeros((8, 8), np.float32))
    typical = typical_looks(found.reshape(-1, 4))
    assert len(typical) <= LOOKS and len(np.unique(look_of(found, typical))) == len(typical)
    np.testing.assert_array_equal(typical, typical_looks(found.reshape(-1, 4)))
