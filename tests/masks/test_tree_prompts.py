"""Points, boxes and rough masks on the weight-free backend."""

from __future__ import annotations

import numpy as np
import pytest

from terralabel.contracts import Encoded
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.tree import TreeMasks


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """Two dark roofs side by side on a bright ground with noise."""
    rng = np.random.default_rng(0)
    image = np.full((160, 200, 3), 190.0)
    image[40:90, 30:80] = (120, 40, 40)
    image[40:90, 84:150] = (50, 60, 130)
    return TreeMasks().encode(Tile.from_array(np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)))


def roof(left: int = 30, top: int = 40, right: int = 80, bottom: int = 90) -> np.ndarray:
    mask = np.zeros((160, 200), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_box_gives_what_is_in_it(encoded: Encoded) -> None:
    boxes = np.array([[28, 38, 83, 93], [82, 37, 153, 92]], dtype=np.float32)
    found = TreeMasks().predict(encoded, boxes=boxes, multimask=False)
    assert found.alternatives == 1
    assert len(found.masks) == 2
    assert iou(found.masks.array(0), roof()) > 0.9
    assert iou(found.masks.array(1), roof(84, 40, 150, 90)) > 0.9


def test_three_alternatives_hold_one_another(encoded: Encoded) -> None:
    points, labels = np.array([[[55, 60]]], dtype=np.float32), np.ones((1, 1), dtype=np.int64)
    found = TreeMasks().predict(encoded, points=points, point_labels=labels)
    assert found.alternatives == 3
    assert len(found.masks) == 3
    small, middle, large = found.masks
    assert (small & ~middle).sum() <= 0.03 * small.sum()
    assert (middle & ~large).sum() <= 0.03 * middle.sum()
    assert max(iou(m, roof()) for m in found.masks) > 0.9


def test_a_point_alone_gives_its_object(encoded: Encoded) -> None:
    points, labels = np.array([[[55, 60]], [[120, 70]]], dtype=np.float32), np.ones((2, 1), dtype=np.int64)
    found = TreeMasks().predict(encoded, points=points, point_labels=labels, multimask=False)
    assert iou(found.masks.array(0), roof()) > 0.9
    assert iou(found.masks.array(1), roof(84, 40, 150, 90)) > 0.9


def test_background_points_are_left_out_and_padding_ignored(encoded: Encoded) -> None:
    points = np.array([[[55, 60], [120, 60], [0, 0]]], dtype=np.float32)
    found = TreeMasks().predict(encoded, points=points, point_labels=np.array([[1, 0, -1]]), multimask=False)
    mask = found.masks.array(0)
    assert mask[60, 55]
    assert not mask[60, 120]
    both = TreeMasks().predict(encoded, points=points, point_labels=np.array([[1, 1, 0]]), multimask=False).masks.array(0)
    assert both[60, 55]
    assert both[60, 120]
    assert not both[0, 0]


def test_a_rough_mask_becomes_tight(encoded: Encoded) -> None:
    rough = roof(36, 46, 84, 86)
    found = TreeMasks().predict(encoded, masks=Masks.from_arrays([rough]), multimask=False)
    assert iou(found.masks.array(0), roof()) > 0.9 > iou(rough, roof())


def test_a_box_and_a_point_together(encoded: Encoded) -> None:
    found = TreeMasks().predict(
        encoded,
        boxes=np.array([[28, 38, 153, 93]], dtype=np.float32),
        points=np.array([[[120, 60], [55, 60]]], dtype=np.float32),
        point_labels=np.array([[1, 0]]),
        multimask=False,
    )
    assert iou(found.masks.array(0), roof(84, 40, 150, 90)) > 0.85


def test_prompts_off_the_tile_or_of_no_size_still_answer(encoded: Encoded) -> None:
    boxes = np.array([[-50, -50, -20, -20], [190, 150, 400, 400], [60, 60, 60, 60]], dtype=np.float32)
    found = TreeMasks().predict(encoded, boxes=boxes)
    assert len(found.masks) == 9
    assert (found.masks.area > 0).all()


def test_nothing_valid_gives_empty_masks() -> None:
    backend = TreeMasks()
    empty = backend.encode(Tile.from_array(np.zeros((20, 20, 3), np.uint8), np.zeros((20, 20), bool)))
    found = backend.predict(empty, boxes=np.array([[2, 2, 9, 9]], dtype=np.float32), multimask=False)
    assert len(found.masks) == 1
    assert found.masks.area[0] == 0


def test_wrong_prompts_are_refused(encoded: Encoded) -> None:
    backend = TreeMasks()
    with pytest.raises(ContractError, match="points, boxes or masks"):
        backend.predict(encoded)
    with pytest.raises(ContractError, match="as many"):
        backend.predict(encoded, boxes=np.zeros((2, 4)), points=np.zeros((1, 1, 2)), point_labels=np.ones((1, 1)))
    with pytest.raises(ContractError, match="point_labels"):
        backend.predict(encoded, points=np.zeros((1, 1, 2)))
    with pytest.raises(ContractError, match=r"tree\.encode"):
        backend.predict(Encoded(encoded.tile, "something else"), boxes=np.zeros((1, 4)))


def test_no_prompts_give_no_masks(encoded: Encoded) -> None:
    assert len(TreeMasks().predict(encoded, boxes=np.zeros((0, 4), dtype=np.float32)).masks) == 0
