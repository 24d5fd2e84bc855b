"""The gates against brute force and against SAM's own loops."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.core.masks import Masks
from terralabel.masks import gates
from terralabel.masks.gates import (
    Passed,
    area_gate,
    clean_small_regions,
    distinct_boxes,
    drop_duplicates,
    minimum_size,
    quality_gate,
    stability_gate,
)

SIZE = (40, 50)


def box_mask(x: int, y: int, w: int, h: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def random_masks(n: int, seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    shapes = [box_mask(*rng.integers(0, 25, 2), *rng.integers(1, 16, 2)) & (rng.random(SIZE) < 0.9) for _ in range(n)]
    return Masks.from_arrays(shapes, SIZE, predicted_iou=rng.integers(0, 6, n) / 5)


def test_area_gate_keeps_the_boundary() -> None:
    size = (10, 10)
    masks = Masks.from_arrays(
        [box_mask(0, 0, 10, 3, size), box_mask(0, 0, 31, 1, (10, 100))[:, :10], box_mask(0, 0, 10, 4, size)]
    )
    passed = area_gate(masks, largest=0.3)
    assert passed.masks.area.tolist() == [30, 10]
    assert passed.dropped == {"area": 1}
    assert area_gate(masks, largest=0.3, reference=1000).dropped == {"area": 0}
    assert area_gate(masks, largest=0.1).masks.area.tolist() == [10]


def test_gates_chain_and_add_up() -> None:
    masks = Masks.from_arrays(
        [
            box_mask(0, 0, 4, 4),
            box_mask(10, 10, 1, 2),
            np.zeros(SIZE, dtype=bool),
            box_mask(0, 0, 50, 40),
            box_mask(20, 20, 5, 5),
        ],
        predicted_iou=np.array([0.9, 0.9, 0.9, 0.9, 0.88], dtype=np.float32),
        stability_score=np.array([0.95, 1, np.nan, 1, 1], dtype=np.float32),
    )
    passed = Passed(masks).then(area_gate, largest=0.5).then(minimum_size, smallest=3).then(quality_gate).then(stability_gate)
    assert passed.dropped == {"area": 1, "size": 2, "quality": 1, "stability": 0}
    assert passed.masks.area.tolist() == [16]
    assert minimum_size(masks).dropped == {"size": 1}
    assert stability_gate(masks).dropped == {"stability": 1}  # not a number is not stable
    assert stability_gate(masks, lowest=0).dropped == {"stability": 0}


def test_gates_accept_no_masks() -> None:
    nothing = Masks.empty(SIZE)
    passed = Passed(nothing)
    for gate in (area_gate, minimum_size, stability_gate, quality_gate, drop_duplicates):
        passed = passed.then(gate)
    passed = passed.then(clean_small_regions, smallest=4)
    assert len(passed.masks) == 0 and set(passed.dropped.values()) == {0}


def reference_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """torchvision's CPU kernel, line by line, in scalars."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])  # sorted() is stable
    areas = [np.float32(b[2] - b[0]) * np.float32(b[3] - b[1]) for b in boxes]
    gone, keep = set(), []
    for position, i in enumerate(order):
        if i in gone:
            continue
        keep.append(i)
        for j in order[position + 1 :]:
            w = max(np.float32(0), min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0]))
            h = max(np.float32(0), min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1]))
            inter = np.float32(w * h)
            with np.errstate(invalid="ignore"):
                if float(inter / (areas[i] + areas[j] - inter)) > threshold:
                    gone.add(j)
    return keep


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.7])
def test_box_duplicates_follow_torchvision(threshold: float) -> None:
    masks = random_masks(120)
    boxes = np.column_stack([masks.bbox[:, :2], masks.bbox[:, :2] + masks.bbox[:, 2:] - 1]).astype(np.float32)
    keep = reference_nms(boxes, masks.predicted_iou, threshold)
    passed = drop_duplicates(masks, box_iou=threshold)
    assert 0 < passed.dropped["duplicate"] == 120 - len(keep)
    np.testing.assert_array_equal(passed.masks.runs, masks.select(np.array(keep)).runs)


