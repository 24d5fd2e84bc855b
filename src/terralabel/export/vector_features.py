"""The features of a vector file, whoever made it: GeoPackage, GeoParquet, GeoJSON, Shapefile; nothing of them is trusted."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from terralabel.errors import InputError
from terralabel.export.ground import parse_crs
from terralabel.export.placement import Unusable

__all__ = ["DAMAGED", "Feature", "VectorFeatures", "checked_polygon", "sqlite_base"]

_BATCH = 4096
#: What the libraries raise on files that are damaged or hold nonsense.
DAMAGED = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pa.ArrowException,
    CRSError,
    sqlite3.Error,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
)


@dataclass(frozen=True)
class Feature:
    """One feature: its name for messages, attributes, geometry as read (None when it cannot be parsed)."""

    item: str
    attributes: dict[str, Any]
    geometry: shapely.Geometry | None

    def number(self, name: str) -> int | None:
        """A whole number attribute, or None when it is empty or absent."""
        value = self.attributes.get(name)
        if value is None or value == "" or (isinstance(value, float) and np.isnan(value)):
            return None
        try:
            whole = int(value)
            if isinstance(value, float) and whole != value:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise Unusable(f"bad-{name.replace('_', '-')}", f"{name} is {value!r}, expected a whole number") from None
        return whole

    def text(self, name: str) -> str | None:
        """A text attribute, or None."""
        value = self.attributes.get(name)
        return None if value is None else str(value)


class VectorFeatures:
    """An opened vector file: its layer, `crs` (None where it has none) and the names of its attributes, `fields`.

    Of several layers `layer` names the one that is meant, else the only one, or the one called "masks". Features are called by
    their place in the file, or, with `own_numbers`, in a GeoPackage by the fid that QGIS shows. Raises `InputError` for a file
    that is damaged, and `features` for one that breaks off midway.
    """

    def __init__(self, path: Path, layer: str = "", *, own_numbers: bool = False) -> None:
        self.path = path
        with path.open("rb") as file:
            magic = file.read(16)
        self._parquet = magic.startswith(b"PAR1")
        self._own_numbers = own_numbers and magic.startswith(b"SQLite format 3")
        try:
            if magic.startswith(b"SQLite format 3"):
                with closing(sqlite_base(path)) as base:
                    (state,) = base.execute("PRAGMA quick_check(1)").fetchone()
                if state != "ok":  # GDAL would end early without an error, and what it did not read would count as deleted
                    raise ValueError(state)
            self.layer = None if self._parquet else self._choose_layer(layer)
            self.crs, self.fields = self._open_parquet() if self._parquet else self._open()
        except DAMAGED as error:
            raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}).", "damaged") from error

    def _choose_layer(self, wanted: str) -> str:
        layers = [str(name) for name, kind in pyogrio.list_layers(self.path) if kind is not None]
        if wanted and wanted not in layers:
            raise InputError(f"{self.path}: has no layer {wanted!r}; it has: {', '.join(layers) or '(none)'}.", "layers")
        if wanted or "masks" in layers:
            return wanted or "masks"
        if len(layers) != 1:
            raise InputError(
                f"{self.path}: has the layers {', '.join(layers) or '(none)'}; call the edited one 'masks'.", "layers"
            )
        return layers[0]

    def _open_parquet(self) -> tuple[CRS | None, tuple[str, ...]]:
        schema = pq.read_schema(self.path)
        metadata = schema.metadata or {}
        if b"geo" not in metadata:
            raise InputError(f"{self.path}: Parquet without GeoParquet's metadata.", "not-labels")
        self._geo = json.loads(metadata[b"geo"])
        column = self._geo["columns"][self._geo["primary_column"]]
        if column.get("encoding") != "WKB":
            raise InputError(f"{self.path}: GeoParquet in {column.get('encoding')}; write it as WKB.", "unsupported")
        crs = column.get("crs", "OGC:CRS84")
        names = tuple(name for name in schema.names if name not in self._geo["columns"])
        return (None if crs is None else CRS.from_user_input(crs)), names

    def _open(self) -> tuple[CRS | None, tuple[str, ...]]:
        info = pyogrio.read_info(self.path, layer=self.layer)
        crs = parse_crs(info["crs"])
        return (None if crs is None or "undefined" in crs.name.lower() else crs), tuple(map(str, info["fields"]))

    def features(self, names: Sequence[str]) -> Iterator[Feature]:
        """All features with those of the attributes `names` that the file has."""
        try:
            yield from self._features(names)
        except DAMAGED as error:
            raise InputError(f"{self.path}: breaks off ({' '.join(str(error).split())}).", "damaged") from error

    def _features(self, wanted: Sequence[str]) -> Iterator[Feature]:
        for batch, column, fids in self._batches():
            names = [n for n in wanted if n in batch.schema.names]
            rows = batch.select(names).to_pylist() if names else [{} for _ in range(batch.num_rows)]
            wkb = np.array(batch.column(column).to_pylist(), dtype=object)
            geometries = shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore"))
            for row, geometry, fid in zip(rows, geometries, fids, strict=True):
                item = f"feature {fid}" if row.get("id") is None else f"feature {fid} (id {row['id']})"
                yield Feature(item, row, geometry)

    def _batches(self) -> Iterator[tuple[Any, str, list[int]]]:
        if self._parquet:
            start = 0
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(_BATCH):
                    yield batch, self._geo["primary_column"], list(range(start, start + batch.num_rows))
                    start += batch.num_rows
            return
        start, own = 0, self._own_numbers
        opened = pyogrio.open_arrow(self.path, layer=self.layer, batch_size=_BATCH, use_pyarrow=True, return_fids=own)
        with opened as (meta, reader):
            for batch in reader:
                counted = list(range(start, start + batch.num_rows))
                fids = batch.column(meta["fid_column"]).to_pylist() if own else counted
                yield batch, meta["geometry_name"] or "wkb_geometry", fids
                start += batch.num_rows


def checked_polygon(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """A valid polygon with area; raises `Unusable` with the reason why it is none."""
    if geometry is None or geometry.is_empty:
        raise Unusable("no-geometry", "has no geometry, or one of fewer than 3 points")
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise Unusable("not-a-polygon", f"is a {geometry.geom_type}, expected a polygon")
    if not np.all(np.isfinite(shapely.get_coordinates(geometry))):
        raise Unusable("bad-coordinates", "has coordinates that are no finite numbers")
    if not geometry.is_valid:
        raise Unusable("self-crossing", f"is not a valid polygon ({shapely.is_valid_reason(geometry)})")
    return geometry


def sqlite_base(path: Path) -> sqlite3.Connection:
    """A GeoPackage opened to be read, and nothing written beside it."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)
