"""Vector files: GeoPackage that QGIS opens coloured, GeoParquet for many objects, GeoJSON for the web."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely

from terralabel.contracts import RunView
from terralabel.core.files import atomic_path
from terralabel.errors import RunError
from terralabel.export.features import (
    LABEL_SCHEMA,
    MASK_SCHEMA,
    TILE_SCHEMA,
    Outlines,
    label_batches,
    mask_batches,
    tile_batches,
)
from terralabel.export.ground import CrsGroup, crs_groups
from terralabel.export.note import Note
from terralabel.export.rasters import write_error
from terralabel.export.styles import class_style, status_style, verdict_style
from terralabel.export.verdicts import VERDICT_LAYERS, VERDICT_SCHEMA, verdict_batches, verdicts_of

__all__ = ["EXPORT_TABLE", "GeoJson", "GeoPackage", "GeoParquet"]

#: The table in our GeoPackages that says what was exported, so that corrections can be told from subsets.
EXPORT_TABLE = "terralabel_export"
#: Ends the name of the compacted copy while it is written.
_COMPACT = "-compact"
#: Times inside files are this, so that the same run always gives the same file.
_TIME = "1970-01-01T00:00:00.000Z"
_WRITE_ERRORS = (
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.FeatureError,
    pyogrio.errors.GeometryError,
)


def _batches(run: RunView, group: CrsGroup, layer: str, outlines: Outlines) -> Iterator[pa.RecordBatch]:
    if layer in VERDICT_LAYERS:
        yield from verdict_batches(run, group.scenes, layer, outlines)
        return
    for scene in group.scenes:
        if layer == "masks":
            yield from mask_batches(run, scene, outlines)
        elif layer == "labels":
            yield from label_batches(run, scene, outlines)
        else:
            yield from tile_batches(run, scene)


_LAYERS = {
    "masks": (MASK_SCHEMA, "MultiPolygon"),
    "labels": (LABEL_SCHEMA, "MultiPolygon"),
    "tiles": (TILE_SCHEMA, "Polygon"),
    **dict.fromkeys(VERDICT_LAYERS, (VERDICT_SCHEMA, "MultiPolygon")),
}


def _layers(run: RunView) -> list[str]:
    """The layers of a run: those of verdicts only where somebody has judged its labels."""
    return [layer for layer in _LAYERS if layer not in VERDICT_LAYERS or verdicts_of(run) is not None]


def _file_names(groups: list[CrsGroup], stem: str, suffix: str) -> list[str]:
    """One file per coordinate system; a single one needs no suffix."""
    if len(groups) == 1:
        return [f"{stem}{suffix}"]
    return [f"{stem}-{group.suffix}{suffix}" for group in groups]


@dataclass(frozen=True)
class GeoPackage:
    """`labels.gpkg` with the layers masks (objects), labels (classes, dissolved) and tiles, each with its QGIS style.

    Where labels were judged there are three more: accepted, review and rejected, the worst first, with quality and reasons.

    One file per coordinate system (`labels-epsg-32632.gpkg`, `labels-no-crs.gpkg`): none is reprojected and none invented.
    Scenes without any placement are drawn at (column, -row), where QGIS shows such images. With `wgs84` outlines are in longitude
    and latitude instead (`labels-wgs84.gpkg`), of the scenes that have a coordinate system.
    """

    simplify: float = 0.0
    max_vertices: int = 0
    name: str = "geopackage"
    wgs84: bool = False

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the files, streaming: memory does not grow with the number of objects."""
        outlines = Outlines(self.simplify, self.max_vertices)
        groups = [group for group in crs_groups(run.scenes) if not self.wgs84 or group.crs is not None]
        if not groups:
            raise RunError("No scene has a coordinate system, so none can be in WGS 84: use geopackage.")
        files = [out / name for name in _file_names(groups, "labels-wgs84" if self.wgs84 else "labels", ".gpkg")]
        for group, final in zip(groups, files, strict=True):
            with atomic_path(final) as temporary:
                try:
                    with _one_sync():
                        for layer in _layers(run):
                            _write_layer(temporary, run, group, layer, outlines, self.wgs84)
                    _finish(temporary, run, group, outlines)
                except (*_WRITE_ERRORS, sqlite3.Error) as error:
                    raise write_error(error, final) from error
                finally:
                    for side in ("-journal", "-wal", "-shm", _COMPACT):
                        _beside(temporary, side).unlink(missing_ok=True)
        return files


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _one_sync() -> Iterator[None]:
    """SQLite without its own syncs: the file is synced once, before it gets its name, and a crash leaves no half of it."""
    option = "OGR_SQLITE_SYNCHRONOUS"
    before = pyogrio.get_gdal_config_option(option)
    pyogrio.set_gdal_config_options({option: "OFF"})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({option: before})


