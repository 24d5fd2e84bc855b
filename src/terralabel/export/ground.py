"""Coordinate systems of scenes, and how many square metres a pixel covers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from terralabel.core.scene import Scene
from terralabel.errors import InputError

__all__ = ["CrsGroup", "GroundArea", "crs_groups", "parse_crs"]


def parse_crs(text: str | None) -> CRS | None:
    """The coordinate system of a WKT or authority string; None stays None."""
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise InputError(f"Coordinate system not understood: {str(text)[:80]!r}.", "bad-crs") from error


@dataclass(frozen=True)
class CrsGroup:
    """Scenes that share one coordinate system; `crs` is None for scenes without one. `suffix` is safe in file names."""

    crs: CRS | None
    suffix: str
    scenes: tuple[Scene, ...]


def crs_groups(scenes: Iterable[Scene]) -> list[CrsGroup]:
    """Scenes by coordinate system, in the order of first appearance; one file can hold only one."""
    parsed: dict[str | None, CRS | None] = {}
    found: list[tuple[CRS | None, list[Scene]]] = []
    for scene in scenes:
        text = scene.georeference.crs
        if text not in parsed:
            parsed[text] = parse_crs(text)
        crs = parsed[text]
        for known, members in found:
            if known is crs or (known is not None and crs is not None and known == crs):
                members.append(scene)
                break
        else:
            found.append((crs, [scene]))
    return [CrsGroup(crs, _suffix(crs, index), tuple(members)) for index, (crs, members) in enumerate(found)]


def _suffix(crs: CRS | None, index: int) -> str:
    if crs is None:
        return "no-crs"
    code = crs.to_epsg()
    if code is not None:
        return f"epsg-{code}"
    authority = crs.to_authority(min_confidence=100)
    return "-".join(authority).lower() if authority else f"crs{index + 1}"


#: Rows and columns of the lattice on which the area of a pixel is computed.
_LATTICE = 32


class GroundArea:
    """Square metres per pixel anywhere in a scene, on the ellipsoid: true in UTM, Web Mercator, feet and degrees alike.

    The scene is cut into 32 x 32 cells; the geodesic area of each over its number of pixels is the value at its centre,
    and between centres it is interpolated. `None` areas (NaN) where there is no coordinate system or the scene leaves
    the domain of its projection.
    """

    def __init__(self, scene: Scene) -> None:
        self._columns = np.linspace(0, scene.width, min(_LATTICE, scene.width) + 1)
        self._rows = np.linspace(0, scene.height, min(_LATTICE, scene.height) + 1)
        self._lattice = self._measure(scene)

    def _measure(self, scene: Scene) -> np.ndarray | None:
        crs = parse_crs(scene.georeference.crs)
        if crs is None or not (crs.is_geographic or crs.is_projected):
            return None
        geod, geodetic = crs.get_geod(), crs.geodetic_crs
        if geod is None or geodetic is None:
            return None
        steps = np.array([[0, 0], [0.5, 0], [1, 0], [1, 0.5], [1, 1], [0.5, 1], [0, 1], [0, 0.5]])
        width, height = np.diff(self._columns), np.diff(self._rows)
        x = self._columns[:-1][None, :, None] + width[None, :, None] * steps[:, 0]
        y = self._rows[:-1][:, None, None] + height[:, None, None] * steps[:, 1]
        x, y = np.broadcast_arrays(x, y)  # (rows, columns, 8)
        try:
            to_geodetic = Transformer.from_crs(crs, geodetic, always_xy=True)
            xy = scene.georeference.to_map(np.stack([x.ravel(), y.ravel()], 1))
            angles = np.stack(to_geodetic.transform(xy[:, 0], xy[:, 1], errcheck=False))
        except ProjError:
            return None
        degrees = np.degrees(angles * geodetic.axis_info[0].unit_conversion_factor)  # some systems count in grads
        lon, lat = degrees.reshape(2, -1, len(steps))
        if not (np.all(np.isfinite(lon)) and np.all(np.isfinite(lat))):
            return None
        cells = [abs(geod.polygon_area_perimeter(a, b)[0]) for a, b in zip(lon, lat, strict=True)]
        return np.array(cells).reshape(len(height), len(width)) / (height[:, None] * width[None, :])

    def per_pixel(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(n,) float64 m² per pixel at scene pixels (x, y); NaN where unknown."""
        if self._lattice is None:
            return np.full(np.shape(x), np.nan)
        row, down = _between((self._rows[:-1] + self._rows[1:]) / 2, y)
        column, right = _between((self._columns[:-1] + self._columns[1:]) / 2, x)
        values = self._lattice
        below, beside = np.minimum(row + 1, values.shape[0] - 1), np.minimum(column + 1, values.shape[1] - 1)
        upper = values[row, column] * (1 - right) + values[row, beside] * right
        lower = values[below, column] * (1 - right) + values[below, beside] * right
        return upper * (1 - down) + lower * down


def _between(centres: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the centre before each position, and how far it is to the next, may go past 0..1 at the ends."""
    index = np.clip(np.searchsorted(centres, position) - 1, 0, max(len(centres) - 2, 0))
    if len(centres) == 1:
        return index, np.zeros(np.shape(position))
    return index, (position - centres[index]) / (centres[index + 1] - centres[index])
