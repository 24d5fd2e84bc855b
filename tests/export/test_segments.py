import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from terralabel.core import rle
from terralabel.errors import InputError
from terralabel.export.segments import compress, decompress, run_segments, to_frame

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24), elements=st.booleans())


@given(masks)
@settings(max_examples=150, deadline=None)
def test_compressed_codes_equal_pycocotools_and_come_back(mask):
    runs, offsets = rle.concatenate([rle.encode(mask), rle.encode(~mask)])
    ours = compress(runs, offsets)
    for text, array in zip(ours, (mask, ~mask), strict=True):
        assert text.encode() == coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))["counts"]
        assert decompress(text).tolist() == rle.encode(array).tolist()


@given(masks)
@settings(max_examples=100, deadline=None)
def test_segments_go_back_to_the_same_runs(mask):
    runs, offsets = rle.concatenate([rle.encode(mask), rle.encode(np.zeros_like(mask)), rle.encode(mask)])
    again, again_offsets = to_frame(run_segments(runs, offsets, mask.shape[0]), mask.shape)
    assert again.tolist() == runs.tolist()
    assert again_offsets.tolist() == offsets.tolist()


def test_runs_with_empty_gaps_are_joined():
    code = np.array([1, 2, 0, 3, 4], dtype=np.uint32)  # ones at 1..5, written as two runs
    segments = run_segments(code, np.array([0, 5]), 5)
    assert list(zip(segments.column, segments.top, segments.bottom, strict=True)) == [(0, 1, 5), (1, 0, 1)]


def test_moving_into_a_huge_frame_needs_no_pixels():
    mask = np.array([[1, 0], [1, 1]], dtype=bool)
    runs, offsets = rle.concatenate([rle.encode(mask)])
    local = run_segments(runs, offsets, 2)
    moved = type(local)(local.owner, local.column + 40_000, local.top + 50_000, local.bottom + 50_000, 1)
    counts, _ = to_frame(moved, (60_000, 60_000))
    assert counts.sum() == 60_000**2
    assert counts[0] == 40_000 * 60_000 + 50_000
    assert decompress(compress(counts, np.array([0, len(counts)]))[0]).tolist() == counts.tolist()


@pytest.mark.parametrize("text", ["", " ", "PP", "0" + "o" * 9, "é", "~~", "0\n"])
def test_damaged_codes_are_refused(text):
    with pytest.raises(InputError):
        decompress(text)
