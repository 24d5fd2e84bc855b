"""A label that says where it lies on the Earth has to lie where its image does."""

from __future__ import annotations

from pathlib import Path

import rasterio
from pyproj import CRS
from pyproj.exceptions import CRSError

from terralabel.core.georeference import Georeference
from terralabel.errors import InputError
from terralabel.imagery.gdal import gdal
from terralabel.imagery.raster import georeference_of
from terralabel.imagery.sniff import sniff

__all__ = ["refuse_elsewhere"]

#: How far off the corners of a label may be, pixels of the image: programs round.
_OFF = 0.5


def refuse_elsewhere(image: Path, label: Path) -> None:
    """Raise `InputError` ("wrong-crs", "wrong-place") for a label in another coordinate system than its image, or shifted against it.

    Nothing is said of a label, or an image, that does not tell where it lies; of a system that cannot be understood neither.
    """
    there, here = _place(label), _place(image)
    if not there.is_placed or not here.is_placed:
        return
    if there.crs is not None and here.crs is not None and not _same(there.crs, here.crs):
        raise InputError(
            f"{label} is in {_name(there.crs)}, its image {image.name} in {_name(here.crs)}: expected the grid of the image; reproject it"
            " (gdalwarp, to the image's extent and size).",
            "wrong-crs",
        )
    off = _shift(there, here)
    if off > _OFF:
        raise InputError(
            f"{label} lies {off:,.1f} pixels off its image {image.name}: expected the same origin and pixel size; take the label that"
            " belongs to it, or cut it to the image's extent.",
            "wrong-place",
        )


def _place(path: Path) -> Georeference:
    """Where a raster lies; nowhere where only ground control points tell."""
    try:
        with gdal(path), rasterio.open(path, driver=sniff(path), sharing=False) as source:
            return georeference_of(path, source)
    except InputError as error:
        if error.status != "gcp-only":
            raise
        return Georeference()


def _same(one: str, other: str) -> bool:
    """Whether two coordinate systems are one; also where one of them cannot be understood."""
    try:
        return one == other or CRS.from_user_input(one).equals(CRS.from_user_input(other), ignore_axis_order=True)
    except CRSError:
        return True


def _name(crs: str) -> str:
    found = CRS.from_user_input(crs)
    code = found.to_epsg()
    return f"EPSG:{code}" if code else found.name


def _shift(label: Georeference, image: Georeference) -> float:
    """By how many pixels of the image the label's first pixel and its tenth in each direction are off."""
    a, b, c, d, e, f = image.transform
    determinant = a * e - b * d
    if not determinant:
        return 0.0
    corners = [(0.0, 0.0), (10.0, 0.0), (0.0, 10.0)]
    worst = 0.0
    for column, row in corners:
        p, q, r, s, t, u = label.transform
        x, y = p * column + q * row + r - c, s * column + t * row + u - f
        worst = max(worst, abs((e * x - b * y) / determinant - column), abs((a * y - d * x) / determinant - row))
    return worst
