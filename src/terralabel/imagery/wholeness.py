"""Is a file all there? Answered from its structure, before any pixel is decoded.

GDAL opens truncated files, and reads some of them (PNG) without a word: zeros where the rest was.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from terralabel.errors import InputError
from terralabel.imagery.sniff import open_regular

__all__ = ["refuse_truncated"]

#: TIFF field types -> NumPy's.
_TIFF_TYPES = {3: "u2", 4: "u4", 16: "u8"}
_OFFSETS, _COUNTS = {273, 324}, {279, 325}
_COMPRESSION = 259


def refuse_truncated(path: Path, driver: str) -> None:
    """Raise `InputError` (status "truncated") when the format's own lengths reach past the end of the file."""
    missing = _CHECKS.get(driver)
    if missing is None:
        return
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        try:
            missing_part = missing(handle, size)
        except (struct.error, ValueError, OverflowError):  # fewer bytes than a header has
            missing_part = "its header"
    if missing_part:
        raise InputError(
            f"{path} is cut short ({size} bytes): {missing_part} is missing; copy or download it again.", "truncated"
        )


def _png_missing(handle: BinaryIO, size: int) -> str | None:
    """Chunks must follow one another up to IEND."""
    position = 8
    while position + 12 <= size:
        handle.seek(position)
        length, kind = struct.unpack(">I4s", handle.read(8))
        if kind == b"IEND":
            return None
        position += 12 + length
    return "the last part of the picture"


def _jpeg_missing(handle: BinaryIO, size: int) -> str | None:
    """An end marker must be near the end; inside compressed data its two bytes never follow one another."""
    handle.seek(max(size - (64 << 10), 0))
    return None if b"\xff\xd9" in handle.read() else "the end of the picture"


def _bmp_missing(handle: BinaryIO, size: int) -> str | None:
    handle.seek(10)
    (first,) = struct.unpack("<I", handle.read(4))
    handle.seek(18)
    width, height, _, bits, packed = struct.unpack("<iiHHI", handle.read(16))
    rows = (abs(width) * bits + 31) // 32 * 4 * abs(height)
    return "the last part of the picture" if packed in (0, 3) and first + rows > size else None


def _jp2_missing(handle: BinaryIO, size: int) -> str | None:
    """Boxes must end inside the file; a codestream that runs to the end must close with its end marker."""
    position = 0
    if handle.read(4) != b"\xff\x4f\xff\x51":
        while True:
            handle.seek(position)
            head = handle.read(8)
            if not head:
                return None
            length, kind = struct.unpack(">I4s", head)
            if length == 1:
                (length,) = struct.unpack(">Q", handle.read(8))
            if length == 0:
                break
            if position + length > size or length < 8:
                return f"part of the box {kind!r}"
            position += length
    handle.seek(max(size - 2, 0))
    return None if handle.read(2) == b"\xff\xd9" else "the end of the codestream"


def _tiff_missing(handle: BinaryIO, size: int) -> str | None:
    """The first directory, its tables, and every strip or tile they name must end inside the file."""
    head = handle.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    (directory,) = struct.unpack(order + "Q", head[8:16]) if big else struct.unpack(order + "I", head[4:8])
    if directory + 8 > size:
        return "the directory"
    entries = _tiff_entries(handle, directory, order, big)
    offsets = next((_tiff_values(handle, entries[tag], order, big, size) for tag in _OFFSETS & entries.keys()), None)
    counts = next((_tiff_values(handle, entries[tag], order, big, size) for tag in _COUNTS & entries.keys()), None)
    if offsets is None or counts is None or len(offsets) != len(counts):
        return None  # odd or without pixels: GDAL says what it thinks of it
    compression = _tiff_values(handle, entries[_COMPRESSION], order, big, size) if _COMPRESSION in entries else None
    if len(offsets) == 1 and (compression is None or (compression == 1).all()):
        return "the picture" if offsets[0] >= size else None  # GDAL computes the length of a single raw strip itself
    last = int((offsets + counts).max(initial=0))
    return f"what follows byte {size} of {last}" if last > size else None


def _tiff_entries(handle: BinaryIO, directory: int, order: str, big: bool) -> dict[int, tuple[int, int, bytes]]:
    """tag -> (type, count, value field) of one directory."""
    handle.seek(directory)
    (number,) = struct.unpack(order + ("Q" if big else "H"), handle.read(8 if big else 2))
    step, layout = (20, "HHQ8s") if big else (12, "HHI4s")
    table = handle.read(step * min(number, 65535))
    if len(table) < step * min(number, 65535):
        raise ValueError("directory past the end")
    return {tag: (kind, count, value) for tag, kind, count, value in struct.iter_unpack(order + layout, table)}


def _tiff_values(handle: BinaryIO, entry: tuple[int, int, bytes], order: str, big: bool, size: int) -> np.ndarray | None:
    """The integers of one field as uint64, or None for a type that is none."""
    kind, count, field = entry
    if kind not in _TIFF_TYPES:
        return None
    dtype = np.dtype(order + _TIFF_TYPES[kind])
    length = count * dtype.itemsize
    if length > len(field):
        (at,) = struct.unpack(order + ("Q" if big else "I"), field)
        if at + length > size:
            raise ValueError("table past the end")
        handle.seek(at)
        field = handle.read(length)
    return np.frombuffer(field, dtype, count).astype(np.uint64)


_CHECKS: dict[str, Callable[[BinaryIO, int], str | None]] = {
    "GTiff": _tiff_missing,
    "PNG": _png_missing,
    "JPEG": _jpeg_missing,
    "JP2OpenJPEG": _jp2_missing,
    "BMP": _bmp_missing,
}
