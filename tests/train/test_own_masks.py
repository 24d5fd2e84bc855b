"""Self-training: only what the network sees in every view is learned from."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from terralabel.nets.nano.shipped import SHIPPED
from terralabel.train import own_masks as module
from terralabel.train.own_masks import own_masks, with_own_masks
from terralabel.train.pictures import LAYERS, Picture


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Three bright roofs on a dark meadow (192, 192, 3)."""
    rng = np.random.default_rng(0)
    picture = np.full((192, 192, 3), (70, 92, 60), np.float32)
    for x, y in ((20, 24), (110, 40), (60, 120)):
        picture[y : y + 36, x : x + 48] = (190, 120, 100)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_roofs_are_found_in_every_view(pixels: np.ndarray) -> None:
    found = own_masks(pixels, SHIPPED)
    for x, y in ((20, 24), (110, 40), (60, 120)):
        roof = np.zeros(pixels.shape[:2], bool)
        roof[y : y + 36, x : x + 48] = True
        assert max(iou(mask, roof) for mask in found) > 0.8
    assert [m.tobytes() for m in own_masks(pixels, SHIPPED)] == [m.tobytes() for m in found]


def test_what_one_view_does_not_show_is_left_out(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in network that sees bright things, and a patch at the upper left of whatever it looks at."""

    def seen(_: object, picture: np.ndarray) -> list[np.ndarray]:
        roofs, corner = picture[..., 0] > 130, np.zeros(picture.shape[:2], bool)
        corner[: len(picture) // 4, : len(picture) // 4] = True
        return [corner, roofs]

    monkeypatch.setattr(module, "_seen", seen)
    found = own_masks(pixels, SHIPPED)
    assert len(found) == 1 and iou(found[0], pixels[..., 0] > 130) > 0.99


def test_truth_stays_and_own_masks_come_before_the_hierarchy_s(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.zeros((LAYERS, 192, 192), np.int32)
    ids[0, 24:60, 20:68] = 5
    ids[1, 120:156, 60:108] = 9
    again, new = ids[0] == 5, np.zeros((192, 192), bool)
    new[100:170, 50:120] = True
    monkeypatch.setattr(module, "own_masks", lambda pixels, weights: [again, new])
    found = with_own_masks(Picture(pixels, ids, 1, (4,)), SHIPPED)
    np.testing.assert_array_equal(found.ids[0], ids[0])
    np.testing.assert_array_equal(found.ids[1] > 0, new)
    np.testing.assert_array_equal(found.ids[2] > 0, ids[1] == 9)
    assert found.kinds == (4,) and not found.ids[3].any()
    unlabelled = with_own_masks(Picture(pixels, ids, 0), SHIPPED)
    assert (unlabelled.ids[1] > 0).sum() == (again | new).sum()
