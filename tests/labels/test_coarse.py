"""What a coarse label is worth, on labels whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.labels.coarse import DEPTH, Trust, best_shift, shift_scores, signed_depth, without_borders


def square(size: int = 64, low: int = 20, high: int = 44) -> np.ndarray:
    labels = np.zeros((size, size), np.uint8)
    labels[low:high, low:high] = 1
    return labels


def test_nothing_is_said_near_borders() -> None:
    labels = square()
    clear = without_borders(labels, 4)
    assert (clear[24:40, 24:40] == 1).all() and (clear[:16] == 0).all()
    assert (clear[20:24, 20:44] == IGNORE).all() and (clear[16:20, 20:44] == IGNORE).all()
    assert ((clear == labels) | (clear == IGNORE)).all()
    np.testing.assert_array_equal(without_borders(labels, 0), labels)


def test_of_what_is_narrow_the_inside_stays() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[:, 18:22] = 1
    clear = without_borders(labels, 8)
    assert (clear[:, 19:21] == 1).all() and (clear[:, 18] == IGNORE).all() and (clear[:, 10] == IGNORE).all()


def test_the_edge_of_the_image_and_of_the_label_is_no_border() -> None:
    labels = np.full((20, 20), 3, np.uint8)
    labels[:, 12:] = IGNORE
    np.testing.assert_array_equal(without_borders(labels, 5), labels)


def test_signed_depth() -> None:
    depth = signed_depth(square() == 1)
    assert (
        depth[32, 32] == pytest.approx(12, abs=0.6) and depth[32, 20] == pytest.approx(1) and depth[32, 19] == pytest.approx(-1)
    )
    assert depth[0, 0] == pytest.approx(-DEPTH, abs=0.1) and (signed_depth(np.ones((4, 4), bool)) == DEPTH).all()


@pytest.mark.parametrize("shift", [(0, 0), (5, -3), (-8, 8)])
def test_a_shift_is_found(shift: tuple[int, int]) -> None:
    true = square()
    coarse = np.roll(true, (-shift[0], -shift[1]), (0, 1))
    probability = np.where(true == 1, 0.8, 0.2).astype(np.float32)
    assert best_shift(shift_scores(probability, coarse == 1, 8), int(coarse.sum())) == shift


def test_a_shift_that_gains_little_is_none() -> None:
    noise = 0.5 + np.random.default_rng(0).normal(0, 0.02, (64, 64))
    assert best_shift(shift_scores(noise, square() == 1, 8), int(square().sum())) == (0, 0)
    assert best_shift(np.zeros((17, 17)), 0) == (0, 0)


def trust_of(coarse: list[np.ndarray], true: list[np.ndarray], sure: float = 0.9) -> Trust:
    counts = np.zeros((2, 2, Trust.bins()))
    for label, there in zip(coarse, true, strict=True):
        p = np.where(there == 1, sure, 1 - sure).astype(np.float32)
        counts += Trust.counted(np.stack([1 - p, p]), label)
    return Trust.of_counts(counts)


def test_exact_labels_are_believed_and_wrong_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    true = [np.roll(square(), rng.integers(-12, 12, 2), (0, 1)) for _ in range(6)]
    doubtful = np.full((2, 64, 64), 0.5, np.float32)
    exact = trust_of(true, true).applied(doubtful, true[0])
    assert (exact[1][true[0] == 1] > 0.5).all() and (exact[1][true[0] == 0] < 0.5).all()
    others = [np.roll(square(), rng.integers(-12, 12, 2), (0, 1)).T for _ in range(6)]
    noise = trust_of([rng.integers(0, 2, (64, 64)).astype(np.uint8) for _ in others], true).applied(doubtful, others[0])
    assert np.abs(noise[1] - 0.5).max() < 0.1


def test_dilated_labels_are_doubted_at_their_border_only() -> None:
    true, wide = square(), square(low=16, high=48)
    trust = trust_of([wide] * 4, [true] * 4)
    found = trust.applied(np.full((2, 64, 64), 0.5, np.float32), wide)[1]
    assert (found[22:42, 22:42] > 0.5).all() and (found[16:18, 20:44] < 0.5).all() and (found[:12] < 0.5).all()


def test_ratios_rise_with_depth_and_stay_finite() -> None:
    counts = np.random.default_rng(0).random((3, 2, Trust.bins())) * 1e4
    ratios = Trust.of_counts(counts).log_ratio
    assert (np.diff(ratios, axis=1) >= -1e-12).all() and np.isfinite(ratios).all()
    assert np.isfinite(Trust.of_counts(np.zeros((3, 2, Trust.bins()))).log_ratio).all()


def test_no_label_says_nothing() -> None:
    probabilities = np.stack([np.full((8, 8), 0.3), np.full((8, 8), 0.7)]).astype(np.float32)
    trust = trust_of([square()], [square()])
    np.testing.assert_allclose(trust.applied(probabilities, np.full((8, 8), IGNORE, np.uint8)), probabilities, atol=1e-6)
