"""Rasters of class probabilities: one band a class, on the source grid, written as the scene is gone through."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from terralabel.core.classes import Classes
from terralabel.core.files import atomic_path
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import ContractError
from terralabel.export.rasters import label_environment

__all__ = ["ProbabilityRaster", "probability_raster"]

_BLOCK = 512


class ProbabilityRaster:
    """An open raster of probabilities; `add` its parts from the top of a vertical band down, band after band."""

    def __init__(self, target: rasterio.io.DatasetWriter, count: int) -> None:
        self._target, self._count = target, count
        self._waiting: list[tuple[Window, np.ndarray]] = []
        self._checksums: dict[tuple[int, int, int, int], int] = {}

    def add(self, window: Window, probabilities: np.ndarray) -> None:
        """(K, h, w) float32 in [0, 1] of a window; the next window lies just below it, or is the top of the next band.

        Rows are gathered until they fill the raster's own tiles, so that each is compressed once.
        """
        if probabilities.shape != (self._count, window.height, window.width):
            raise ContractError(f"Probabilities {probabilities.shape}: expected {(self._count, window.height, window.width)}.")
        self._waiting.append((window, np.rint(probabilities * 255).astype(np.uint8)))
        top, bottom = self._waiting[0][0].y, window.bottom
        whole = bottom if bottom == self._target.height else bottom // _BLOCK * _BLOCK
        if whole > top:
            self._write(whole)

    def _write(self, bottom: int) -> None:
        first = self._waiting[0][0]
        rows = np.concatenate([values for _, values in self._waiting], axis=1)
        done, rest = rows[:, : bottom - first.y], rows[:, bottom - first.y :]
        place = Window(first.x, first.y, first.width, bottom - first.y)
        self._target.write(done, window=_place(place))
        self._checksums[place.x, place.y, place.width, place.height] = zlib.crc32(done.tobytes())
        left = Window(first.x, bottom, first.width, rest.shape[1])
        self._waiting = [(left, rest)] if rest.shape[1] else []

    def verify(self, path: Path) -> None:
        """Read everything back: on a full disk GDAL may close a file without an error and leave zeros."""
        with rasterio.open(path) as written:
            for place, checksum in self._checksums.items():
                if zlib.crc32(written.read(window=_place(Window(*place))).tobytes()) != checksum:
                    raise RasterioError("a part reads back differently from what was written; is the disk full or failing?")


@contextmanager
def probability_raster(
    final: Path, scene: Scene, classes: Classes, tags: dict[str, str], *, passing: bool = False
) -> Iterator[ProbabilityRaster]:
    """A GeoTIFF of one uint8 band a class, 255 for certainty, 0 in all bands where there is no image; whole or not there.

    Bands carry the names of the classes, in the order of the class map; tiles of 512, DEFLATE, the scene's own grid. `passing`: it is
    read once and removed, and not worth the time of compressing; empty tiles take no room.
    """
    place: dict[str, object] = {}
    if scene.georeference.is_placed:
        place = {"transform": Affine(*scene.georeference.transform), "crs": scene.georeference.crs}
    needed = scene.width * scene.height * len(classes)
    with atomic_path(final, needed) as temporary, label_environment(final, needed=needed):
        with rasterio.open(
            temporary, "w", driver="GTiff", width=scene.width, height=scene.height, count=len(classes), dtype="uint8",
            tiled=True, blockxsize=_BLOCK, blockysize=_BLOCK, bigtiff="if_safer", interleave="band", photometric="minisblack",
            **({"sparse_ok": True} if passing else {"compress": "deflate", "zlevel": 6}), **place,
        ) as target:  # fmt: skip
            target.update_tags(AREA_OR_POINT="Area", TERRALABEL_CLASSES=classes.to_json(), **tags)
            target.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (len(classes) - 1)
            for band, entry in enumerate(classes, 1):
                target.set_band_description(band, entry.name)
            raster = ProbabilityRaster(target, len(classes))
            yield raster
        raster.verify(temporary)


def _place(window: Window) -> RasterWindow:
    return RasterWindow(window.x, window.y, window.width, window.height)  # type: ignore[call-arg]
