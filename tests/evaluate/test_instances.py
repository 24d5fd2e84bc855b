"""Overlap, recall and precision of instances against plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.masks import Masks
from terralabel.errors import InputError
from terralabel.evaluate.instances import average_precision, best_overlaps, instance_masks, overlaps, score_instances


def random_masks(count: int, seed: int, size: tuple[int, int] = (23, 31)) -> Masks:
    rng = np.random.default_rng(seed)
    arrays = [rng.random(size) < share for share in rng.random(count)]
    return Masks.from_arrays(arrays, size, predicted_iou=rng.random(count).astype(np.float32))


def test_overlaps_equal_those_of_arrays() -> None:
    one, two = random_masks(9, 0), random_masks(7, 1)
    extremes = Masks.from_arrays([np.zeros(one.size, bool), np.ones(one.size, bool)])
    for other in (two, extremes):
        a, b = np.stack(list(one)), np.stack(list(other))
        shared = (a[:, None] & b[None]).sum((2, 3))
        union = (a[:, None] | b[None]).sum((2, 3))
        np.testing.assert_allclose(overlaps(one, other), shared / np.maximum(union, 1))
        np.testing.assert_allclose(overlaps(other, one), (shared / np.maximum(union, 1)).T)


def test_instances_of_a_raster_keep_order_and_size() -> None:
    raster = np.array([[0, 7, 7], [3, 7, 0], [9, 0, 0]])
    assert instance_masks(raster).area.tolist() == [1, 3, 1]
    assert instance_masks(raster, min_size=2).area.tolist() == [3]
    assert instance_masks(raster, ignore=(0, 7)).area.tolist() == [1, 1]
    with pytest.raises(InputError, match="integer raster"):
        instance_masks(raster.astype(float))


def test_no_masks_score_nothing() -> None:
    truth = random_masks(3, 2)
    assert best_overlaps(Masks.empty(truth.size), truth).tolist() == [0, 0, 0]
    scores = score_instances([(Masks.empty(truth.size), truth)])
    assert (scores.instances, scores.masks, scores.best_overlap, scores.recall[0.5]) == (3, 0, 0.0, 0.0)
    assert score_instances([]).instances == 0


def test_perfect_masks_score_one() -> None:
    truth = random_masks(4, 3)
    scores = score_instances([(truth, truth), (truth, truth)])
    assert scores.instances == 8
    assert scores.best_overlap == pytest.approx(1)
    assert scores.recall == {0.5: 1.0, 0.75: 1.0}
    assert scores.precision[0.5] == pytest.approx(1)


def test_a_false_alarm_that_ranks_first_costs_precision() -> None:
    truth = np.zeros((8, 8), dtype=int)
    truth[:4, :4] = 1
    right, wrong = truth > 0, truth == 0
    first_wrong = Masks.from_arrays([right, wrong], predicted_iou=np.float32([0.2, 0.9]))
    first_right = Masks.from_arrays([right, wrong], predicted_iou=np.float32([0.9, 0.2]))
    target = instance_masks(truth)
    assert score_instances([(first_wrong, target)]).precision[0.5] == pytest.approx(0.5)
    assert score_instances([(first_right, target)]).precision[0.5] == pytest.approx(1)


def test_a_second_mask_of_the_same_instance_is_a_false_alarm() -> None:
    truth = np.zeros((8, 8), dtype=int)
    truth[:4, :4], truth[6:, 6:] = 1, 2
    twice = Masks.from_arrays([truth == 1, truth == 1, truth == 2], predicted_iou=np.float32([0.9, 0.8, 0.7]))
    assert score_instances([(twice, instance_masks(truth))]).precision[0.5] == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_by_hand() -> None:
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4) == pytest.approx((1 + 2 / 3) / 4)
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool), 4) == 0


def test_sizes_must_agree() -> None:
    with pytest.raises(InputError, match="equal sizes"):
        overlaps(random_masks(1, 0), random_masks(1, 0, (5, 5)))