def geopackage_wgs84() -> GeoPackage:
    """`GeoPackage` in longitude and latitude, whatever the images are in."""
    return GeoPackage(name="geopackage-wgs84", wgs84=True)


def _degrees(group: CrsGroup) -> Callable[[np.ndarray], np.ndarray]:
    """(n, 2) coordinates of a group as longitude and latitude."""
    from pyproj import Transformer

    to_degrees = Transformer.from_crs(group.crs, "EPSG:4326", always_xy=True)
    return lambda xy: np.stack(to_degrees.transform(xy[:, 0], xy[:, 1]), axis=1)


def _in_degrees(batch: pa.RecordBatch, degrees: Callable[[np.ndarray], np.ndarray]) -> pa.RecordBatch:
    """A batch with its outlines in longitude and latitude."""
    column = batch.schema.get_field_index("geometry")
    placed = shapely.transform(shapely.from_wkb(batch.column(column).to_numpy(zero_copy_only=False)), degrees)
    return batch.set_column(column, batch.schema.field(column), pa.array(shapely.to_wkb(placed), batch.column(column).type))


def _write_layer(path: Path, run: RunView, group: CrsGroup, layer: str, outlines: Outlines, wgs84: bool) -> None:
    """Stream one layer into the GeoPackage."""
    schema, geometry_type = _LAYERS[layer]
    degrees = _degrees(group) if wgs84 else None
    failed: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for batch in _batches(run, group, layer, outlines):
                yield batch if degrees is None else _in_degrees(batch, degrees)
        except BaseException as error:
            failed.append(error)  # on its way through the C stream it would lose its type and half of its words
            raise

    options: dict[str, Any] = {} if group.crs is not None else {"SRID": "-1"}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")  # a coordinate system is never invented
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, batches()),
                path,
                layer=layer,
                driver="GPKG",
                geometry_name="geometry",
                geometry_type=geometry_type,
                crs="EPSG:4326" if wgs84 else group.crs.to_wkt() if group.crs is not None else None,
                dataset_options={"VERSION": "1.3"},  # what QGIS 3.22 and its contemporaries read without a warning
                layer_options={"GEOMETRY_NAME": "geom", "SPATIAL_INDEX": "YES", **options},
            )
    except Exception:
        if failed:
            raise failed[0] from None
        raise


def _finish(path: Path, run: RunView, group: CrsGroup, outlines: Outlines) -> None:
    """Add styles and what was exported; fix the times; compact, which also makes the bytes depend on content only."""
    classes = class_style(run.classes)
    objects = class_style(run.classes, opacity=0.4, order="area_px")  # they overlap
    styles = [("masks", objects), ("labels", classes), ("tiles", status_style())]
    styles += [(layer, verdict_style(layer)) for layer in _layers(run) if layer in VERDICT_LAYERS]
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("PRAGMA synchronous = OFF")
        base.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), "
            "f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), "
            "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')))"
        )
        base.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, "
            "styleSLD, useAsDefault, description, owner, update_time) VALUES ('', '', ?, 'geom', ?, ?, '', 1, ?, '', ?)",
            [(layer, layer, qml, f"TerraLabel {layer}", _TIME) for layer, qml in styles],
        )
        note = json.dumps(Note.of(run, group.scenes, outlines).to_json())
        base.execute(f"CREATE TABLE {EXPORT_TABLE} (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, note TEXT NOT NULL)")
        base.execute(f"INSERT INTO {EXPORT_TABLE} (note) VALUES (?)", (note,))  # noqa: S608
        base.executemany(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change) VALUES (?, 'attributes', ?, '', ?)",
            [(table, table, _TIME) for table in ("layer_styles", EXPORT_TABLE)],
        )
        base.execute("UPDATE gpkg_contents SET last_change = ?", (_TIME,))
    compact = _beside(path, _COMPACT)
    compact.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as base:
        base.execute("PRAGMA synchronous = OFF")
        base.execute("VACUUM INTO ?", (str(compact),))  # a plain VACUUM writes all of it three times, once where /tmp is
    compact.replace(path)


