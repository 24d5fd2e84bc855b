"""What a file really is, from its first bytes: a suffix is a wish."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from terralabel.errors import InputError

__all__ = ["open_regular", "sniff"]

#: (offset, magic bytes, GDAL driver): the formats that are read.
_RASTERS = (
    (0, b"II*\x00", "GTiff"),
    (0, b"MM\x00*", "GTiff"),
    (0, b"II+\x00\x08\x00", "GTiff"),
    (0, b"MM\x00+\x00\x08", "GTiff"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (0, b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)

#: (offset, magic bytes, what it is): what people hand in by mistake, so that the message can say it.
_OTHERS = (
    (0, b"version https://git-lfs", "a Git LFS pointer (run `git lfs pull` to get the file it stands for)"),
    (0, b"PK\x03\x04", "a zip archive (unpack it first)"),
    (0, b"\x1f\x8b", "a gzip file (unpack it first)"),
    (257, b"ustar", "a tar archive (unpack it first)"),
    (0, b"PAR1", "a Parquet file"),
    (0, b"SQLite format 3\x00", "an SQLite file (GeoPackage?)"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5/NetCDF file (convert it with gdal_translate)"),
    (0, b"CDF", "a NetCDF file (convert it with gdal_translate)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"GIF8", "a GIF (convert it to PNG)"),
    (8, b"WEBP", "a WebP picture (convert it to PNG)"),
    (0, b"%PDF", "a PDF"),
    (0, b"NITF", "a NITF file (convert it with gdal_translate)"),
    (0, b"EHFA_HEADER_TAG", "an ERDAS IMAGINE file (convert it with gdal_translate)"),
)

_WHY_NOT_OPENED = {
    errno.ENOENT: ("vanished", "is no longer there"),
    errno.ENOTDIR: ("vanished", "is no longer there"),
    errno.ELOOP: ("symlink-loop", "is a symbolic link that leads back to itself"),
    errno.EACCES: ("permission", "may not be read: no permission"),
    errno.EPERM: ("permission", "may not be read: no permission"),
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading without ever blocking: FIFOs, sockets and devices raise `InputError`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise InputError(f"{path} is a socket or device; expected a file.", "not-a-file") from error
        status, why = _WHY_NOT_OPENED.get(error.errno or 0, ("unreadable", f"cannot be opened: {error.strerror}"))
        raise InputError(f"{path} {why}.", status) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise InputError(f"{path} is a {_kind(mode)}; expected a file.", "not-a-file")
    return os.fdopen(descriptor, "rb")


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "FIFO"), (stat.S_ISSOCK, "socket"))
    return next((name for test, name in kinds if test(mode)), "device")


def sniff(path: Path, *, follow_vrt: bool = False) -> str:
    """The one GDAL driver that may open `path`: "GTiff", "PNG", "JPEG", "JP2OpenJPEG", "BMP", or "VRT" with `follow_vrt`.

    Raises `InputError` with status "empty", "not-a-raster" (the message says what it looks like), "not-a-file",
    "vanished", "permission" or "unreadable".
    """
    with open_regular(path) as handle:
        head = handle.read(512)
    if not head:
        raise InputError(f"{path} is empty (0 bytes); expected an image.", "empty")
    driver = _driver(head)
    if driver is None and follow_vrt and b"<VRTDataset" in head:
        driver = "VRT"
    if driver is None:
        raise InputError(f"{path} is no image: it looks like {_looks_like(head)}.", "not-a-raster")
    return driver


def _driver(head: bytes) -> str | None:
    for offset, magic, driver in _RASTERS:
        if head.startswith(magic, offset):
            return driver
    # "BM" alone opens many text files; the size of the next header tells
    return "BMP" if head.startswith(b"BM") and head[14:18] in (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0") else None


def _looks_like(head: bytes) -> str:
    for offset, magic, name in _OTHERS:
        if head.startswith(magic, offset):
            return name
    if not head.strip(b"\0"):
        return "zeros (a download or copy that broke off?)"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<vrtdataset" in text:
        return "a GDAL virtual raster (VRT), which may point anywhere; give --follow-vrt to read it"
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page (a failed download?)"
    if text.startswith(b"<"):
        return "XML"
    if text.startswith((b"{", b"[")):
        return "JSON"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "text"
    return "unknown binary data"
