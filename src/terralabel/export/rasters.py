"""Label rasters on the source grid: written once, tile by tile, and exported as GeoTIFF."""

from __future__ import annotations

import shutil
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterWindow

from terralabel.contracts import RunView
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path, disk_full, write_text
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.errors import ContractError, RunError
from terralabel.export.styles import pam_categories, raster_style

__all__ = ["GeoTiff", "label_colors", "label_environment", "write_error", "write_grid", "write_label_raster"]

#: Side of the tiles inside a label raster, in pixels.
_BLOCK = 512
#: Rasters with a longer side get overviews, until the longest side is at most this.
_OVERVIEW_SIDE = 1024


@contextmanager
def label_environment(final: Path, doing: str = "write", needed: int = 0) -> Iterator[None]:
    """GDAL as every writer here needs it: no side files, one thread, bounded cache; its errors in our words."""
    options = {"GDAL_PAM_ENABLED": "NO", "GDAL_NUM_THREADS": "1", "GDAL_CACHEMAX": 128, "GDAL_TIFF_OVR_BLOCKSIZE": str(_BLOCK)}
    try:
        with rasterio.Env(**options), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            yield
    except (RasterioError, CPLE_BaseError) as error:
        raise write_error(error, final, doing, needed) from error


#: What SQLite and the system say of a full disk; without inodes there may be bytes free.
_FULL = ("disk is full", "No space left on device")


def write_error(error: Exception, final: Path, doing: str = "write", needed: int = 0) -> RunError:
    """GDAL's or SQLite's error while writing, in our words: a full disk where there is no space left (`needed`: `disk_full`)."""
    free = shutil.disk_usage(final.parent if final.parent.exists() else Path.cwd()).free
    if doing == "write" and (free < 1 << 22 or any(words in str(error) for words in _FULL)):
        return disk_full(final, needed)
    return RunError(f"GDAL could not {doing} {final}: {' '.join(str(error).split())}.")


