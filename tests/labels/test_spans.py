"""Spans against plain arrays."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from terralabel.core import rle
from terralabel.core.grid import Window
from terralabel.core.masks import Masks
from terralabel.labels.spans import Spans, encode, spans_of, unite

pictures = arrays(bool, array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9))


def draw(spans: Spans, n: int, size: tuple[int, int]) -> np.ndarray:
    """How often each pixel is covered, (n, H, W)."""
    out = np.zeros((n, *size), dtype=int)
    for owner, column, first, stop in zip(spans.owner, spans.column, spans.first, spans.stop, strict=True):
        out[owner, first:stop, column] += 1
    return out


@settings(max_examples=60, deadline=None)
@given(pictures, st.data())
def test_spans_are_the_mask_inside_the_window(picture, data):
    n, height, width = picture.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = Window(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    which = data.draw(st.permutations(range(n)))
    masks = Masks.from_arrays(list(picture), (height, width))
    expected = np.zeros_like(picture)
    expected[(slice(None), *window.slices())] = picture[(which, *window.slices())]
    got = spans_of(masks, np.array(which), window)
    assert np.array_equal(draw(got, n, (height, width)), expected)
    assert np.array_equal(got.areas(n), expected.sum((1, 2)))
    assert np.array_equal(draw(spans_of(masks, np.arange(n)), n, (height, width)), picture)


@settings(max_examples=60, deadline=None)
@given(pictures, st.integers(-5, 5), st.integers(0, 5))
def test_union_and_encoding_survive_shuffled_overlapping_parts(picture, x, y):
    n, height, width = picture.shape
    picture[:, 0, 0] = True  # nobody is empty
    masks = Masks.from_arrays(list(picture), (height, width))
    spans = spans_of(masks, np.arange(n))
    halves = Spans(spans.owner, spans.column, spans.first, (spans.first + spans.stop + 1) // 2)
    mixed = Spans.join([spans, halves]).take(np.random.default_rng(0).permutation(2 * len(spans)))
    united = unite(mixed.moved(x, y))
    assert np.array_equal(draw(united.moved(-x, -y), n, (height, width)), picture)
    assert len(united) == len(spans)
    runs, offsets, bbox = encode(united, n)
    for i in range(n):
        left, top, wide, high = bbox[i] - [x, y, 0, 0]
        crop = picture[i, top : top + high, left : left + wide]
        assert crop.sum() == picture[i].sum() and crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()
        assert np.array_equal(runs[offsets[i] : offsets[i + 1]], rle.encode(crop))
    assert runs.dtype == np.uint32 and bbox.dtype == np.int64


def test_nothing_stays_nothing():
    empty = Spans.join([])
    assert len(unite(empty)) == 0
    runs, offsets, bbox = encode(empty, 0)
    assert len(runs) == 0 and offsets.tolist() == [0] and bbox.shape == (0, 4)
    assert len(spans_of(Masks.empty((4, 5)), np.arange(0), Window(0, 0, 2, 2))) == 0
