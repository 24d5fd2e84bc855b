"""Signals of a label's quality against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.quality import EMPTY
from terralabel.errors import ContractError, SettingsError
from terralabel.labels.quality.evidence import Evidence, pieces, true_iou
from terralabel.labels.quality.signals import SIGNALS, no_signals, outline, signals


def evidence(label: np.ndarray, image: np.ndarray | None = None, probability: np.ndarray | None = None, **more) -> Evidence:
    """Of (H, W) ids; the probability is that of class 1."""
    valid = more.pop("valid", np.ones(label.shape, dtype=bool))
    both = None if probability is None else np.stack([1 - probability, probability]).astype(np.float32)
    return Evidence(label.astype(np.uint8), image, valid, both, (0, 1), **more)


def square(size: int = 40, low: int = 10, high: int = 30) -> np.ndarray:
    label = np.zeros((size, size), dtype=np.uint8)
    label[low:high, low:high] = 1
    return label


def test_confidence_is_taken_in_the_band_and_in_the_mask() -> None:
    label = np.zeros((20, 20), dtype=np.uint8)
    label[:, :10] = 1
    probability = np.where(label == 1, 0.9, 0.2)
    found = signals(evidence(label, probability=probability), background=0)
    assert len(found) == 1 and found.units.class_id.tolist() == [1]
    assert found["confidence_inside"][0] == pytest.approx(0.8)
    # columns 4..9 lie at most 5 px from the outline's inner side, columns 10..15 outside: |2 * .9 - 1| and |2 * .2 - 1|
    assert found["confidence_band"][0] == pytest.approx((0.8 + 0.6) / 2)
    assert found["stability"][0] == 1.0
    assert found["expected_iou"][0] == pytest.approx(200 * 0.9 / (200 + 200 * 0.2), rel=1e-5)


def test_stability_is_the_iou_of_two_cut_offs() -> None:
    probability = np.zeros((10, 10))
    probability[:, :2], probability[:, 2:4], probability[:, 4:8] = 0.9, 0.6, 0.4
    found = signals(evidence((probability > 0.5).astype(np.uint8), probability=probability), background=0)
    assert found["stability"][0] == pytest.approx(20 / 80)


def test_views_and_coarser_outputs_are_compared_by_iou() -> None:
    label = square()
    shifted = np.roll(label, 10, axis=1)
    found = signals(evidence(label, turned=(label, shifted), sides=(shifted,)), background=0)
    assert found["views"][0] == pytest.approx((1 + 1 / 3) / 2)
    assert found["views_worst"][0] == pytest.approx(1 / 3)
    assert found["sides"][0] == pytest.approx(1 / 3)


def test_an_outline_on_the_edges_of_the_picture_beats_one_beside_them() -> None:
    label = square(60, 20, 40)
    picture = np.repeat(np.where(label == 1, 200, 50).astype(np.uint8)[..., None], 3, axis=2)
    picture += np.random.default_rng(0).integers(0, 9, picture.shape).astype(np.uint8)
    right = signals(evidence(label, picture), background=0)
    wrong = signals(evidence(np.roll(label, 8, axis=(0, 1)), picture), background=0)
    for name in ("edge_contrast", "edge_follow", "edge_sharp", "side_contrast"):
        assert right[name][0] > 1.3 * wrong[name][0] > 0, name
    assert right["edge_follow"][0] == 1.0


@pytest.mark.parametrize(("grown", "away"), [(0, 0), (4, 4), (-4, 4)])
def test_an_outline_that_is_too_wide_or_too_narrow_is_told(grown: int, away: int) -> None:
    picture = np.repeat(np.where(square(80, 20, 60) == 1, 200, 50).astype(np.uint8)[..., None], 3, axis=2)
    found = signals(evidence(square(80, 20 - grown, 60 + grown), picture), background=0)
    assert found["edge_offset"][0] == pytest.approx(away, abs=1)


def test_an_outline_that_would_fit_better_elsewhere_is_told() -> None:
    label = square(80, 20, 60)
    picture = np.repeat(np.where(label == 1, 200, 50).astype(np.uint8)[..., None], 3, axis=2)
    there = signals(evidence(label, picture), background=0)["edge_shift"][0]
    beside = signals(evidence(np.roll(label, 6, axis=1), picture), background=0)["edge_shift"][0]
    assert there == pytest.approx(1.0) and beside < 0.7


def test_shape_is_counted() -> None:
    label = np.zeros((50, 40), dtype=np.uint8)
    label[0:10, 0:10] = label[20:22, 20:22] = label[30:40, 5:15] = 1
    found = signals(evidence(label), background=0)
    assert found["components"][0] == pytest.approx(np.log1p(3))
    assert found["largest"][0] == pytest.approx(100 / 204)
    assert found["specks"][0] == pytest.approx(1 / 3)
    assert found["fraction"][0] == pytest.approx(204 / 2000)
    assert found["at_border"][0] == pytest.approx(19 / np.sqrt(204))


def test_what_is_not_known_is_nan() -> None:
    found = signals(evidence(square()), background=0)
    unknown = {s.name for s in SIGNALS if s.kind in ("outline", "inside", "views", "sides", "edges", "pixels", "empty")}
    assert {name for name in found.names if np.isnan(found[name][0])} == unknown


def test_a_label_without_any_border_has_no_band() -> None:
    found = signals(evidence(np.ones((8, 8)), np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 0.9)), background=0)
    assert np.isnan(found["confidence_band"][0]) and np.isnan(found["edge_contrast"][0])
    assert found["confidence_inside"][0] == pytest.approx(0.8)


def test_an_empty_picture_is_a_unit_of_its_own() -> None:
    probability = np.zeros((30, 30))
    probability[10:15, 10:15] = 0.4
    turned = (np.zeros((30, 30), np.uint8), square(30, 5, 9))
    shown = evidence(np.zeros((30, 30)), probability=probability, turned=turned)
    found = signals(shown, background=0)
    assert found.units.class_id.tolist() == [EMPTY] and found.units.box.tolist() == [[0, 0, 30, 30]]
    assert found["strongest"][0] == pytest.approx(0.4, abs=1e-6)
    assert found["views"][0] == 0.5
    assert np.isnan(found["fraction"][0])
    assert true_iou(shown, np.zeros((30, 30), np.uint8), 0).tolist() == [1.0]
    assert true_iou(shown, square(30, 5, 9), 0).tolist() == [0.0]


def test_a_picture_without_pixels_has_no_unit() -> None:
    nothing = evidence(np.full((9, 9), 255), valid=np.zeros((9, 9), dtype=bool))
    assert len(signals(nothing, background=0)) == 0 == len(no_signals())
    assert len(true_iou(nothing, np.zeros((9, 9), np.uint8), 0)) == 0


def test_every_class_but_the_background_is_judged() -> None:
    label = np.repeat(np.arange(4, dtype=np.uint8), 5)[None].repeat(10, axis=0)
    label[:, -5:] = 255
    shown = Evidence(label, None, np.ones(label.shape, dtype=bool), None, (0, 1, 2))
    assert signals(shown).units.class_id.tolist() == [0, 1, 2]
    assert signals(shown, background=0).units.class_id.tolist() == [1, 2]
    assert signals(shown)["fraction"].tolist() == pytest.approx([1 / 3] * 3)


def test_objects_answer_for_their_surroundings() -> None:
    label = square(60, 5, 15) | square(60, 30, 50)
    truth = square(60, 5, 15)
    truth[30:50, 30:40] = 1
    found = signals(evidence(label), background=0, units="object")
    assert found.units.component.tolist() == [1, 2]
    assert found.units.box.tolist() == [[5, 5, 10, 10], [30, 30, 20, 20]]
    assert true_iou(evidence(label), truth, 0, "object").tolist() == [1.0, 0.5]
    assert true_iou(evidence(label), truth, 0).tolist() == pytest.approx([300 / 500])


def test_a_missed_neighbour_counts_only_within_reach() -> None:
    label, truth = square(80, 10, 20), square(80, 10, 20)
    truth[60:70, 60:70] = 1  # far from the object: nobody's fault
    assert true_iou(evidence(label), truth, 0, "object").tolist() == [1.0]
    truth[10:20, 22:27] = 1  # within 16 px
    assert true_iou(evidence(label), truth, 0, "object").tolist() == pytest.approx([100 / 150])


def test_tiny_objects_are_left_to_others() -> None:
    label = square(30, 3, 6)
    assert len(list(pieces(evidence(label), 0, "object"))) == 0
    assert len(list(pieces(evidence(label), 0, "class"))) == 1


def test_ignored_truth_does_not_count() -> None:
    label, truth = square(), square()
    truth[10:20] = 255
    assert true_iou(evidence(label), truth, 0).tolist() == [1.0]
    assert np.isnan(true_iou(evidence(label), np.full((40, 40), 255, np.uint8), 0)).all()


def test_the_outline_has_both_sides_and_none_at_the_border_of_the_known() -> None:
    mask = np.zeros((5, 6), dtype=bool)
    mask[:, :3] = True
    known = np.ones((5, 6), dtype=bool)
    assert outline(mask, known).sum(axis=0).tolist() == [0, 0, 5, 5, 0, 0]
    known[:, 3:] = False
    assert not outline(mask, known).any()


def test_contradictions_are_refused() -> None:
    with pytest.raises(ContractError, match=r"Evidence.label: expected \(H, W\) uint8"):
        Evidence(np.zeros((4, 4), np.int64), None, np.ones((4, 4), bool), None, (0,))
    with pytest.raises(ContractError, match=r"Evidence.probability: expected \(2, 4, 4\) float32"):
        Evidence(np.zeros((4, 4), np.uint8), None, np.ones((4, 4), bool), np.zeros((1, 4, 4), np.float32), (0, 1))
    with pytest.raises(SettingsError, match="units 'picture': expected one of class, object"):
        signals(evidence(square()), units="picture")
    with pytest.raises(ContractError, match="expected equal sizes"):
        true_iou(evidence(square()), np.zeros((3, 3), np.uint8))