@dataclass
class _Tiles:
    """Gathers blocks of any size into the raster's own tiles, so that each is compressed and written exactly once.

    `nothing` is the value of pixels that no block covers. Holds only tiles that are partly covered: one row of them when blocks come row by row.
    """

    width: int
    height: int
    dtype: str
    nothing: int = IGNORE
    partial: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    done: dict[tuple[int, int], int] = field(default_factory=dict)

    def window(self, key: tuple[int, int]) -> Window:
        """The window of tile (row, column)."""
        y, x = key[0] * _BLOCK, key[1] * _BLOCK
        return Window(x, y, min(_BLOCK, self.width - x), min(_BLOCK, self.height - y))

    def feed(self, window: Window, block: np.ndarray) -> Iterator[tuple[Window, np.ndarray]]:
        """Take one block; yield the tiles it completes."""
        self._check(window, block)
        for row in range(window.y // _BLOCK, (window.bottom - 1) // _BLOCK + 1):
            for column in range(window.x // _BLOCK, (window.right - 1) // _BLOCK + 1):
                key = (row, column)
                place = self.window(key)
                part = place.intersect(window)
                if key in self.done:
                    raise ContractError(f"Label blocks overlap in {part}: each pixel may come once.")
                values, known = self.partial.get(key) or self._blank(place)
                values[part.relative_to(place).slices()] = block[part.relative_to(window).slices()]
                known[part.relative_to(place).slices()] = True
                if known.all():
                    self.partial.pop(key, None)
                    self.done[key] = zlib.crc32(values.tobytes())
                    yield place, values
                else:
                    self.partial[key] = values, known

    def rest(self) -> Iterator[tuple[Window, np.ndarray]]:
        """The tiles nobody completed; pixels without a label are 255."""
        for row in range(-(-self.height // _BLOCK)):
            for column in range(-(-self.width // _BLOCK)):
                key = (row, column)
                if key not in self.done:
                    place = self.window(key)
                    values, _ = self.partial.pop(key) if key in self.partial else self._blank(place)
                    self.done[key] = zlib.crc32(values.tobytes())
                    yield place, values

    def _blank(self, place: Window) -> tuple[np.ndarray, np.ndarray]:
        shape = (place.height, place.width)
        return np.full(shape, self.nothing, dtype=self.dtype), np.zeros(shape, dtype=bool)

    def _check(self, window: Window, block: np.ndarray) -> None:
        if block.shape != (window.height, window.width):
            raise ContractError(f"Label block: expected {(window.height, window.width)}, got {block.shape}.")
        if window.x < 0 or window.y < 0 or window.right > self.width or window.bottom > self.height:
            raise ContractError(f"Label block {window} lies outside the scene of {self.width} x {self.height}.")
        top = np.iinfo(self.dtype).max
        if block.size and (block.min() < 0 or block.max() > top):
            raise ContractError(f"Label block {window}: ids {block.min()}..{block.max()} do not fit {self.dtype}.")


def write_label_raster(
    final: Path,
    scene: Scene,
    classes: Classes,
    blocks: Iterable[tuple[Window, np.ndarray]],
    *,
    tags: dict[str, str] | None = None,
) -> list[Path]:
    """Write the label raster of a scene, with its QGIS style and class names beside it; returns the files.

    `blocks` are (window in scene pixels, (h, w) class ids) that do not overlap; pixels no block covers become 255. Any size
    and order works; blocks that come row by row keep memory at one row of 512-pixel tiles. The raster is a GeoTIFF in tiles
    of 512, DEFLATE, uint8 (uint16 when an id is past 254), nodata 255, with colour table, overviews and the class map in the
    tag TERRALABEL_CLASSES; CRS and transform are the scene's own, and absent where the scene has none. Same blocks, same
    bytes. What was written is read back and compared before it gets its name.
    """
    final = Path(final)

    def dress(target: rasterio.io.DatasetWriter) -> None:
        target.write_colormap(1, label_colors(classes))
        target.colorinterp = (ColorInterp.palette,)
        target.update_tags(TERRALABEL_CLASSES=classes.to_json(), **(tags or {}))

    write_grid(final, scene, blocks, dtype=classes.dtype, nothing=IGNORE, dress=dress)
    return [final, *_write_side_files(final, classes)]


def write_grid(
    final: Path,
    scene: Scene,
    blocks: Iterable[tuple[Window, np.ndarray]],
    *,
    dtype: str,
    nothing: int,
    dress: Callable[[rasterio.io.DatasetWriter], None],
) -> None:
    """Write integers on a scene's grid, as `write_label_raster` does; `nothing` is nodata, `dress` adds colours and tags."""
    tiles = _Tiles(scene.width, scene.height, dtype, nothing)
    needed = scene.width * scene.height * np.dtype(dtype).itemsize * 4 // 3  # with overviews, if nothing could be compressed
    with atomic_path(final, needed) as temporary, label_environment(final, needed=needed):
        with rasterio.open(temporary, "w", **_profile(scene, dtype, nothing)) as target:
            target.update_tags(AREA_OR_POINT="Area")
            dress(target)
            for window, block in blocks:
                for place, values in tiles.feed(window, block):
                    target.write(values, 1, window=_raster_window(place))
            for place, values in tiles.rest():
                target.write(values, 1, window=_raster_window(place))
        _build_overviews(temporary, scene)
        _verify(temporary, tiles)


def _profile(scene: Scene, dtype: str, nothing: int) -> dict[str, object]:
    """Creation options; deterministic, readable by every GDAL of the last ten years."""
    place: dict[str, object] = {}
    if scene.georeference.is_placed:
        place = {"transform": Affine(*scene.georeference.transform), "crs": scene.georeference.crs}
    return {
        "driver": "GTiff",
        "width": scene.width,
        "height": scene.height,
        "count": 1,
        "dtype": dtype,
        "nodata": nothing,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "deflate",
        "zlevel": 6,
        "bigtiff": "if_safer",
        **place,
    }


def label_colors(classes: Classes) -> dict[int, tuple[int, int, int, int]]:
    """The colour table; ids that are no class are black, no label is transparent."""
    return {**{entry.id: (*entry.rgb, 255) for entry in classes}, IGNORE: (0, 0, 0, 0)}


def _raster_window(window: Window) -> RasterWindow:
    return RasterWindow(window.x, window.y, window.width, window.height)  # type: ignore[call-arg]


def _build_overviews(path: Path, scene: Scene) -> None:
    longest = max(scene.width, scene.height)
    factors = [2**k for k in range(1, 20) if longest / 2 ** (k - 1) > _OVERVIEW_SIDE]
    if factors:
        with rasterio.open(path, "r+") as target:
            target.build_overviews(factors, Resampling.nearest)


def _verify(path: Path, tiles: _Tiles) -> None:
    """Read every tile back: on a full disk GDAL may close a file without an error and leave zeros."""
    with rasterio.open(path) as written:
        for key, checksum in tiles.done.items():
            if zlib.crc32(written.read(1, window=_raster_window(tiles.window(key))).tobytes()) != checksum:
                raise RasterioError("a tile reads back differently from what was written; is the disk full or failing?")


def _write_side_files(final: Path, classes: Classes) -> list[Path]:
    """`NAME.qml`, which QGIS applies by itself, and `NAME.tif.aux.xml` with the class names for GDAL and ArcGIS."""
    style, names = final.with_suffix(".qml"), final.with_name(f"{final.name}.aux.xml")
    write_text(style, raster_style(classes))
    if classes.dtype == "uint16":
        return [style]
    write_text(names, pam_categories(classes))
    return [style, names]


@dataclass(frozen=True)
class GeoTiff:
    """A folder of label rasters `SCENE.tif` with styles beside them, and `classes.json`."""

    name: str = "geotiff"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Copy each scene's final label raster (a copy, so that editing it never changes the run)."""
        written = []
        for scene in run.scenes:
            final = out / f"{scene.key}.tif"
            source = run.label_path(scene.key)
            with atomic_path(final, source.stat().st_size) as temporary:
                shutil.copyfile(source, temporary)
            written += [final, *_write_side_files(final, run.classes)]
        write_text(out / "classes.json", run.classes.to_json())
        return [*written, out / "classes.json"]
