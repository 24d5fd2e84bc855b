"""Painting: the smallest mask on top, nothing lost, nothing wrapped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terralabel.core.masks import Masks
from terralabel.errors import ContractError
from terralabel.labels.paint import cover, paint, painting_order


def by_hand(pictures, values, areas, fill):
    out = np.full(pictures[0].shape, fill)
    for i in sorted(range(len(pictures)), key=lambda i: (-areas[i], i)):
        out[pictures[i]] = values[i]
    return out


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 12).flatmap(lambda n: arrays(bool, st.tuples(st.just(n), st.integers(1, 17), st.integers(1, 13)))),
    st.integers(0, 2**32 - 1),
)
def test_paint_equals_pasting_largest_first(pictures, seed):
    rng = np.random.default_rng(seed)
    values, areas = rng.integers(0, 1000, len(pictures)), rng.integers(1, 5, len(pictures))
    masks = Masks.from_arrays(list(pictures))
    got = paint(masks, values, fill=1234)
    assert got.dtype == np.uint16 and got.flags.c_contiguous
    assert np.array_equal(got, by_hand(pictures, values, masks.area, 1234))
    assert np.array_equal(paint(masks, values, areas=areas, fill=1234), by_hand(pictures, values, areas, 1234))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 40), st.integers(0, 40)), max_size=20))
def test_cover_is_the_highest_rank_at_each_place(rows):
    expected = np.full(40, -1)
    for rank, start, stop in sorted(rows):
        expected[start:stop] = rank
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    assert np.array_equal(cover(*columns, 40), expected)


def test_cluster_0_is_painted_and_what_nobody_covers_is_fill():
    whole, part = np.ones((6, 6), bool), np.zeros((6, 6), bool)
    whole[0] = False
    part[2:4, 2:4] = True
    labels = paint(Masks.from_arrays([part, whole]), np.array([0, 7]))
    assert (labels[0] == 255).all() and (labels[2:4, 2:4] == 0).all() and labels[5, 5] == 7
    assert (paint(Masks.empty((3, 4)), np.zeros(0, int)) == 255).all()


def test_ids_past_255_do_not_wrap():
    pictures = np.eye(300, dtype=bool).reshape(300, 15, 20)
    labels = paint(Masks.from_arrays(list(pictures)), np.arange(300) * 200, fill=65535)
    assert labels.dtype == np.uint16 and labels.ravel().tolist() == (np.arange(300) * 200).tolist()
    assert paint(Masks.from_arrays(list(pictures)), np.arange(300) * 300).dtype == np.int32
    assert paint(Masks.from_arrays(list(pictures)), np.arange(300) - 1).min() == -1
    with pytest.raises(ContractError, match="do not fit uint8"):
        paint(Masks.from_arrays(list(pictures)), np.arange(300), dtype=np.uint8)


def test_equal_areas_are_painted_by_id():
    a, b = np.zeros((2, 4, 4), dtype=bool)
    a[:2], b[1:3] = True, True
    masks = Masks.from_arrays([a, b])
    assert paint(masks, np.array([1, 2]))[1, 0] == 2
    assert paint(masks, np.array([1, 2]), ids=np.array([9, 3]))[1, 0] == 1
    assert painting_order(np.array([5, 9, 5]), np.array([2, 3, 1])).tolist() == [2, 0, 1]


def test_one_value_for_each_mask():
    with pytest.raises(ContractError, match="expected 1 values, one for each mask, got 2"):
        paint(Masks.from_arrays([np.ones((2, 2), bool)]), np.array([1, 2]))
