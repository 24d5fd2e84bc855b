"""Windows of an image file, whatever its format, as channels and validity.

GDAL decides nothing here on its own: it gets the one driver that the file's bytes call for, looks at no file beside it,
writes none, and keeps a small cache. The rules (which bands, what is invalid, what is refused) are in `docs/imagery.md`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as RasterioWindow

from terralabel.core.georeference import Georeference
from terralabel.core.grid import Window
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.gdal import gdal, way_out
from terralabel.imagery.rows import DecodedRows
from terralabel.imagery.sidecars import mask_beside, place_beside
from terralabel.imagery.sniff import sniff
from terralabel.imagery.wholeness import refuse_truncated

__all__ = ["MAX_BLOCK_BYTES", "MAX_CHANNELS", "MAX_PIXELS", "Raster", "georeference_of", "open_raster"]

#: More channels than this are refused unless `bands` names those wanted.
MAX_CHANNELS = 16
#: The largest piece that must be decoded at once (a strip, a tile, a row); larger ones are refused before decoding.
MAX_BLOCK_BYTES = 512 << 20
#: Larger scenes are refused: more likely a damaged header than an image.
MAX_PIXELS = 10**12
_COLORS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Raster:
    """One open image: its shape, its place, and `read`. Made by `open_raster`; use as a context manager; not thread-safe.

    `width`, `height` in pixels; `count` channels as `read` gives them (alpha left out, a palette expanded);
    `bands` the file's 1-based bands they come from; `dtype` of `read`'s pixels; `nodata` the file's value or None;
    `colors` the colour interpretation of each channel ("red", "gray", ...); `georeference`; `driver`; `bytes` on disk.
    """

    def __init__(self, path: Path, dataset: Any, driver: str, bands: Sequence[int] | None, sensor: str) -> None:
        self.path = path
        self.driver = driver
        self.width: int = dataset.width
        self.height: int = dataset.height
        self.nodata: float | None = dataset.nodata
        self.bytes: int = path.stat().st_size
        self._dataset = dataset
        self._alpha = next((i for i, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha), None)
        self.bands = _chosen_bands(path, dataset, bands, self._alpha, sensor)
        self._palette = _palette(dataset, self.bands)
        self._bilevel = _is_bilevel(dataset, self.bands) and self._palette is None
        self._mask_band = any({MaskFlags.per_dataset} == set(f) - {MaskFlags.nodata} for f in dataset.mask_flag_enums)
        self._mask_file = mask_beside(path, dataset.width, dataset.height) if driver != "VRT" else None
        self._stored = np.dtype(_stored_dtype(dataset, self.bands))
        self.dtype = _read_dtype(self._stored)
        self.count = len(self.bands) if self._palette is None else self._palette.shape[1] - 1
        names = [dataset.colorinterp[b - 1].name for b in self.bands]
        expanded = ("gray",) if self.count == 1 else ("red", "green", "blue")
        self.colors: tuple[str, ...] = tuple(names) if self._palette is None else expanded
        self.georeference = georeference_of(path, dataset)
        self._nodata_values = [_fitting_nodata(dataset.nodatavals[b - 1], self._stored) for b in self.bands]
        self._rows: DecodedRows | None = None
        self._may_keep_rows = True
        _refuse_too_large(path, dataset, self._stored)

    @property
    def row_wise(self) -> bool:
        """True when the file stores whole rows, so that a window costs as much as all the rows it touches."""
        return self._dataset.block_shapes[0][1] >= self.width > 1024

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (H, W, C) of `dtype` and valid (H, W) bool of a window, which must lie inside the scene.

        Invalid: every channel is nodata, any is NaN or infinite, alpha or the mask is 0, a transparent palette entry.
        What invalid pixels hold means nothing. Raises `InputError` with status "truncated", "corrupt" or "vanished".
        """
        inside = window.intersect(Window(0, 0, self.width, self.height))
        if inside != window or window.area == 0:
            raise InputError(f"{self.path}: window {window} is not inside {self.width} x {self.height} pixels.", "bad-window")
        with gdal(self.path):
            if self.row_wise and self._may_keep_rows:
                return self._read_rows(window)
            return self._decode(window)

    def read_shrunk(self, window: Window, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `read`, but every so-manieth pixel of the window: (height, width, C) and (height, width), in memory for those only.

        GDAL takes them from the file's overviews where there are some.
        """
        with gdal(self.path):
            return self._decode(window, (height, width))

    def _read_rows(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The window out of full-width rows that are decoded once; straight from the file when no space is left for them."""
        if self._rows is None:
            block_rows = self._dataset.block_shapes[0][0]
            self._rows = DecodedRows(self.width, self.count, self.dtype, block_rows, self._decode)
        try:
            return self._rows.read(window)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._rows.close()
            self._rows, self._may_keep_rows = None, False
            return self._decode(window)

    def _decode(self, window: Window, shape: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        at = RasterioWindow(window.x, window.y, window.width, window.height)
        raw = self._dataset.read(list(self.bands), window=at, out_shape=shape and (len(self.bands), *shape))  # (C, H, W)
        valid = self._valid(raw, at, window)
        if self._palette is not None:
            colors = self._palette[np.minimum(raw[0], len(self._palette) - 1)]  # (H, W, C + alpha)
            return np.ascontiguousarray(colors[..., :-1]), valid & (colors[..., -1] > 0)
        pixels = np.ascontiguousarray(np.moveaxis(raw, 0, -1))
        if self._bilevel:
            pixels = (pixels > 0).astype(np.uint8) * np.uint8(255)
        elif np.iscomplexobj(pixels):
            pixels = np.abs(pixels)
        return pixels.astype(self.dtype, copy=False), valid

    def _valid(self, raw: np.ndarray, at: RasterioWindow, window: Window) -> np.ndarray:
        """(H, W) bool of stored values (C, H, W)."""
        valid = np.ones(raw.shape[1:], dtype=bool)
        if all(value is not None for value in self._nodata_values):
            empty = np.ones(raw.shape[1:], dtype=bool)
            for band, value in zip(raw, self._nodata_values, strict=True):
                empty &= band == value
            valid &= ~empty
        if raw.dtype.kind in "fc":
            valid &= np.isfinite(raw).all(axis=0)
        if self._alpha is not None:
            valid &= self._dataset.read(self._alpha, window=at, out_shape=valid.shape) > 0
        elif self._mask_band:
            valid &= self._dataset.read_masks(self.bands[0], window=at, out_shape=valid.shape) > 0
        if self._mask_file is not None:
            valid &= self._mask_file._decode(window, (raw.shape[1], raw.shape[2]))[0][..., 0] > 0
        return valid

    def close(self) -> None:
        """Close the file; also done by leaving the `with` block."""
        if self._rows is not None:
            self._rows.close()
        self._dataset.close()
        if self._mask_file is not None:
            self._mask_file.close()

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open_raster(
    path: str | Path, *, bands: Sequence[int] | None = None, sensor: str = "optical", follow_vrt: bool = False
) -> Raster:
    """Open an image for windowed reading.

    `bands`: 1-based bands in the order wanted. Without it, `sensor` "optical": the bands that call themselves red, green
    and blue if all three are there, else all; "sar": all; never alpha; more than 16 are refused.
    Raises `InputError`: status "not-a-raster", "empty", "truncated", "corrupt", "unsupported", "gcp-only", "too-many-bands",
    "block-too-large", "too-large", "vanished", "permission"; `SettingsError` when `bands` names a band the file has not.
    """
    path = Path(path).absolute()
    driver = sniff(path, follow_vrt=follow_vrt)
    refuse_truncated(path, driver)
    with gdal(path):
        dataset = rasterio.open(path, driver=driver, sharing=False)
        try:
            return Raster(path, dataset, driver, bands, sensor)
        except BaseException:
            dataset.close()
            raise


def _chosen_bands(path: Path, dataset: Any, bands: Sequence[int] | None, alpha: int | None, sensor: str) -> tuple[int, ...]:
    if bands is not None:
        wrong = [band for band in bands if not 1 <= band <= dataset.count]
        if wrong or not bands or len(bands) > MAX_CHANNELS:
            have = f"{path.name} has bands 1 to {dataset.count}, and at most {MAX_CHANNELS} can be chosen"
            raise SettingsError(f"--bands {','.join(map(str, bands))}: {have}.")
        return tuple(int(band) for band in bands)
    colors = list(dataset.colorinterp)
    if sensor == "optical" and all(colors.count(color) == 1 for color in _COLORS):
        return tuple(colors.index(color) + 1 for color in _COLORS)
    every = tuple(band for band in range(1, dataset.count + 1) if band != alpha)
    if not every or len(every) > MAX_CHANNELS:
        raise InputError(
            f"{path} has {len(every)} bands; at most {MAX_CHANNELS} are read at once: choose with --bands, e.g. --bands 4,3,2.",
            "too-many-bands",
        )
    return every


def _palette(dataset: Any, bands: tuple[int, ...]) -> np.ndarray | None:
    """(n, 4) uint8 RGBA of a single palette band; (n, 2) grey and alpha when it has no colours; None without palette."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    entries = dataset.colormap(bands[0])
    table = np.zeros((max(entries) + 1, 4), dtype=np.uint8)
    for index, color in entries.items():
        table[index] = color
    is_grey = (table[:, 0] == table[:, 1]).all() and (table[:, 1] == table[:, 2]).all()
    return table[:, 2:] if is_grey else table


def _is_bilevel(dataset: Any, bands: tuple[int, ...]) -> bool:
    return all(dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS") == "1" for band in bands)


def _stored_dtype(dataset: Any, bands: tuple[int, ...]) -> np.dtype:
    """What `dataset.read` returns for these bands."""
    names = [dataset.dtypes[band - 1] for band in bands]
    return np.result_type(*("complex64" if name == "complex_int16" else name for name in names))


def _read_dtype(stored: np.dtype) -> np.dtype:
    """The dtype of `Raster.read`: complex becomes amplitude; rare integers widen to ones every later step knows."""
    special = {"complex64": "float32", "complex128": "float64", "int8": "int16", "int64": "float64", "uint64": "float64"}
    return np.dtype(special.get(stored.name, stored.name))


def _fitting_nodata(value: float | None, stored: np.dtype) -> Any:
    """The nodata value as the file's dtype stores it; None when it cannot occur (NaN, or outside an integer's range)."""
    if value is None or np.isnan(value):
        return None
    if stored.kind in "iu":
        info = np.iinfo(stored)
        return stored.type(value) if info.min <= value <= info.max and float(value).is_integer() else None
    with np.errstate(over="ignore"):
        return stored.type(value)


def _refuse_too_large(path: Path, dataset: Any, stored: np.dtype) -> None:
    if dataset.width * dataset.height > MAX_PIXELS:
        raise InputError(f"{path} says it has {dataset.width} x {dataset.height} pixels; cut it into scenes.", "too-large")
    rows, columns = dataset.block_shapes[0]
    pixel_interleaved = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "PIXEL"
    size = rows * columns * stored.itemsize * (dataset.count if pixel_interleaved else 1)
    if size > MAX_BLOCK_BYTES:
        raise InputError(
            f"{path} stores blocks of {columns} x {rows} pixels, {size / 1e6:.0f} MB each when decoded"
            f" (limit {MAX_BLOCK_BYTES / 1e6:.0f} MB); {way_out(path)}",
            "block-too-large",
        )


def georeference_of(path: Path, dataset: Any) -> Georeference:
    """The file's own place, else that of a world file beside it; ground control points or RPCs alone are refused."""
    crs = dataset.crs.to_wkt() if dataset.crs else None
    a, b, c, d, e, f = tuple(dataset.transform)[:6]
    transform = (float(a), float(b), float(c), float(d), float(e), float(f))
    if transform == _IDENTITY:
        kind = "ground control points" if dataset.gcps[0] else "rational polynomials (RPC)" if dataset.rpcs else None
        if kind is not None:
            option = "-tps" if dataset.gcps[0] else "-rpc"
            raise InputError(
                f"{path} is placed by {kind} only, not by a grid; warp it first: gdalwarp {option} {path.name!r} warped.tif",
                "gcp-only",
            )
        beside = place_beside(path)
        if beside is not None:
            return Georeference(beside.transform, crs or beside.crs)
    return Georeference(transform, crs)
