"""Predictions against truth: the figures, and the convention that is said."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from terralabel.core.classes import ClassEntry, Classes
from terralabel.errors import InputError, SettingsError
from terralabel.evaluate.segmentation import SegmentationReport, evaluate_predictions

CLASSES = Classes(tuple(ClassEntry(i, name, "#112233") for i, name in enumerate(("ground", "road", "house", "water", "boat"))))


def folders(tmp_path: Path, prediction: np.ndarray, truth: np.ndarray) -> tuple[Path, Path]:
    for name, ids in (("p", prediction), ("t", truth)):
        (tmp_path / name).mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name / "a.png"), ids.astype(np.uint8))
    return tmp_path / "p", tmp_path / "t"


def measured(tmp_path: Path, **options: object) -> SegmentationReport:
    """Truth: 6 of ground, 3 of road, 1 of house, 2 ignored. Predicted: one ground as road, one road as water, house missed."""
    truth = np.array([[0, 0, 0, 0, 0, 0], [1, 1, 1, 2, 255, 255]])
    prediction = np.array([[0, 0, 0, 0, 0, 1], [1, 1, 3, 0, 4, 4]])
    return evaluate_predictions(*folders(tmp_path, prediction, truth), classes=CLASSES, **options)  # type: ignore[arg-type]


def test_figures_by_hand(tmp_path: Path) -> None:
    found = measured(tmp_path)
    assert found.ids == (0, 1, 2, 3)  # boat is in neither, since ignored pixels do not count
    assert found.iou == pytest.approx((5 / 7, 2 / 4, 0, 0))
    assert found.f1 == pytest.approx((10 / 12, 4 / 6, 0, 0))
    assert found.accuracy[:3] == pytest.approx((5 / 6, 2 / 3, 0))
    assert np.isnan(found.accuracy[3])  # nowhere true
    assert found.miou == pytest.approx((5 / 7 + 1 / 2) / 4)
    assert found.mean_accuracy == pytest.approx((5 / 6 + 2 / 3) / 3)
    assert found.pixel_accuracy == pytest.approx(0.7)


def test_the_background_in_or_out_and_both_are_told(tmp_path: Path) -> None:
    inside, outside = measured(tmp_path, background=0), measured(tmp_path, background=0, with_background=False)
    assert outside.ids == (1, 2, 3)
    assert outside.miou == pytest.approx(1 / 6)
    assert outside.miou_other == inside.miou
    assert inside.miou_other == outside.miou
    assert outside.iou[0] == inside.iou[1]  # ground taken for road is an error of road either way
    assert "background (0) left out" in outside.convention
    assert "background (0) in" in inside.convention
    assert "3 classes" in outside.convention


def test_absent_classes_are_named_and_may_count_as_nothing(tmp_path: Path) -> None:
    assert "left out: 4 boat" in measured(tmp_path).convention
    counted = measured(tmp_path, absent="zero")
    assert counted.ids == (0, 1, 2, 3, 4)
    assert counted.miou == pytest.approx(measured(tmp_path).miou * 4 / 5)
    assert "count 0: 4 boat" in counted.convention


def test_perfect_predictions(tmp_path: Path) -> None:
    truth = np.repeat(np.arange(4), 60).reshape(12, 20)
    found = evaluate_predictions(*folders(tmp_path, truth, truth), classes=CLASSES)
    assert (found.miou, found.mean_f1, found.mean_accuracy, found.boundary_f) == (1, 1, 1, 1)


def test_grey_truth_takes_a_threshold(tmp_path: Path) -> None:
    prediction, truth = np.array([[1, 1, 0, 0]]), np.array([[255, 130, 127, 0]])
    found = evaluate_predictions(*folders(tmp_path, prediction, truth), threshold=128)
    assert found.miou == 1
    assert found.ids == (0, 1)


def test_report_is_json_and_text(tmp_path: Path) -> None:
    found = measured(tmp_path, background=0)
    found.write_json(tmp_path / "s.json")
    stored = json.loads((tmp_path / "s.json").read_text())
    assert stored["convention"] == found.convention
    assert [entry["name"] for entry in stored["classes"]] == ["ground", "road", "house", "water"]
    assert stored["classes"][3]["accuracy"] is None
    text = found.to_text()
    assert "convention: mIoU over 4 classes" in text
    assert "0.1667" in text  # the mean without the background


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"9 \(2 px\)"):
        evaluate_predictions(*folders(tmp_path, np.zeros((2, 2)), np.array([[9, 9], [0, 1]])), classes=CLASSES)
    with pytest.raises(SettingsError, match="background 9"):
        measured(tmp_path, background=9)
    with pytest.raises(SettingsError, match="absent"):
        measured(tmp_path, absent="maybe")
    with pytest.raises(InputError, match="another size"):
        evaluate_predictions(*folders(tmp_path, np.zeros((2, 2)), np.zeros((2, 3))), classes=CLASSES)
