"""COCO's segmentations as other programs write them: run lengths and rings, checked before anything is decoded."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from terralabel.errors import InputError

__all__ = ["checked_counts", "checked_rings", "compress", "decompress", "is_whole_number"]

#: Characters of one compressed run length: 7 x 5 bits hold every length that fits 32 bits with its sign.
_MAX_CHARACTERS = 7


def compress(runs: np.ndarray, offsets: np.ndarray) -> list[str]:
    """COCO's compressed run lengths, one string per mask, as pycocotools writes them."""
    runs = np.asarray(runs, dtype=np.int64)
    index = np.arange(runs.size) - np.repeat(offsets[:-1], np.diff(offsets))
    value = runs.copy()
    later = np.flatnonzero(index > 2)
    value[later] -= runs[later - 2]
    characters = np.zeros((runs.size, _MAX_CHARACTERS), dtype=np.uint8)
    used = np.zeros((runs.size, _MAX_CHARACTERS), dtype=bool)
    more = np.ones(runs.size, dtype=bool)
    for k in range(_MAX_CHARACTERS):
        low = value & 31
        value >>= 5
        used[:, k] = more
        go_on = np.where(low & 16, value != -1, value != 0)
        characters[:, k] = low + 32 * go_on + 48
        more = more & go_on
    text = characters[used].tobytes().decode("ascii")
    ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))])[offsets]
    return [text[a:b] for a, b in pairwise(ends)]


def decompress(text: str) -> np.ndarray:
    """Run lengths (int64) of one compressed string; `InputError` for anything that is not one. Totals are not checked."""
    raw = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if raw.size == 0 or raw.min() < 0 or raw.max() > 63:
        raise InputError("not a compressed run length: characters outside '0'..'o'", "bad-rle")
    ends = np.flatnonzero(raw < 32)
    if ends.size == 0 or ends[-1] != raw.size - 1:
        raise InputError("the run length is cut off", "bad-rle")
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > _MAX_CHARACTERS:
        raise InputError("a run length is too large", "bad-rle")
    place = np.arange(raw.size) - np.repeat(starts, digits)
    value = np.add.reduceat((raw & 31) << (5 * place), starts)
    value = np.where(raw[ends] & 16, value - (np.int64(1) << (5 * digits)), value)
    value[1::2] = np.cumsum(value[1::2])
    value[2::2] = np.cumsum(value[2::2])
    return value


def is_whole_number(value: Any) -> bool:
    """True for an int that is no bool: JSON's true is no id."""
    return isinstance(value, int) and not isinstance(value, bool)


def checked_counts(segmentation: dict[str, Any], width: int, height: int) -> np.ndarray:
    """Run lengths (int64, zeros first) of a COCO segmentation `{"size", "counts"}` for an image of this size.

    `InputError` when they are of another size, cut off, negative, or do not add up: pycocotools would give uninitialised memory.
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise InputError(f"RLE of size {size!r}, the image is [{height}, {width}]", "rle-size")
    if isinstance(counts, str):
        if len(counts) > 7 * (width * height + 1):
            raise InputError("RLE is longer than the image has pixels", "rle-long")
        runs = decompress(counts)
    elif isinstance(counts, list) and counts and all(is_whole_number(v) and abs(v) <= width * height for v in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise InputError("RLE counts are not a list of whole numbers within the image", "bad-rle")
    if runs.min() < 0:
        raise InputError("RLE has a negative run", "rle-negative")
    if runs.max() > width * height or runs.sum() != width * height:
        status = "rle-short" if runs.sum() < width * height else "rle-long"
        raise InputError(f"RLE adds up to {int(runs.sum())} pixels, the image has {width * height}", status)
    return runs


def checked_rings(parts: list[Any]) -> list[np.ndarray]:
    """Outer rings (n, 2) float64 xy of a COCO polygon `[[x, y, x, y, ...], ...]`; `InputError` for what is none."""
    rings = []
    for part in parts:
        if not isinstance(part, list) or len(part) % 2 or len(part) < 6:
            raise InputError("a polygon has fewer than 3 points", "few-points")
        if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in part):
            raise InputError("a polygon has coordinates that are no finite numbers", "bad-coordinates")
        rings.append(np.array(part, dtype=np.float64).reshape(-1, 2))
    if not rings:
        raise InputError("no polygon", "few-points")
    return rings
