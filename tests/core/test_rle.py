from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from terralabel.core import rle
from terralabel.errors import ContractError

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14))


@st.composite
def many(draw: st.DrawFn) -> list[np.ndarray]:
    shape = draw(arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))
    return draw(st.lists(arrays.arrays(bool, shape), min_size=1, max_size=6))


def reference(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))


@given(masks)
@settings(max_examples=200, deadline=None)
def test_code_is_what_pycocotools_decodes(mask: np.ndarray) -> None:
    code = rle.encode(mask)
    height, width = mask.shape
    assert code.dtype == np.uint32 and int(code.sum()) == mask.size
    assert (code[1:] > 0).all()
    theirs = coco.frPyObjects({"size": [height, width], "counts": code.tolist()}, height, width)
    assert theirs["counts"] == reference(mask)["counts"]
    assert np.array_equal(rle.decode_box(code, (0, 0, width, height), mask.shape), mask)


@given(many())
@settings(max_examples=150, deadline=None)
def test_areas_boxes_and_sums_are_those_of_plain_numpy(found: list[np.ndarray]) -> None:
    size = found[0].shape
    runs, offsets = rle.concatenate([rle.encode(m) for m in found])
    rle.validate(runs, offsets, size)
    assert rle.areas(runs, offsets).tolist() == [int(m.sum()) for m in found]
    boxes = rle.boxes(runs, offsets, size)
    values = np.random.default_rng(0).random((*size, 2))
    sums = rle.sums(runs, offsets, values)
    for mask, box, total in zip(found, boxes, sums, strict=True):
        assert np.allclose(total, values[mask].sum(0))
        assert box.tolist() == coco.toBbox(reference(mask)).tolist()
        x, y, w, h = box.tolist()
        assert np.array_equal(rle.decode_box(rle.encode(mask), box, size), mask[y : y + h, x : x + w])


@given(masks, st.data())
@settings(max_examples=200, deadline=None)
def test_a_crop_gives_the_code_of_the_whole(crop: np.ndarray, data: st.DataObject) -> None:
    x, y, right, below = (data.draw(st.integers(0, 4)) for _ in range(4))
    size = (y + crop.shape[0] + below, x + crop.shape[1] + right)
    whole = np.zeros(size, bool)
    whole[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
    assert rle.encode_boxed(crop, x, y, size).tolist() == rle.encode(whole).tolist()
    assert np.array_equal(rle.decode_box(rle.encode(whole), (x, y, crop.shape[1], crop.shape[0]), size), crop)


@given(many())
@settings(max_examples=100, deadline=None)
def test_intervals_are_the_ones(found: list[np.ndarray]) -> None:
    runs, offsets = rle.concatenate([rle.encode(m) for m in found])
    flat = np.zeros((len(found), found[0].size), bool)
    for owner, first, stop in zip(*rle.intervals(runs, offsets), strict=True):
        assert not flat[owner, first:stop].any() and stop > first
        flat[owner, first:stop] = True
    assert np.array_equal(flat, np.stack([m.T.ravel() for m in found]))


@pytest.mark.parametrize(
    "runs, offsets",
    [
        ([5], [0, 1]),  # too short: pycocotools would return uninitialised memory
        ([7], [0, 1]),
        ([6, 4294967290], [0, 2]),  # would wrap to 0 in 32 bits
        ([6], [0, 2]),
        ([6], [1, 1]),
        ([6], [0, 0, 1]),
        ([6], []),
    ],
)
def test_what_does_not_add_up_is_refused(runs: list[int], offsets: list[int]) -> None:
    with pytest.raises(ContractError):
        rle.validate(np.array(runs, np.uint32), np.array(offsets, np.int64), (2, 3))


@pytest.mark.parametrize("x, y", [(-1, 0), (0, -1), (3, 0), (0, 2)])
def test_a_crop_that_leaves_the_frame_is_refused(x: int, y: int) -> None:
    with pytest.raises(ContractError, match="does not fit"):
        rle.encode_boxed(np.ones((2, 2), bool), x, y, (3, 4))


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=9)))
@settings(max_examples=80, deadline=None)
def test_edges_give_the_code(mask: np.ndarray) -> None:
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    np.testing.assert_array_equal(rle.from_edges(edges, mask.size), rle.encode(mask))
    open_end = edges[:-1] if len(edges) and edges[-1] == mask.size else edges
    np.testing.assert_array_equal(rle.from_edges(open_end, mask.size), rle.encode(mask))
