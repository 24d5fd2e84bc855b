"""Many masks as flat run lengths: encode, decode, measure, pool and paint without full-size arrays.

A mask is COCO's uncompressed run-length code: pixels in *column-major* order (down the first column, then the next),
alternating runs of zeros and ones that start with zeros (so the first run may be 0 long), whose lengths add up to H * W.
`n` masks are two arrays: `runs` (all lengths one after the other, uint32) and `offsets` ((n + 1,) int64).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from terralabel.errors import ContractError

__all__ = [
    "areas",
    "boxes",
    "concatenate",
    "decode_box",
    "encode",
    "encode_boxed",
    "from_edges",
    "intervals",
    "sums",
    "validate",
]


def _starts_with_zeros(flat: np.ndarray) -> np.ndarray:
    """Run lengths, zeros first, of a flat bool array."""
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], change, [flat.size]])
    lengths = np.diff(edges)
    if flat.size and flat[0]:
        lengths = np.concatenate([[0], lengths])
    return lengths.astype(np.uint32)


def encode(mask: np.ndarray) -> np.ndarray:
    """Run lengths (uint32) of one (H, W) bool mask."""
    return _starts_with_zeros(np.ascontiguousarray(mask.T).ravel().astype(bool))


def encode_boxed(crop: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """Run lengths (uint32) in the frame `size` = (H, W) of a mask given as a (h, w) bool crop whose first pixel is (x, y).

    Costs the crop's area, not the frame's.
    """
    height, width = size
    h, w = crop.shape
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise ContractError(f"Mask crop {w} x {h} at ({x}, {y}) does not fit the frame {width} x {height}.")
    padded = np.zeros((w, h + 2), dtype=np.int8)
    padded[:, 1:-1] = crop.T
    edges = np.flatnonzero(np.diff(padded.ravel()))  # alternates first and past-the-last, column by column
    edges = edges[edges % (h + 2) <= h]
    column, row = edges // (h + 2), edges % (h + 2)
    position = (column + x).astype(np.int64) * height + row + y
    first, stop = position[0::2], position[1::2]
    if first.size == 0:
        return np.array([height * width], dtype=np.uint32)
    joined = first[1:] == stop[:-1]  # a run that goes on at the top of the next column
    first, stop = first[np.concatenate([[True], ~joined])], stop[np.concatenate([~joined, [True]])]
    lengths = np.diff(np.concatenate([[0], np.stack([first, stop], 1).ravel(), [height * width]]))
    return lengths[:-1].astype(np.uint32) if lengths[-1] == 0 else lengths.astype(np.uint32)


def from_edges(edges: np.ndarray, pixels: int) -> np.ndarray:
    """Run lengths (uint32) of a mask that begins and ends, by turns, at rising column-major positions `edges` (k,).

    `pixels` is H * W; a mask that goes on to the last pixel needs no edge there.
    """
    lengths = np.diff(np.concatenate([[0], edges, [pixels]]))
    return lengths[:-1].astype(np.uint32) if len(edges) and edges[-1] == pixels else lengths.astype(np.uint32)


def concatenate(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(runs, offsets) of single codes."""
    offsets = np.concatenate([[0], np.cumsum([len(code) for code in codes])]).astype(np.int64)
    runs = np.concatenate(codes).astype(np.uint32) if len(codes) else np.zeros(0, dtype=np.uint32)
    return runs, offsets


def validate(runs: np.ndarray, offsets: np.ndarray, size: tuple[int, int]) -> None:
    """Raise `ContractError` unless every code adds up to H * W.

    Code that is too short makes pycocotools return uninitialised memory, so whatever is read is checked here.
    """
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(runs) or np.any(np.diff(offsets) <= 0):
        raise ContractError("Run-length offsets do not describe the runs: the file is damaged.")
    totals = np.add.reduceat(runs.astype(np.int64), offsets[:-1]) if len(offsets) > 1 else np.zeros(0, dtype=np.int64)
    wrong = np.flatnonzero(totals != size[0] * size[1])
    if wrong.size:
        raise ContractError(
            f"Mask {int(wrong[0])}: run lengths add up to {int(totals[wrong[0]])}, expected {size[0]} x {size[1]} = {size[0] * size[1]}."
        )


def intervals(runs: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mask index, first, stop) int64 of every run of ones, as positions in column-major order, in mask order."""
    ends = np.cumsum(runs, dtype=np.int64)
    base = np.concatenate([[0], ends])[offsets[:-1]]
    count = np.diff(offsets)
    owner = np.repeat(np.arange(len(count)), count)
    ends -= base[owner]
    within = np.arange(len(runs)) - offsets[owner]
    ones = (within % 2 == 1) & (runs > 0)
    stop = ends[ones]
    return owner[ones], stop - runs[ones], stop


def areas(runs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Pixels of each mask, (n,) int64."""
    owner, first, stop = intervals(runs, offsets)
    return np.bincount(owner, stop - first, len(offsets) - 1).astype(np.int64)


def boxes(runs: np.ndarray, offsets: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Tight boxes (n, 4) int32 xywh; zeros for an empty mask."""
    height = size[0]
    n = len(offsets) - 1
    owner, first, stop = intervals(runs, offsets)
    out = np.zeros((n, 4), dtype=np.int32)
    if not owner.size:
        return out
    last = stop - 1
    spans = last // height > first // height  # a run over several columns touches the top and the bottom row
    head = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    top = np.minimum.reduceat(np.where(spans, 0, first % height), head)
    bottom = np.maximum.reduceat(np.where(spans, height - 1, last % height), head)
    left = np.minimum.reduceat(first // height, head)
    right = np.maximum.reduceat(last // height, head)
    out[owner[head]] = np.stack([left, top, right - left + 1, bottom - top + 1], 1)
    return out


def decode_box(code: np.ndarray, box: Iterable[int], size: tuple[int, int]) -> np.ndarray:
    """The (h, w) bool crop of one mask inside `box` = (x, y, w, h), which must lie in the frame."""
    x, y, w, h = (int(v) for v in box)
    height = size[0]
    edges = np.cumsum(code, dtype=np.int64)
    if w == 0 or h == 0:
        return np.zeros((h, w), dtype=bool)
    first, stop = edges[0::2], edges[1::2]
    first = first[: len(stop)]
    strip_first, strip_stop = x * height, (x + w) * height
    keep = (stop > strip_first) & (first < strip_stop)
    first = np.maximum(first[keep], strip_first) - strip_first
    stop = np.minimum(stop[keep], strip_stop) - strip_first
    delta = np.zeros(w * height + 1, dtype=np.int8)
    delta[first] += 1
    delta[stop] -= 1
    strip = np.cumsum(delta[:-1], dtype=np.int8).astype(bool).reshape(w, height)
    return np.ascontiguousarray(strip[:, y : y + h].T)


def sums(runs: np.ndarray, offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum of `values` over each mask, (n, C) float64, for `values` (H, W, C) of any real dtype.

    Exact to float64 rounding: sums of runs are differences of one cumulative sum in column-major order, so the cost is
    one pass over the image plus the number of runs, whatever the number and size of masks.
    """
    n = len(offsets) - 1
    owner, first, stop = intervals(runs, offsets)
    out = np.zeros((n, values.shape[2]), dtype=np.float64)
    for channel in range(values.shape[2]):
        total = np.zeros(values.shape[0] * values.shape[1] + 1)
        np.cumsum(values[:, :, channel].T.ravel(), dtype=np.float64, out=total[1:])
        out[:, channel] = np.bincount(owner, total[stop] - total[first], n)
    return out
