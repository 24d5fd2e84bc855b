"""What is seen of masks once they are painted, and what is measured there."""

from __future__ import annotations

import numpy as np

from terralabel.core.masks import Masks
from terralabel.core.tile import Tile
from terralabel.features.appearance import measure
from terralabel.features.regions import Regions


def box(x: int, y: int, width: int, height: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def seen_by_hand(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Painted one by one, largest first; a mask without a pixel left is taken whole."""
    top = np.full(arrays[0].shape, -1)
    for i in sorted(range(len(arrays)), key=lambda i: (-arrays[i].sum(), i)):
        top[arrays[i]] = i
    return [top == i if (top == i).any() else mask for i, mask in enumerate(arrays)]


def test_visible_is_what_painting_leaves():
    rng = np.random.default_rng(0)
    arrays = [box(*rng.integers(0, 30, 2), *rng.integers(1, 30, 2)) for _ in range(30)]
    arrays += [rng.random((40, 60)) < 0.2, box(3, 3, 4, 4), box(3, 3, 4, 4), box(0, 0, 60, 40)]
    values = rng.random((40, 60))
    visible = Regions(Masks.from_arrays(arrays)).visible()
    by_hand = seen_by_hand(arrays)
    np.testing.assert_array_equal(visible.area, [mask.sum() for mask in by_hand])
    np.testing.assert_allclose(visible.means([np.ascontiguousarray(values.T)])[:, 0], [values[mask].mean() for mask in by_hand])


def test_visible_of_masks_apart_is_all_of_them():
    regions = Regions(Masks.from_arrays([box(0, 0, 10, 10), box(20, 5, 3, 30), np.zeros((40, 60), bool)]))
    visible = regions.visible()
    for name in ("owner", "first", "stop", "area"):
        np.testing.assert_array_equal(getattr(visible, name), getattr(regions, name))
    assert len(Regions(Masks.empty((40, 60))).visible().owner) == 0


def test_a_whole_looks_like_what_its_parts_leave_of_it():
    yard, roof = box(5, 5, 30, 30), box(10, 10, 25, 25)
    pixels = np.where(roof, 250, np.where(yard, 60, 20)).astype(np.uint8)
    found = measure(Tile.from_array(np.dstack([pixels] * 3)), Masks.from_arrays([yard, roof]))
    alone = measure(Tile.from_array(np.dstack([pixels] * 3)), Masks.from_arrays([yard]))
    assert found["tone"][0, 0] < alone["tone"][0, 0] - 10
    assert found["deviation"][0, 0] < alone["deviation"][0, 0]