@dataclass(frozen=True)
class GeoParquet:
    """`masks.parquet`, `labels.parquet` and `tiles.parquet` (GeoParquet 1.1: WKB, bounding boxes, PROJJSON), one set per CRS."""

    simplify: float = 0.0
    max_vertices: int = 0
    name: str = "geoparquet"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the files in row groups, with page checksums."""
        outlines = Outlines(self.simplify, self.max_vertices)
        groups = crs_groups(run.scenes)
        written = []
        for layer in _layers(run):
            for group, name in zip(groups, _file_names(groups, layer, ".parquet"), strict=True):
                written.append(out / name)
                note = Note.of(run, group.scenes, outlines)
                _write_parquet(written[-1], group, layer, note, _batches(run, group, layer, outlines))
        return written


_BOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])


def _write_parquet(final: Path, group: CrsGroup, layer: str, note: Note, batches: Iterable[pa.RecordBatch]) -> None:
    schema, geometry_type = _LAYERS[layer]
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [geometry_type],
        "crs": group.crs.to_json_dict() if group.crs is not None else None,
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    metadata = {"geo": json.dumps(geo), "terralabel": json.dumps(note.to_json())}
    full = schema.append(pa.field("bbox", _BOX)).with_metadata(metadata)
    with (
        atomic_path(final) as temporary,
        pq.ParquetWriter(temporary, full, compression="zstd", write_page_checksum=True) as writer,
    ):
        for batch in batches:
            bounds = shapely.bounds(shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False)))
            box = pa.StructArray.from_arrays([pa.array(side) for side in bounds.reshape(-1, 4).T], fields=list(_BOX))
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, box], schema=full), row_group_size=65536)


@dataclass(frozen=True)
class GeoJson:
    """`masks.geojson`, `labels.geojson` (and those of judged labels) in WGS 84 longitude and latitude (RFC 7946), of the scenes that have a CRS."""

    simplify: float = 0.0
    max_vertices: int = 0
    name: str = "geojson"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the files, streaming."""
        outlines = Outlines(self.simplify, self.max_vertices)
        groups = [group for group in crs_groups(run.scenes) if group.crs is not None]
        if not groups:
            raise RunError(
                "GeoJSON is in longitude and latitude, and no scene has a coordinate system: use geopackage or coco."
            )
        return [
            _write_geojson(out / f"{layer}.geojson", run, groups, layer, outlines) for layer in _layers(run) if layer != "tiles"
        ]


def _write_geojson(final: Path, run: RunView, groups: list[CrsGroup], layer: str, outlines: Outlines) -> Path:
    with atomic_path(final) as temporary, temporary.open("w", encoding="utf-8") as file:
        note = Note.of(run, [scene for group in groups for scene in group.scenes], outlines)
        file.write(f'{{"type": "FeatureCollection", "terralabel": {json.dumps(note.to_json())}, "features": [')
        separator = "\n"
        for group in groups:
            degrees = _degrees(group)
            for batch in _batches(run, group, layer, outlines):
                placed = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
                geometry = shapely.orient_polygons(shapely.transform(placed, degrees))
                finite = np.isfinite(shapely.bounds(geometry)).all(axis=1)  # not where a projection ends
                texts = np.where(finite, shapely.to_geojson(geometry), "null")
                for row, shape in zip(batch.drop_columns(["geometry"]).to_pylist(), texts, strict=True):
                    properties = json.dumps(row, ensure_ascii=False)
                    file.write(f'{separator}{{"type": "Feature", "properties": {properties}, "geometry": {shape}}}')
                    separator = ",\n"
        file.write("\n]}\n")
    return final
