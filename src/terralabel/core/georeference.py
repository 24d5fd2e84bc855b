"""Where pixels lie on the Earth, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Georeference"]


@dataclass(frozen=True)
class Georeference:
    """An affine map from pixels to map coordinates, and the name of the map's frame.

    `transform` is (a, b, c, d, e, f) with ``x = a*col + b*row + c`` and ``y = d*col + e*row + f``,
    where (col, row) = (0, 0) is the *outer corner* of the first pixel (GDAL's and rasterio's convention).
    `crs` is WKT as the source gave it, or None: a coordinate system is never invented.
    """

    transform: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    crs: str | None = None

    @property
    def is_placed(self) -> bool:
        """True when a coordinate system or a transform other than the identity is known."""
        return self.crs is not None or self.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def shifted(self, x: float, y: float) -> Georeference:
        """The georeference of the window whose first pixel is (x, y), in pixels of this one."""
        a, b, c, d, e, f = self.transform
        return Georeference((a, b, a * x + b * y + c, d, e, d * x + e * y + f), self.crs)

    def to_map(self, xy: np.ndarray) -> np.ndarray:
        """Map coordinates (n, 2) float64 of pixel-corner coordinates (n, 2)."""
        a, b, c, d, e, f = self.transform
        xy = np.asarray(xy, dtype=np.float64)
        x, y = xy[..., 0], xy[..., 1]
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)

    @property
    def pixel_area(self) -> float:
        """Area of one pixel in square units of the map (square degrees for a geographic CRS)."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)
