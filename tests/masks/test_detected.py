"""Boxes as prompts: one mask each, in windows in which they lie whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from terralabel.contracts import Encoded, Prediction
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.boxes import Boxes
from terralabel.masks.detected import box_masks, windows_of_boxes
from terralabel.masks.tree import TreeMasks


@dataclass
class Filled:
    """A promptable that fills its boxes; `asked` are the sizes of the batches."""

    extra: int = 0
    asked: list[int] = field(default_factory=list)
    name: str = "filled"
    version: str = "1"

    def encode(self, tile: Tile) -> Encoded:
        return Encoded(tile, None)

    def predict(self, encoded: Encoded, *, boxes: Any = None, multimask: bool = True, **_: Any) -> Prediction:
        assert multimask is False
        self.asked.append(len(boxes))
        arrays = []
        for x0, y0, x1, y1 in [*boxes.tolist(), *[boxes[0].tolist()] * self.extra]:
            mask = np.zeros(encoded.tile.size, dtype=bool)
            mask[round(y0) : round(y1), round(x0) : round(x1)] = True
            arrays.append(mask)
        return Prediction(Masks.from_arrays(arrays), 1)


def tile(height: int = 40, width: int = 60) -> Tile:
    return Tile.from_array(np.zeros((height, width, 3), np.uint8))


def test_one_mask_a_box_in_order_and_in_batches() -> None:
    promptable = Filled()
    xyxy = np.array([[k, k, k + 5, k + 3] for k in range(7)], dtype=float)
    masks = box_masks(promptable, tile(), xyxy, batch=3)
    assert promptable.asked == [3, 3, 1]
    assert masks.bbox.tolist() == [[k, k, 5, 3] for k in range(7)]


def test_invalid_pixels_belong_to_no_mask() -> None:
    valid = np.ones((40, 60), dtype=bool)
    valid[:, :3] = False
    shown = Tile.from_array(np.zeros((40, 60, 3), np.uint8), valid)
    assert box_masks(Filled(), shown, np.array([[0.0, 0, 5, 4]])).area.tolist() == [8]
    hidden = Tile.from_array(np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60), bool))
    asked = Filled()
    assert box_masks(asked, hidden, np.array([[0.0, 0, 5, 4]] * 2)).area.tolist() == [0, 0]
    assert asked.asked == []
    assert len(box_masks(asked, shown, np.zeros((0, 4)))) == 0


def test_another_number_of_masks_breaks_the_contract() -> None:
    with pytest.raises(ContractError, match=r"filled: asked for one mask for each of 1 boxes, got 2"):
        box_masks(Filled(extra=1), tile(), np.array([[0.0, 0, 5, 4]]))


def test_tree_finds_the_thing_in_the_box() -> None:
    pixels = np.full((80, 80, 3), 60, np.uint8)
    pixels[20:50, 30:60] = (200, 40, 40)
    pixels = (pixels + np.random.default_rng(0).integers(0, 10, pixels.shape)).astype(np.uint8)
    mask = box_masks(TreeMasks(), Tile.from_array(pixels), np.array([[28.0, 18, 62, 52]])).array(0)
    truth = np.zeros((80, 80), bool)
    truth[20:50, 30:60] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9


def test_every_box_lies_whole_in_one_window() -> None:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 900, (300, 2))
    size = rng.uniform(1, 90, (300, 2))
    size[::50] = 600  # larger than a tile
    xyxy = np.concatenate([corner, np.minimum(corner + size, 1000)], axis=1)
    windows = windows_of_boxes(Boxes(xyxy, np.zeros(300, np.int64)), 1000, 1000, tile_size=256, overlap=64)
    seen = np.concatenate([which for _, which in windows])
    assert sorted(seen.tolist()) == list(range(300)), "each once"
    for window, which in windows:
        assert window.x >= 0 and window.right <= 1000 and window.y >= 0 and window.bottom <= 1000
        assert (xyxy[which, :2] >= (window.x, window.y)).all()
        assert (xyxy[which, 2:] <= (window.right, window.bottom)).all()
    assert sum(len(which) == 1 and max(w.width, w.height) > 256 for w, which in windows) >= 4, "large boxes have their own"


def test_a_small_image_is_one_window() -> None:
    boxes = Boxes(np.array([[0.0, 0, 5, 5], [50, 30, 60, 40]]), np.array([0, 1]))
    windows = windows_of_boxes(boxes, 60, 40, tile_size=1024, overlap=256)
    assert [(w.width, w.height, which.tolist()) for w, which in windows] == [(60, 40, [0, 1])]
    assert windows_of_boxes(Boxes(np.zeros((0, 4)), np.zeros(0, np.int64)), 60, 40, tile_size=1024, overlap=256) == []