def test_one_pixel_masks_are_never_box_duplicates() -> None:
    masks = Masks.from_arrays([box_mask(3, 3, 1, 1), box_mask(3, 3, 1, 1)])
    assert drop_duplicates(masks, box_iou=0.5).dropped == {"duplicate": 0}
    assert drop_duplicates(masks, box_iou=None, mask_iou=0.5).dropped == {"duplicate": 1}


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.8])
def test_mask_duplicates_follow_brute_force(threshold: float) -> None:
    twice = np.arange(80) % 60
    masks = random_masks(60, seed=1).select(twice)
    arrays = list(masks)
    order = np.argsort(-masks.predicted_iou, kind="stable")
    keep: list[int] = []
    for i in order:
        overlaps = [(arrays[i] & arrays[j]).sum() / (arrays[i] | arrays[j]).sum() for j in keep]
        if not any(overlap > threshold for overlap in overlaps):
            keep.append(int(i))
    passed = drop_duplicates(masks, box_iou=None, mask_iou=threshold)
    assert passed.dropped["duplicate"] == 80 - len(keep) > 0
    np.testing.assert_array_equal(passed.masks.runs, masks.select(np.array(keep)).runs)


def test_batches_of_pairs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = random_masks(60, seed=2).select(np.arange(90) % 60)
    whole = drop_duplicates(masks, box_iou=None, mask_iou=0.3).masks
    monkeypatch.setattr(gates, "_PAIRS_AT_ONCE", 7)
    monkeypatch.setattr(gates, "_PIECES_AT_ONCE", 50)
    parts = drop_duplicates(masks, box_iou=None, mask_iou=0.3).masks
    np.testing.assert_array_equal(parts.runs, whole.runs)


def test_only_the_first_distinct_boxes_are_wanted() -> None:
    bbox = random_masks(80, seed=3).bbox
    every = np.flatnonzero(distinct_boxes(bbox, 0.3))
    np.testing.assert_array_equal(np.flatnonzero(distinct_boxes(bbox, 0.3, 5)), every[:5])
    np.testing.assert_array_equal(np.flatnonzero(distinct_boxes(bbox, 0.3, 500)), every)


def sam_small_regions(mask: np.ndarray, smallest: int, holes: bool) -> np.ndarray:
    """segment-anything's `remove_small_regions`, on the whole frame."""
    import cv2

    working = (holes ^ mask).astype(np.uint8)
    n, regions, stats, _ = cv2.connectedComponentsWithStats(working, 8)
    sizes = stats[:, -1][1:]
    small = [i + 1 for i, s in enumerate(sizes) if s < smallest]
    if not small:
        return mask
    fill = [0, *small]
    if not holes:
        fill = [i for i in range(n) if i not in fill] or [int(np.argmax(sizes)) + 1]
    return np.isin(regions, fill)


@pytest.mark.parametrize("smallest", [2, 5, 30])
def test_cleaning_equals_sam(smallest: int) -> None:
    rng = np.random.default_rng(3)
    arrays = [
        box_mask(*rng.integers(0, 20, 2), *rng.integers(1, 30, 2)) & (rng.random(SIZE) < p) for p in (0.3, 0.6, 0.95) * 12
    ]
    arrays = [a for a in arrays if a.any()] + [np.ones(SIZE, dtype=bool), box_mask(0, 0, 50, 2) | box_mask(0, 38, 50, 2)]
    cleaned = clean_small_regions(Masks.from_arrays(arrays), smallest=smallest)
    expected = [sam_small_regions(sam_small_regions(a, smallest, True), smallest, False) for a in arrays]
    for got, want in zip(cleaned.masks, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert cleaned.changed == sum(not np.array_equal(a, e) for a, e in zip(arrays, expected, strict=True)) > 0


def test_cleaning_prefers_what_was_clean() -> None:
    dirty = box_mask(5, 5, 10, 10)
    dirty[9, 9] = False
    masks = Masks.from_arrays([dirty, box_mask(5, 5, 10, 10)], predicted_iou=np.array([0.9, 0.5]))
    passed = clean_small_regions(masks, smallest=4, box_iou=0.7)
    assert passed.dropped == {"duplicate": 1} and passed.changed == 1
    assert passed.masks.predicted_iou.tolist() == [0.5]
