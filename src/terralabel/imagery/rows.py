"""Decoded rows kept on disk, for files that store whole rows (PNG, JPEG, striped TIFF).

A window of such a file costs all the rows it touches. Tiles come row by row, so the rows of one row of tiles are decoded
once, kept in a temporary file without a name, and every tile is cut out of it: memory does not grow with the width.
"""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable

import numpy as np

from terralabel.core.grid import Window

__all__ = ["DecodedRows"]

#: Rows are decoded in pieces of about this many bytes.
_PIECE_BYTES = 8 << 20

#: Decodes a window: pixels (H, W, C) and valid (H, W) bool.
Decode = Callable[[Window], tuple[np.ndarray, np.ndarray]]


class DecodedRows:
    """The rows [`start`, `stop`) of an image `width` wide, decoded, in a nameless file that the system removes."""

    def __init__(self, width: int, count: int, dtype: np.dtype, block_rows: int, decode: Decode) -> None:
        self._width, self._count, self._dtype, self._block_rows, self._decode = width, count, dtype, block_rows, decode
        self._pixel_bytes = count * dtype.itemsize
        self._row_bytes = width * (self._pixel_bytes + 1)  # pixels, then validity
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the image is open
        self._capacity = 0
        self.start = self.stop = 0

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and validity of a window; decodes what rows are missing. `OSError` when the disk is full."""
        if window.height > self._capacity:
            self._capacity, self.start, self.stop = window.height, window.y, window.y
        if not self.start <= window.y <= self.stop:
            self.start = self.stop = window.y
        while self.stop < window.bottom:
            self._add(window.bottom)
        return self._cut(window)

    def _add(self, bottom: int) -> None:
        """Decode the next piece, up to a border of the file's own blocks, and write it to its places in the ring."""
        rows = max(_PIECE_BYTES // self._row_bytes, 1)
        stop = -(-(self.stop + rows) // self._block_rows) * self._block_rows
        stop = min(stop, bottom)
        pixels, valid = self._decode(Window(0, self.stop, self._width, stop - self.stop))
        self.start = max(self.start, stop - self._capacity)  # before their places are overwritten
        for row in range(stop - self.stop):
            self._file.seek((self.stop + row) % self._capacity * self._row_bytes)
            written = self._file.write(np.ascontiguousarray(pixels[row]).tobytes() + valid[row].tobytes())
            if written != self._row_bytes:
                raise OSError(errno.ENOSPC, "no space left for decoded rows")
        self.stop = stop

    def _cut(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.empty((window.height, window.width, self._count), self._dtype)
        valid = np.empty((window.height, window.width), bool)
        for row in range(window.height):
            at = (window.y + row) % self._capacity * self._row_bytes
            self._file.seek(at + window.x * self._pixel_bytes)
            self._file.readinto(pixels[row].data)
            self._file.seek(at + self._width * self._pixel_bytes + window.x)
            self._file.readinto(valid[row].data)
        return pixels, valid

    def close(self) -> None:
        """Give the space back."""
        self._file.close()
