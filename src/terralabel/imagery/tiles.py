"""Images as scenes, windows as tiles, and what a run will cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from terralabel.core.grid import TilePlan, Window
from terralabel.core.scene import Scene
from terralabel.core.tile import Tile
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.raster import Raster
from terralabel.imagery.sources import SourceFile

__all__ = ["Estimate", "estimate", "read_tile", "read_whole", "scene_of"]


def scene_of(source: SourceFile, raster: Raster, *, sensor: str, sha256: str) -> Scene:
    """The `Scene` record of an open image; `sha256` is `content_hash` of its file."""
    return Scene(
        key=source.key,
        source=str(source.path),
        stem=source.stem,
        width=raster.width,
        height=raster.height,
        georeference=raster.georeference,
        sensor=sensor,
        split=source.split,
        sha256=sha256,
    )


def read_tile(raster: Raster, plan: TilePlan, radiometry: Radiometry) -> Tile:
    """The tile of a plan: pixels after the radiometry, validity, and its own georeference.

    Raises `InputError` when the window cannot be decoded or is not of the radiometry's kind.
    """
    pixels, valid = raster.read(plan.window)
    place = raster.georeference.shifted(plan.window.x, plan.window.y)
    return Tile(plan, radiometry.apply(pixels, valid), valid, place, radiometry.sensor)


def read_whole(path: Path, radiometry: Radiometry) -> Tile:
    """A small image as one tile. Errors as in `read_tile`, and those of opening it."""
    with radiometry.open(path) as raster:
        window = Window(0, 0, raster.width, raster.height)
        return read_tile(raster, TilePlan(path.name, path.name, 0, 0, window, window), radiometry)


@dataclass(frozen=True)
class Estimate:
    """What a run will go through: `scenes`, `tiles`, `pixels` of the scenes, and `read_pixels` with the overlaps."""

    scenes: int
    tiles: int
    pixels: int
    read_pixels: int


def estimate(sizes: Iterable[tuple[int, int]], *, tile_size: int, overlap: int) -> Estimate:
    """Count, without planning every tile, what images of `sizes` = (width, height) will cost."""
    scenes = tiles = pixels = read_pixels = 0
    for width, height in sizes:
        columns, rows = (_tiles_along(length, tile_size, overlap) for length in (width, height))
        scenes += 1
        tiles += columns * rows
        pixels += width * height
        read_pixels += columns * rows * min(width, tile_size) * min(height, tile_size)
    return Estimate(scenes, tiles, pixels, read_pixels)


def _tiles_along(length: int, tile_size: int, overlap: int) -> int:
    """How many windows `core.grid.plan_tiles` puts along one axis."""
    return 1 if length <= tile_size else len(range(0, length - tile_size, tile_size - overlap)) + 1
