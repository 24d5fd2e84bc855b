"""What a coarse label is worth, on labels whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.classes import IGNORE
from terralabel.labels.coarse import DEPTH, Belief, agreed, posterior, signed_depth, without_borders


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


def belief_of(said: list[np.ndarray], coarse: list[np.ndarray]) -> Belief:
    return Belief.of_counts(sum(Belief.counted(np.stack([1 - p, p]), c, 2) for p, c in zip(said, coarse, strict=True)))


def test_a_network_that_knows_mends_and_one_that_guesses_does_not() -> None:
    """Of one label in eight the object is missing, and a false one is there: only a good network puts that right."""
    rng = np.random.default_rng(0)
    true = [np.roll(square(), rng.integers(-12, 12, 2), (0, 1)) for _ in range(8)]
    coarse = [label.copy() for label in true]
    coarse[0][:] = 0
    coarse[1][2:12, 2:12] = 1
    good = [np.where(t == 1, 0.95, 0.05) for t in true]
    noise = [rng.random((64, 64)) for _ in true]
    knows, guesses = belief_of(good, coarse), belief_of(noise, coarse)
    for index in (0, 1):
        mended = knows.applied(np.stack([1 - good[index], good[index]]), coarse[index], 2)[1] > 0.5
        assert (mended == (true[index] == 1)).mean() > 0.97
        kept = guesses.applied(np.stack([1 - noise[index], noise[index]]), coarse[index], 2)[1] > 0.5
        assert (kept == (coarse[index] == 1)).mean() > 0.99
    assert np.abs(guesses.log_odds).max() < 0.3 < np.abs(knows.log_odds).max()


def test_odds_rise_and_stay_finite() -> None:
    counts = np.random.default_rng(0).random((3, 2, 20)) * 1e4
    for found in (Belief.of_counts(counts), Belief.of_counts(np.zeros((3, 2, 20)))):
        assert (np.diff(found.log_odds, axis=1) >= -1e-12).all() and np.isfinite(found.log_odds).all()


def test_no_label_leaves_it_to_the_network() -> None:
    belief = belief_of([np.where(square() == 1, 0.9, 0.1)], [square()])
    p = np.stack([np.full((8, 8), 0.1), np.full((8, 8), 0.9)])
    assert (belief.applied(p, np.full((8, 8), IGNORE, np.uint8), 4)[1] > 0.5).all()
    assert (belief.applied(p[::-1], np.full((8, 8), IGNORE, np.uint8), 4)[1] < 0.5).all()


def test_a_label_is_overruled_where_both_others_are_of_one_mind() -> None:
    labels, one, other = square(), np.zeros((64, 64)), np.zeros((64, 64))
    one[50:60, 4:14] = one[4:14, 4:14] = 4.0
    other[50:60, 4:14], other[4:14, 4:14] = 5.0, -5.0
    both = agreed(np.stack([-one, one]), np.stack([-other, other]))
    assert both[1, 55, 8] == 4 and both[1, 8, 8] == 0 and both[0, 55, 8] == -4
    found = posterior(both, labels, 2)
    expected = labels == 1
    expected[50:60, 4:14] = True
    np.testing.assert_array_equal(found[1] > 0.5, expected)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
