"""Boxes to masks by box, point and boundary; each part can be switched off."""

import cv2
import numpy as np
import pytest

from terralabel.contracts import Encoded, Prediction
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.errors import ContractError
from terralabel.masks.referred import referred_masks
from terralabel.masks.tree import TreeMasks
from terralabel.testing import FloodPromptable, sample_tiles


class Notes:
    """A promptable that fills the box, or 7 x 7 pixels round the point; it notes what it was asked."""

    name, version = "notes", "1"

    def __init__(self, shift: int = 0, answers: int = 1, promised: float = 0.9) -> None:
        self.asked: list[tuple[bool, int]] = []
        self.shift, self.answers, self.promised = shift, answers, promised

    def encode(self, tile: Tile) -> Encoded:
        return Encoded(tile, None)

    def predict(self, encoded, *, points=None, point_labels=None, boxes=None, masks=None, multimask=True) -> Prediction:
        self.asked.append((points is not None, len(boxes)))
        found = []
        for k, (x0, y0, x1, y1) in enumerate(boxes.astype(int)):
            mask = np.zeros(encoded.tile.size, bool)
            mask[y0:y1, x0 + self.shift : x1 + self.shift] = True
            if points is not None:
                x, y = points[k, 0].astype(int)
                mask[:] = False
                mask[y - 3 : y + 4, x - 3 : x + 4] = True
            found += [mask] * self.answers
        promised = np.full(len(found), 0.5 if points is None else self.promised, np.float32)
        return Prediction(Masks.from_arrays(found, encoded.tile.size, predicted_iou=promised), self.answers)


def scene() -> tuple[Tile, np.ndarray]:
    """A disc of radius 30 on noisy ground, and its box."""
    noise = np.random.default_rng(0).normal(0, 6, (128, 128, 3))
    truth = np.zeros((128, 128), np.uint8)
    cv2.circle(truth, (64, 64), 30, 1, -1)
    image = np.where(truth[..., None] > 0, (190, 170, 160), (60, 100, 50)) + noise
    return Tile.from_array(np.clip(image, 0, 255).astype(np.uint8)), np.array([[33, 33, 95, 95]], np.float32)


def test_a_mask_that_holds_the_point_is_not_asked_again():
    tile, box = scene()
    promptable = Notes()
    found = referred_masks(promptable, tile, box, refine=False)
    assert promptable.asked == [(False, 1)]
    assert not found.by_point.any()
    assert found.masks.area[0] == 62 * 62


def test_a_mask_that_misses_the_point_is_asked_again_with_it():
    tile, box = scene()
    promptable = Notes(shift=40)
    found = referred_masks(promptable, tile, np.concatenate([box, box]), refine=False)
    assert promptable.asked == [(False, 2), (True, 2)]
    assert found.by_point.all()
    assert found.masks.area.tolist() == [49, 49]
    assert np.abs(found.points - 64).max() < 2


def test_an_answer_that_promises_less_is_not_taken():
    tile, box = scene()
    promptable = Notes(shift=40, promised=0.4)
    found = referred_masks(promptable, tile, box, refine=False)
    assert promptable.asked == [(False, 1), (True, 1)]
    assert not found.by_point.any()
    assert found.masks.area[0] == 62 * (128 - 73)


@pytest.mark.parametrize(("point", "asked"), [("always", [(True, 1)]), ("off", [(False, 1)])])
def test_the_point_can_be_asked_always_or_never(point, asked):
    tile, box = scene()
    promptable = Notes(shift=40)
    found = referred_masks(promptable, tile, box, point=point, refine=False)
    assert promptable.asked == asked
    assert np.isnan(found.points).all() == (point == "off")


def test_refinement_draws_the_disc_in_a_mask_that_is_nearly_it():
    tile, box = scene()
    truth = tile.pixels[..., 0] > 125
    found = referred_masks(TreeMasks(), tile, box, refine=True)
    assert found.refined.all()
    assert (found.masks.array(0) & truth).sum() / (found.masks.array(0) | truth).sum() > 0.97
    plain = referred_masks(TreeMasks(), tile, box, refine=False)
    assert not plain.refined.any()
    assert np.array_equal(plain.masks.array(0), found.before.array(0))


def test_the_same_boxes_give_the_same_masks_in_any_batch():
    tile, box = scene()
    boxes = np.concatenate([box, box + 3, box - 5])
    once, again = (referred_masks(FloodPromptable(), tile, boxes, batch=batch) for batch in (1, 64))
    assert np.array_equal(once.masks.runs, again.masks.runs)
    assert np.array_equal(once.points, again.points)


@pytest.mark.parametrize("number", range(len(sample_tiles())))
def test_any_tile_and_any_box_give_masks_of_valid_pixels(number):
    tile = sample_tiles()[number]
    height, width = tile.size
    boxes = np.array([[0, 0, width, height], [2, 2, 2, 2], [width + 5, 3, width + 9, 9], [5, 5, 1, 1]], np.float32)
    found = referred_masks(TreeMasks(), tile, boxes)
    assert len(found.masks) == 4
    assert not (found.masks.covered() & ~tile.valid).any()


def test_no_boxes_give_no_masks():
    found = referred_masks(FloodPromptable(), scene()[0], np.zeros((0, 4), np.float32))
    assert len(found.masks) == len(found.points) == len(found.refined) == 0


def test_a_promptable_that_gives_more_than_one_mask_breaks_its_contract():
    tile, box = scene()
    with pytest.raises(ContractError, match="asked for one mask for each of 1 boxes, got 3 masks"):
        referred_masks(Notes(answers=3), tile, box)
