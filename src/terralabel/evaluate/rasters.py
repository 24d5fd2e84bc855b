"""Class-id rasters on disk: sniffed, checked, read in strips from the top."""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.classes import IGNORE
from terralabel.errors import InputError

__all__ = ["LabelRaster", "label_files", "open_labels"]

#: Pixels read at a time.
STRIP = 4_000_000

_GDAL = {
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 128,
    "CPL_LOG_ERRORS": "OFF",
}
_SUFFIXES = {".png", ".tif", ".tiff"}
_DRIVERS = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"II*\x00": "GTiff",
    b"MM\x00*": "GTiff",
    b"II+\x00": "GTiff",
    b"MM\x00+": "GTiff",
}


def label_files(folder: Path) -> list[Path]:
    """The PNG and TIFF files in a folder and its subfolders, sorted; links to folders and hidden names are not followed."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: expected one with class-id masks (PNG or TIFF).", "not-a-folder")
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [Path(root) / n for n in names if Path(n).suffix.lower() in _SUFFIXES and not n.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _driver(path: Path) -> str:
    with open(path, "rb") as handle:
        head = handle.read(8)
    for magic, driver in _DRIVERS.items():
        if head.startswith(magic):
            if driver == "PNG":
                _check_png(path)
            return driver
    raise InputError(f"{path} is neither PNG nor TIFF inside: expected a mask with one class id a pixel.", "not-a-raster")


def _check_png(path: Path) -> None:
    """Walk the chunks and their checksums: GDAL reads the missing rows of a truncated PNG as anything, without an error."""
    with open(path, "rb") as handle:
        handle.seek(8)
        kind = b""
        while kind != b"IEND":
            head = handle.read(8)
            left, kind = int.from_bytes(head[:4], "big"), head[4:]
            checksum = zlib.crc32(kind)
            while left and (piece := handle.read(min(left, 1 << 20))):
                checksum, left = zlib.crc32(piece, checksum), left - len(piece)
            stored = handle.read(4)
            if len(head) < 8 or left or len(stored) < 4:
                raise InputError(f"{path} is truncated: copy it again.", "truncated")
            if stored != checksum.to_bytes(4, "big"):
                raise InputError(f"{path} is damaged (a checksum does not fit): copy it again.", "damaged")


@dataclass(frozen=True)
class LabelRaster:
    """An open raster of one band of class ids, 0..65535, `height` x `width`; `nodata` is its declared nodata value."""

    path: Path
    height: int
    width: int
    nodata: int | None
    source: Any

    def strips(self) -> Iterator[np.ndarray]:
        """(h, W) arrays from the top down, each at most about 4 million pixels."""
        from rasterio.windows import Window

        rows = max(1, STRIP // self.width)
        rows = max(rows // 16 * 16, 1)
        for top in range(0, self.height, rows):
            height = min(rows, self.height - top)
            yield _read(self.path, self.source, 1, Window(0, top, self.width, height))

    def checked(self, ids: np.ndarray) -> np.ndarray:
        """The same array; `InputError` with counts when it has ids outside 0..65535 (nodata may be anything)."""
        if ids.dtype in (np.uint8, np.uint16):
            return ids
        wrong = (ids < 0) | (ids > 65535)
        if self.source.nodata is not None:
            missing = ids == self.source.nodata
            wrong &= ~missing
            ids = np.where(missing & ((ids < 0) | (ids > 65535)), IGNORE, ids)
        if wrong.any():
            values, counts = np.unique(ids[wrong], return_counts=True)
            listed = ", ".join(f"{v} ({n} px)" for v, n in list(zip(values, counts, strict=True))[:5])
            raise InputError(f"{self.path} has ids that are no classes: {listed}; expected 0..65535.", "not-class-ids")
        return ids


def _read(path: Path, source: Any, bands: int | list[int], window: Any) -> np.ndarray:
    from rasterio.errors import RasterioError, RasterioIOError

    try:
        return source.read(bands, window=window)
    except (RasterioIOError, RasterioError) as error:
        raise InputError(f"{path} cannot be read: {error}. Is it truncated? Copy it again.", "truncated") from error


@contextmanager
def open_labels(path: Path) -> Iterator[LabelRaster]:
    """Open a class-id mask; `InputError` when it is not one: several bands (the colours are listed), floats, damaged."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # no sidecar is read, none is written, and only the driver that the first bytes name is tried
        with rasterio.Env(**_GDAL):
            try:
                source = rasterio.open(path, driver=_driver(path))
            except (RasterioIOError, OSError) as error:
                raise InputError(f"{path} cannot be opened: {error}.", "unreadable") from error
            with source:
                _check_one_band(path, source)
                nodata = source.nodata
                whole = nodata is not None and float(nodata).is_integer() and 0 <= nodata < 65536
                yield LabelRaster(path, source.height, source.width, int(nodata) if whole else None, source)


def _check_one_band(path: Path, source: Any) -> None:
    if source.count >= 3:
        raise InputError(
            f"{path} is coded in colours ({source.count} bands: {_colours(path, source)}): "
            "expected one band of class ids. Write one id for each colour (255 where there is no label).",
            "rgb-coded",
        )
    if source.count != 1:
        raise InputError(f"{path} has {source.count} bands: expected one band of class ids.", "not-class-ids")
    if np.dtype(source.dtypes[0]).kind not in "ui":
        raise InputError(
            f"{path} is {source.dtypes[0]} ({_fractions(path, source)}): expected whole numbers, one class id a pixel. "
            "Write it as uint8 or uint16.",
            "not-class-ids",
        )


def _first_rows(path: Path, source: Any, bands: int | list[int]) -> np.ndarray:
    from rasterio.windows import Window

    return _read(path, source, bands, Window(0, 0, source.width, min(source.height, max(1, STRIP // source.width))))


def _colours(path: Path, source: Any) -> str:
    rgb = _first_rows(path, source, [1, 2, 3])
    if rgb.dtype != np.uint8:
        return f"{rgb.dtype}"
    packed = rgb[0].astype(np.int64) << 16 | rgb[1].astype(np.int64) << 8 | rgb[2]
    colours, counts = np.unique(packed, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:8]
    listed = ", ".join(f"#{colours[i]:06x} {counts[i]} px" for i in order)
    return listed + (f", and {len(colours) - 8} more colours" if len(colours) > 8 else "")


def _fractions(path: Path, source: Any) -> str:
    values = _first_rows(path, source, 1)
    if values.dtype.kind == "c":
        return "complex numbers"
    broken = int((~np.isfinite(values)).sum())
    fractions = int((np.isfinite(values) & (values != np.floor(values))).sum())
    return f"{fractions} of {values.size} pixels are fractions, {broken} are not finite"
