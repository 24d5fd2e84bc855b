"""The files beside an image that are honoured: `.aux.xml`, world files, `.prj` and `.msk`. GDAL itself is kept from looking."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from terralabel.core.georeference import Georeference
from terralabel.errors import InputError
from terralabel.imagery.sniff import open_regular, sniff

if TYPE_CHECKING:
    from terralabel.imagery.raster import Raster

__all__ = ["mask_beside", "place_beside"]

_MAX_TEXT = 1 << 20


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
    """The georeference that files beside an image give: its `.aux.xml`, else a world file with an optional `.prj`.

    A world file gives the centre of the first pixel; `Georeference` its outer corner.
    """
    described = _aux_xml(path)
    if described is not None:
        return described
    numbers = next((found for name in _world_names(path) if (found := _six_numbers(_text(name))) is not None), None)
    if numbers is None:
        return None
    a, d, b, e, x, y = numbers
    return Georeference((a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2), _wkt(_text(path.with_suffix(".prj"))))


def _six_numbers(text: str | None) -> tuple[float, ...] | None:
    """Six finite numbers separated by white space or commas, or None."""
    words = (text or "").replace(",", " ").split()[:6]
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        return None
    return numbers if len(numbers) == 6 and all(map(math.isfinite, numbers)) else None


def _aux_xml(path: Path) -> Georeference | None:
    """What GDAL's `<name>.aux.xml` says of the place, or None."""
    text = _text(path.with_name(path.name + ".aux.xml"))
    if text is None or "<!" in text.replace("<!--", ""):  # no document types, hence no entities
        return None
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - see above
    except ElementTree.ParseError:
        return None
    numbers = _six_numbers(root.findtext("GeoTransform"))
    if root.tag != "PAMDataset" or numbers is None:
        return None
    c, a, b, f, d, e = numbers
    return Georeference((a, b, c, d, e, f), _wkt(root.findtext("SRS")))


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
