"""The files beside an image that are honoured: world files, `.prj` and `.msk`. GDAL itself is kept from looking."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from terralabel.core.georeference import Georeference
from terralabel.errors import InputError
from terralabel.imagery.sniff import open_regular, sniff

if TYPE_CHECKING:
    from terralabel.imagery.raster import Raster

__all__ = ["mask_beside", "place_beside"]

_MAX_TEXT = 64 << 10


def _text(path: Path) -> str | None:
    """A small text file, or None when it is not there or is none."""
    try:
        with open_regular(path) as handle:
            return handle.read(_MAX_TEXT).decode("utf-8")
    except (InputError, UnicodeDecodeError, OSError):
        return None


def _world_names(path: Path) -> list[Path]:
    """`a.tif` -> `a.tfw`, `a.tifw`, `a.wld` (and `.TFW`): the first that exists counts."""
    suffix = path.suffix.lstrip(".")
    endings = [suffix[:1] + suffix[-1:] + "w", suffix + "w", "wld"] if suffix else ["wld"]
    return [path.with_suffix("." + spelled) for ending in endings for spelled in (ending.lower(), ending.upper())]


def place_beside(path: Path) -> Georeference | None:
    """The georeference of a world file beside an image (and the CRS of a `.prj`, as WKT), or None.

    A world file gives the centre of the first pixel; `Georeference` its outer corner.
    """
    numbers = None
    for name in _world_names(path):
        text = _text(name)
        if text is None:
            continue
        try:
            numbers = [float(word) for word in text.split()[:6]]
        except ValueError:
            continue
        if len(numbers) == 6:
            break
        numbers = None
    if numbers is None:
        return None
    a, d, b, e, x, y = numbers
    transform = (a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2)
    return Georeference(transform, _wkt(_text(path.with_suffix(".prj"))))


def _wkt(text: str | None) -> str | None:
    """The WKT of a `.prj` file when PROJ understands it, else None: a coordinate system is never invented."""
    if text is None:
        return None
    import rasterio.crs
    from rasterio.errors import CRSError

    try:
        return rasterio.crs.CRS.from_wkt(text.strip()).to_wkt()
    except CRSError:
        return None


def mask_beside(path: Path, width: int, height: int) -> Raster | None:
    """The open mask file `<name>.msk` (a TIFF of the same size; 0 is invalid), or None when there is none."""
    mask_path = path.with_name(path.name + ".msk")
    if path.name.lower().endswith(".msk") or not os.path.lexists(mask_path):
        return None
    from terralabel.imagery.raster import open_raster

    if sniff(mask_path) != "GTiff":
        raise InputError(f"{mask_path} is no mask: expected a TIFF.", "unsupported")
    mask = open_raster(mask_path, bands=[1])
    if (mask.width, mask.height) != (width, height):
        mask.close()
        raise InputError(
            f"{mask_path} is {mask.width} x {mask.height} pixels, its image {width} x {height}; remove or replace it.",
            "unsupported",
        )
    return mask
