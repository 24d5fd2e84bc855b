"""Label files as class ids: one band of ids, colours, grey masks, or shapes; nothing is guessed and nothing wraps."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window as RasterioWindow

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.grid import Window
from terralabel.core.labelled import (
    ByColor,
    ByCoverage,
    ByFolder,
    ByThreshold,
    ByValue,
    LabelledImage,
    LabelledSet,
    pack_colors,
)
from terralabel.errors import InputError
from terralabel.imagery.gdal import gdal
from terralabel.imagery.sniff import sniff
from terralabel.imagery.wholeness import refuse_truncated

__all__ = ["ids_of", "ids_of_colors", "image_size", "label_values", "read_label", "stored_label"]

_UNKNOWN = 256
#: Whole label files are read in strips of so many pixels.
_STRIP = 16_000_000
#: A file with more different values holds no classes; the others need not be known.
_MANY = 4096


def read_label(dataset: LabelledSet, item: LabelledImage, window: Window | None = None) -> np.ndarray:
    """(H, W) uint8 class ids of an image, or of a window of it; 255 is "no label".

    Raises `InputError`: status "no-label" (the image has none), "unknown-ids" (ids or colours that are no classes, listed with
    their pixels), "rgb-coded", "not-class-ids" (fractions, odd bands), "lossy" (JPEG), "size" (a window outside), or what
    `open_raster` raises for files that are damaged.
    """
    if item.label is None:
        raise InputError(f"{item.image} has no label file.", "no-label")
    if isinstance(dataset.to_ids, ByCoverage):
        inner = replace(dataset, classes=dataset.to_ids.classes, to_ids=dataset.to_ids.inner)
        return (read_label(inner, item, window) != IGNORE).astype(np.uint8)
    to_ids = dataset.to_ids.of(item.label) if isinstance(dataset.to_ids, ByFolder) else dataset.to_ids
    if to_ids is not None and not isinstance(to_ids, ByValue | ByThreshold | ByColor):
        drawn = to_ids.draw(item)
        return drawn if window is None else np.ascontiguousarray(drawn[window.slices()])
    if isinstance(to_ids, ByColor):
        return ids_of_colors(item.label, stored_label(item.label, window, colors=True)[0], to_ids, dataset.classes)
    stored, nodata = stored_label(item.label, window, lossy=isinstance(to_ids, ByThreshold))
    ids = ids_of(stored, to_ids)
    if nodata is not None:
        ids = np.where(stored == nodata, IGNORE, ids)
    return _known_ids(item.label, ids, stored, dataset.classes)


def ids_of(stored: np.ndarray, to_ids: ByValue | ByThreshold | None) -> np.ndarray:
    """(H, W) ids of the numbers in a one-band label file, unchecked."""
    return stored if to_ids is None else to_ids.ids(stored)


def stored_label(
    path: Path, window: Window | None = None, *, colors: bool = False, lossy: bool = False
) -> tuple[np.ndarray, int | None]:
    """What a label file holds, and its declared nodata: (H, W) whole numbers (the indices of a palette), or, with `colors`,
    (H, W, 3) uint8. Three equal bands are one. A JPEG is refused unless `lossy` values will do."""
    driver = sniff(path)
    if driver == "JPEG" and not lossy:
        raise InputError(
            f"{path} is a JPEG: compression has changed its ids. Use PNG or TIFF; a mask may be read with a threshold.", "lossy"
        )
    refuse_truncated(path, driver)
    with gdal(path), rasterio.open(path, driver=driver, sharing=False) as source:
        _refuse_window(path, source, window)
        at = None if window is None else RasterioWindow(window.x, window.y, window.width, window.height)  # type: ignore[call-arg]
        if colors:
            return _colors(path, source, at), None
        bands = source.read(window=at)  # (C, H, W)
        nodata = source.nodata
    if len(bands) in (3, 4) and (bands[0] == bands[1]).all() and (bands[0] == bands[2]).all():
        bands = bands[:1]
    _refuse_odd(path, bands)
    whole = nodata is not None and float(nodata).is_integer()
    return bands[0], int(nodata) if whole else None


def label_values(path: Path) -> np.ndarray:
    """The different values that a one-band label file holds, nodata left out; (n,) ascending. Read in strips."""
    width, height = image_size(path)
    rows = max(_STRIP // width // 16 * 16, 16)
    found: set[int] = set()
    for y in range(0, height, rows):
        stored, nodata = stored_label(path, Window(0, y, width, min(rows, height - y)))
        found |= {int(v) for v in np.unique(stored) if v != nodata}
        if len(found) > _MANY:
            break
    return np.array(sorted(found), dtype=np.int64)


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of a raster, from its header."""
    with gdal(path), rasterio.open(path, driver=sniff(path), sharing=False) as source:
        return source.width, source.height


