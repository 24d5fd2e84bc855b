from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from terralabel.core.masks import Masks
from terralabel.errors import ContractError


@st.composite
def many(draw: st.DrawFn) -> tuple[tuple[int, int], list[np.ndarray]]:
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=10))
    return shape, draw(st.lists(arrays.arrays(bool, shape), max_size=6))


@given(many())
@settings(max_examples=100, deadline=None)
def test_round_trip_and_what_is_derived(found: tuple[tuple[int, int], list[np.ndarray]]) -> None:
    size, plain = found
    masks = Masks.from_arrays(plain, size)
    assert len(masks) == len(plain)
    for i, (mask, back) in enumerate(zip(plain, masks, strict=True)):
        assert np.array_equal(mask, back)
        x, y, w, h = masks.bbox[i].tolist()
        assert np.array_equal(masks.crop(i), mask[y : y + h, x : x + w]) and masks.crop(i).sum() == mask.sum()
        if mask.any():
            column, row = np.floor(masks.point_coords[i]).astype(int)
            assert mask[row, column]
    assert masks.sums(np.ones((*size, 1)))[:, 0].tolist() == masks.area.tolist() == [int(m.sum()) for m in plain]


@given(many(), st.data())
@settings(max_examples=100, deadline=None)
def test_select_by_index_and_by_flag(found: tuple[tuple[int, int], list[np.ndarray]], data: st.DataObject) -> None:
    size, plain = found
    masks = Masks.from_arrays(plain, size)
    which = data.draw(st.lists(st.integers(0, len(plain) - 1), max_size=8)) if plain else []
    chosen = masks.select(np.array(which, np.int64))
    assert len(chosen) == len(which) and all(np.array_equal(m, plain[i]) for m, i in zip(chosen, which, strict=True))
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=len(plain), max_size=len(plain))), bool)
    assert masks.select(flags).area.tolist() == masks.area[flags].tolist()


def test_none_at_all() -> None:
    masks = Masks.empty((4, 5))
    assert len(masks) == 0 and list(masks) == [] and masks.bbox.shape == (0, 4)
    assert masks.sums(np.ones((4, 5, 3))).shape == (0, 3)
    with pytest.raises(ContractError, match="give `size`"):
        Masks.from_arrays([])


def test_columns_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(ContractError, match=r"Masks\.predicted_iou: expected \(1,\) float32, got \(2,\)"):
        Masks.from_arrays([np.ones((3, 3), bool)], predicted_iou=np.ones(2))
    with pytest.raises(ContractError, match=r"expected values of \(3, 3\)"):
        Masks.from_arrays([np.ones((3, 3), bool)]).sums(np.ones((3, 4, 1)))


@given(many(), st.data())
@settings(max_examples=60, deadline=None)
def test_within_valid_pixels_covered_and_joined(found: tuple[tuple[int, int], list[np.ndarray]], data: st.DataObject) -> None:
    size, plain = found
    masks = Masks.from_arrays(plain, size, predicted_iou=np.linspace(0, 1, len(plain), dtype=np.float32))
    valid = data.draw(arrays.arrays(bool, size))
    inside = masks.within(valid)
    assert all(np.array_equal(ours, mask & valid) for ours, mask in zip(inside, plain, strict=True))
    assert np.array_equal(inside.predicted_iou, masks.predicted_iou)
    assert np.array_equal(masks.covered(), np.any([np.zeros(size, bool), *plain], axis=0))
    cut = len(plain) // 2
    parts = [masks.select(np.arange(cut)), Masks.empty(size), masks.select(np.arange(cut, len(plain)))]
    joined = Masks.join(parts, size)
    assert np.array_equal(joined.runs, masks.runs) and np.array_equal(joined.point_coords, masks.point_coords)
    with pytest.raises(ContractError, match="expected valid pixels"):
        masks.within(np.ones((size[0] + 1, size[1]), dtype=bool))
