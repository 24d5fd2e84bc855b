"""Boxes of a thing all over a scene: joined where seams of tiles cut them, and nowhere else."""

import numpy as np
import pytest

from terralabel.core.classes import plain_name
from terralabel.core.grid import Window, plan_tiles
from terralabel.masks.located import Located, joined_across_seams

SIZE = 300


def seen(boxes: np.ndarray, tile_size: int, overlap: int, score: float = 0.5) -> list[tuple[Window, Located]]:
    """What a perfect locator would say of each tile: the boxes, cut where the tile ends."""
    out = []
    for plan in plan_tiles("s", SIZE, SIZE, tile_size, overlap):
        w = plan.window
        cut = np.clip(boxes, [w.x, w.y, w.x, w.y], [w.right, w.bottom, w.right, w.bottom])
        keep = (cut[:, 2] - cut[:, 0] > 3) & (cut[:, 3] - cut[:, 1] > 3)
        out.append((w, Located(cut[keep].astype(float), np.full(keep.sum(), score, np.float32))))
    return out


def as_set(boxes: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.rint(boxes).astype(int).tolist()}


@pytest.mark.parametrize(("tile_size", "overlap"), [(300, 0), (200, 60), (128, 40), (100, 50)])
def test_the_tiles_do_not_show(tile_size, overlap):
    boxes = np.array([[10, 10, 40, 40], [80, 90, 130, 150], [140, 5, 160, 295], [200, 200, 290, 260], [5, 180, 295, 190]])
    parts = seen(boxes, tile_size, overlap)
    found = joined_across_seams(parts, SIZE, SIZE)
    whole = as_set(boxes)
    assert whole <= as_set(found.xyxy)
    # what two tiles saw whole comes twice, which suppression settles; no piece of a box is left
    assert as_set(found.xyxy) == whole


def test_neighbours_at_a_seam_stay_apart():
    boxes = np.array([[60, 20, 98, 60], [102, 20, 140, 60]])
    found = joined_across_seams(seen(boxes, 200, 100), SIZE, SIZE)
    assert as_set(found.xyxy) == as_set(boxes)


def test_the_best_score_counts():
    parts = [
        (Window(0, 0, 200, 300), Located(np.array([[150.0, 10, 200, 60]]), np.array([0.4], np.float32))),
        (Window(100, 0, 200, 300), Located(np.array([[150.0, 10, 240, 60]]), np.array([0.9], np.float32))),
    ]
    found = joined_across_seams(parts, SIZE, SIZE)
    assert found.xyxy.tolist() == [[150, 10, 240, 60]]
    assert found.score.tolist() == pytest.approx([0.9])


def test_nothing_and_nonsense():
    assert len(joined_across_seams([], SIZE, SIZE)) == 0
    assert len(joined_across_seams([(Window(0, 0, 10, 10), Located(np.zeros((0, 4)), np.zeros(0, np.float32)))], 10, 10)) == 0
    odd = np.array([[np.nan, 0, 5, 5], [5, 5, 1, 9], [400, 0, 500, 9], [-9, -9, 4, 4], [0, 0, np.inf, 5]])
    assert Located(odd, np.ones(5, np.float32)).inside(SIZE, SIZE).xyxy.tolist() == [[0, 0, 4, 4]]


@pytest.mark.parametrize(
    ("text", "name"),
    [("The Buildings", "building"), ("glass", "glass"), ("churches", "church"), ("parties", "party"), ("tennis court", "tennis court"),
     ("storage tanks", "storage tank"), ("gas", "gas"), ("", ""), ("the", ""), ("建物", "建物"), ("boxes", "box")],
)  # fmt: skip
def test_plain_names(text, name):
    assert plain_name(text) == name
