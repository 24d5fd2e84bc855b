"""From the coordinates of a file to the pixels of the scenes it speaks of."""

from __future__ import annotations

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from terralabel.core.scene import Scene
from terralabel.export.ground import parse_crs
from terralabel.export.shapes import Shape, rasterized

__all__ = ["Placement", "Unusable"]


class Unusable(Exception):
    """Why one feature is rejected: (status, reason)."""


class Placement:
    """Places geometries of a file in the coordinate system `crs` (None: none) in scenes."""

    def __init__(self, crs: CRS | None, scenes: tuple[Scene, ...]) -> None:
        self._crs = crs
        self._scenes = scenes
        self._transformers: dict[str | None, Transformer | None] = {}
        self._frames: np.ndarray | None = None

    def _to_pixels(self, geometry: shapely.Geometry, scene: Scene) -> shapely.Geometry:
        text = scene.georeference.crs
        if (text is None) != (self._crs is None):
            file, image = ("no", "one") if self._crs is None else ("a", "none")
            raise Unusable("no-crs", f"the file has {file} coordinate system, scene {scene.key} has {image}")
        if text not in self._transformers:
            target = parse_crs(text)
            same = target is None or target == self._crs
            self._transformers[text] = None if same else Transformer.from_crs(self._crs, target, always_xy=True)
        transformer = self._transformers[text]
        try:
            return shapely.transform(geometry, lambda xy: _pixels(xy, scene, transformer))
        except ProjError as error:
            raise Unusable("bad-coordinates", f"cannot be projected ({error})") from None

    def shape(self, geometry: shapely.Geometry, scene: Scene) -> Shape:
        """The pixels of a scene under a geometry."""
        pixels = self._to_pixels(geometry, scene)
        if not np.all(np.isfinite(shapely.get_coordinates(pixels))):
            raise Unusable("outside", f"lies where the coordinate system of scene {scene.key} ends")
        made = rasterized(pixels, scene.width, scene.height)
        if made is None:
            inside = shapely.intersects(pixels, shapely.box(0, 0, scene.width, scene.height))
            why = "covers no pixel centre of" if inside else "lies outside"
            raise Unusable("too-small" if inside else "outside", f"{why} scene {scene.key}")
        return made

    def everywhere(self, geometry: shapely.Geometry) -> list[tuple[Scene, shapely.Geometry]]:
        """The scenes that a geometry meets, and its coordinates in pixels of each; a polygon along a seam meets several."""
        out = []
        for scene in self._scenes_near(geometry):
            pixels = self._to_pixels(geometry, scene)
            finite = np.all(np.isfinite(shapely.get_coordinates(pixels)))
            if finite and shapely.intersects(pixels, shapely.box(0, 0, scene.width, scene.height)):
                out.append((scene, pixels))
        return out

    def scene_of(self, geometry: shapely.Geometry) -> Scene:
        """The scene that shares the largest part of its area with a new feature."""
        if self._crs is None and sum(not s.georeference.is_placed for s in self._scenes) > 1:
            raise Unusable("no-scene", "several scenes have no placement: fill in the attribute 'scene'")
        best, most = None, 0.0
        for scene in self._scenes_near(geometry):
            pixels = self._to_pixels(geometry, scene)
            frame = shapely.box(0, 0, scene.width, scene.height)
            if np.all(np.isfinite(shapely.get_coordinates(pixels))) and shapely.intersects(pixels, frame):
                share = shapely.area(shapely.intersection(pixels, frame)) / shapely.area(pixels)
                if share > most:
                    best, most = scene, share
        if best is None:
            raise Unusable("outside", "lies in no scene of the run")
        return best

    def _scenes_near(self, geometry: shapely.Geometry) -> list[Scene]:
        """Scenes whose frames, in the file's coordinates, may meet a geometry."""
        if self._frames is None:
            self._frames = np.array([self._frame(scene) for scene in self._scenes], dtype=np.float64).reshape(-1, 4)
        x0, y0, x1, y1 = shapely.bounds(geometry)
        left, top, right, bottom = self._frames.T
        return [self._scenes[k] for k in np.flatnonzero((left <= x1) & (right >= x0) & (top <= y1) & (bottom >= y0))]

    def _frame(self, scene: Scene) -> tuple[float, float, float, float]:
        """Bounds of a scene in the file's coordinates, a little widened; nowhere when the two cannot be joined."""
        if (scene.georeference.crs is None) != (self._crs is None):
            return np.inf, np.inf, -np.inf, -np.inf
        side = np.linspace(0, 1, 9)
        edge = np.concatenate(
            [np.stack([side, k + 0 * side], 1) for k in (0, 1)] + [np.stack([k + 0 * side, side], 1) for k in (0, 1)]
        )
        xy = scene.georeference.to_map(edge * np.array([scene.width, scene.height], dtype=np.float64))
        if not scene.georeference.is_placed:
            xy = xy * np.array([1.0, -1.0])
        if self._crs is not None and parse_crs(scene.georeference.crs) != self._crs:
            back = Transformer.from_crs(parse_crs(scene.georeference.crs), self._crs, always_xy=True)
            xy = np.stack(back.transform(xy[:, 0], xy[:, 1], errcheck=False), axis=1)
        if not np.all(np.isfinite(xy)):
            return -np.inf, -np.inf, np.inf, np.inf
        low, high = xy.min(axis=0), xy.max(axis=0)
        more = 0.05 * (high - low)
        return low[0] - more[0], low[1] - more[1], high[0] + more[0], high[1] + more[1]


def _pixels(xy: np.ndarray, scene: Scene, transformer: Transformer | None) -> np.ndarray:
    """Map coordinates (n, 2) -> scene pixels; undoes `polygons.place`."""
    if transformer is not None:
        xy = np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
    if not scene.georeference.is_placed:
        return xy * np.array([1.0, -1.0])
    a, b, c, d, e, f = scene.georeference.transform
    determinant = a * e - b * d
    x, y = xy[:, 0] - c, xy[:, 1] - f
    return np.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=1)