def _refuse_window(path: Path, source: Any, window: Window | None) -> None:
    if window is not None and window.intersect(Window(0, 0, source.width, source.height)) != window:
        raise InputError(
            f"{path} is {source.width} x {source.height} pixels; {window} of its image is not inside: sizes must be equal.",
            "size",
        )


def _colors(path: Path, source: Any, at: Any) -> np.ndarray:
    """(H, W, 3) uint8 of an RGB(A) file, or of a palette's colours."""
    if source.count == 1 and source.colorinterp[0] == ColorInterp.palette:
        table = np.zeros((256, 3), dtype=np.uint8)
        for index, color in source.colormap(1).items():
            table[index] = color[:3]
        return table[source.read(1, window=at)]
    if source.count not in (3, 4) or source.dtypes[0] != "uint8":
        raise InputError(
            f"{path} has {source.count} band(s) of {source.dtypes[0]}; expected a label painted in colours (8-bit RGB).",
            "not-colors",
        )
    return np.ascontiguousarray(np.moveaxis(source.read([1, 2, 3], window=at), 0, -1))


def _refuse_odd(path: Path, bands: np.ndarray) -> None:
    if len(bands) >= 3:
        colors = _listed(pack_colors(np.moveaxis(bands[:3], 0, -1)), "#{:06x}") if bands.dtype == np.uint8 else bands.dtype
        raise InputError(
            f"{path} is coded in colours ({len(bands)} bands: {colors}); expected one band of class ids: give a class map whose"
            ' colours are those, with "label_colors": true.',
            "rgb-coded",
        )
    if len(bands) != 1 or bands.dtype.kind not in "ui":
        raise InputError(
            f"{path} has {len(bands)} band(s) of {bands.dtype}; expected one band of whole numbers, a class id for each pixel.",
            "not-class-ids",
        )


def _listed(values: np.ndarray, form: str) -> str:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:8]
    more = f", and {len(found) - 8} more" if len(found) > 8 else ""
    return ", ".join(f"{form.format(int(found[i]))} ({counts[i]} px)" for i in order) + more


@lru_cache(maxsize=16)
def _table(classes: Classes) -> np.ndarray:
    """(65536,) uint16: known ids as they are, others `_UNKNOWN`."""
    table = np.full(65536, _UNKNOWN, dtype=np.uint16)
    for entry in classes:
        table[entry.id] = entry.id
    table[IGNORE] = IGNORE
    return table


def _known_ids(path: Path, ids: np.ndarray, stored: np.ndarray, classes: Classes) -> np.ndarray:
    inside = ids if ids.dtype in (np.uint8, np.uint16) else np.where((ids >= 0) & (ids < 65536), ids, 65535)
    out = _table(classes)[inside]
    unknown = out == _UNKNOWN
    if unknown.any():
        raise InputError(
            f"{path} has ids that are no classes: {_listed(stored[unknown], '{}')}; the classes are {_spans(classes)}. Add them to"
            ' the class map, or say what they mean there, for example "label_values": {"0": 255} for no label.',
            "unknown-ids",
        )
    return out.astype(np.uint8)


def _spans(classes: Classes) -> str:
    ids = [entry.id for entry in classes]
    if not ids:
        return "none"
    return f"{ids[0]}..{ids[-1]}" if ids == list(range(ids[0], ids[-1] + 1)) else ", ".join(map(str, ids[:20]))


def ids_of_colors(path: Path, rgb: np.ndarray, to_ids: ByColor, classes: Classes) -> np.ndarray:
    """(H, W) uint8 ids of the colours (H, W, 3) read from `path`; `InputError` lists those that are no classes."""
    ids = to_ids.ids(rgb)
    if (ids < 0).any():
        raise InputError(
            f"{path} has colours that are no classes: {_listed(pack_colors(rgb)[ids < 0], '#{:06x}')}; put them into the class map"
            " or repaint them.",
            "unknown-ids",
        )
    return _known_ids(path, ids, ids, classes)
