"""Vector features as edits: GeoPackage as QGIS leaves it, GeoParquet, GeoJSON, in any coordinate system."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyproj import CRS
from pyproj.exceptions import CRSError

from terralabel.core.classes import Classes
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.edits import Edit, Index, Reject, fingerprint, known_class
from terralabel.export.ground import parse_crs
from terralabel.export.note import Note
from terralabel.export.placement import Placement, Unusable
from terralabel.export.polygons import object_polygons, place
from terralabel.export.vectors import EXPORT_TABLE

__all__ = ["VectorFile"]

_BATCH = 4096
#: What the libraries raise on files that are damaged or hold nonsense.
_DAMAGED = (
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
class _Feature:
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


@dataclass
class VectorFile:
    """An opened vector file beside the scenes of a run."""

    path: Path
    scenes: tuple[Scene, ...]
    run_id: str
    #: What the file says of itself, where only the caller could read it (GeoJSON).
    said: Note | None = None

    def __post_init__(self) -> None:
        self.note = self.said or Note()
        self._complete = False
        with self.path.open("rb") as file:
            magic = file.read(16)
        self._parquet = magic.startswith(b"PAR1")
        try:
            if magic.startswith(b"SQLite format 3"):
                self._read_export_table()
            self._layer = None if self._parquet else self._choose_layer()
            self.crs = self._read_crs()
        except _DAMAGED as error:
            raise InputError(f"{self.path}: cannot be read ({' '.join(str(error).split())}).", "damaged") from error
        self._place = Placement(self.crs, self.scenes)

    def _choose_layer(self) -> str:
        layers = [str(name) for name, kind in pyogrio.list_layers(self.path) if kind is not None]
        if "masks" in layers:
            return "masks"
        if len(layers) != 1:
            raise InputError(
                f"{self.path}: has the layers {', '.join(layers) or '(none)'}; call the edited one 'masks'.", "layers"
            )
        return layers[0]

    def _read_export_table(self) -> None:
        """Whether this is a whole export of this run; a layer saved into another file does not have the table."""
        with closing(sqlite3.connect(f"file:{_quoted(self.path)}?mode=ro&immutable=1", uri=True)) as base:
            (state,) = base.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":  # GDAL would end early without an error, and what it did not read would count as deleted
                raise ValueError(state)
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (EXPORT_TABLE,)).fetchone():
                return
            rows = base.execute(f"SELECT note FROM {EXPORT_TABLE}").fetchall()  # noqa: S608
        found = Note.read(json.loads(rows[0][0]), self.run_id, self.path) if len(rows) == 1 else None
        self._complete = found is not None
        self.note = found or Note()

    def _read_crs(self) -> CRS | None:
        if self._parquet:
            metadata = pq.read_schema(self.path).metadata or {}
            self.note = Note.read(json.loads(metadata.get(b"terralabel", b"null")), self.run_id, self.path) or Note()
            if b"geo" not in metadata:
                raise InputError(f"{self.path}: Parquet without GeoParquet's metadata.", "not-labels")
            self._geo = json.loads(metadata[b"geo"])
            column = self._geo["columns"][self._geo["primary_column"]]
            if column.get("encoding") != "WKB":
                raise InputError(f"{self.path}: GeoParquet in {column.get('encoding')}; write it as WKB.", "unsupported")
            crs = column.get("crs", "OGC:CRS84")
            return None if crs is None else CRS.from_user_input(crs)
        text = pyogrio.read_info(self.path, layer=self._layer)["crs"]
        crs = parse_crs(text)
        return None if crs is None or "undefined" in crs.name.lower() else crs

    def _readable(self) -> Iterator[_Feature]:
        """All features; a file that breaks off midway is refused, because its rest would count as deleted."""
        try:
            yield from self._features()
        except _DAMAGED as error:
            raise InputError(f"{self.path}: breaks off ({' '.join(str(error).split())}).", "damaged") from error

    def _features(self) -> Iterator[_Feature]:
        for batch, column, fids in self._batches():
            names = [n for n in ("id", "scene", "class_id", "class_name", "run_id") if n in batch.schema.names]
            rows = batch.select(names).to_pylist() if names else [{} for _ in range(batch.num_rows)]
            wkb = np.array(batch.column(column).to_pylist(), dtype=object)
            geometries = shapely.force_2d(shapely.from_wkb(wkb, on_invalid="ignore"))
            for row, geometry, fid in zip(rows, geometries, fids, strict=True):
                item = f"feature {fid}" if row.get("id") is None else f"feature {fid} (id {row['id']})"
                yield _Feature(item, row, geometry)

    def _batches(self) -> Iterator[tuple[Any, str, list[int]]]:
        if self._parquet:
            start = 0
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(_BATCH):
                    yield batch, self._geo["primary_column"], list(range(start, start + batch.num_rows))
                    start += batch.num_rows
            return
        start = 0
        with pyogrio.open_arrow(self.path, layer=self._layer, batch_size=_BATCH, use_pyarrow=True) as (meta, reader):
            for batch in reader:
                yield batch, meta["geometry_name"] or "wkb_geometry", list(range(start, start + batch.num_rows))
                start += batch.num_rows

    def prints(self, objects: Objects, scene: Scene) -> list[int]:
        """Fingerprints of objects as an export holds them."""
        outlines = self.note.outlines
        polygons = object_polygons(objects, simplify=outlines.simplify, max_vertices=outlines.max_vertices)
        return [fingerprint(wkb) for wkb in shapely.to_wkb(place(polygons, scene.georeference))]

    def edits(self, index: Index, classes: Classes) -> tuple[list[Edit], list[Reject], set[int], int]:
        """(edits, rejects, ids of the run that the file has, unchanged)."""
        edits: list[Edit] = []
        rejected: list[Reject] = []
        seen: set[int] = set()
        shown: set[tuple[int, int]] = set()
        unchanged = 0
        for feature in self._readable():
            try:
                edit = self._edit(feature, index, classes, seen, shown)
            except Unusable as why:
                rejected.append(Reject(feature.item, *why.args))
                continue
            if edit is None:
                unchanged += 1
            else:
                edits.append(edit)
        return edits, rejected, seen, unchanged

    def _edit(
        self, feature: _Feature, index: Index, classes: Classes, seen: set[int], shown: set[tuple[int, int]]
    ) -> Edit | None:
        number = feature.number("id")
        row = None if number is None else index.find(number)
        if number is not None and row is None:
            raise Unusable("dangling-id", f"the run has no object {number}; empty the id to add it as a new one")
        if row is not None:
            seen.add(int(index.id[row]))
        self._check_run(feature)
        before = None if row is None else int(index.class_id[row])
        asked = self._class(feature, classes, before)
        class_id = None if asked == before else asked
        geometry = _checked(feature.geometry)
        print_ = fingerprint(shapely.to_wkb(geometry))
        if row is not None:
            key = (int(index.id[row]), print_)
            if key in shown:
                raise Unusable("duplicate", f"object {key[0]} comes twice with the same outline")
            shown.add(key)
            if print_ == int(index.print[row]):
                scene = self.scenes[int(index.scene[row])]
                return None if class_id is None else Edit(feature.item, key[0], scene.key, class_id, None)
        scene = self._scene(feature, index, row, geometry)
        shape = self._place.shape(geometry, scene)
        return Edit(feature.item, None if row is None else int(index.id[row]), scene.key, class_id, shape)

    def _class(self, feature: _Feature, classes: Classes, before: int | None) -> int:
        try:
            return known_class(classes, feature.number("class_id"), feature.text("class_name"), before, self.note.classes)
        except KeyError as error:
            raise Unusable("unknown-class", f"'{error.args[0]}' is no class of the run") from None

    def _check_run(self, feature: _Feature) -> None:
        written_by = feature.text("run_id")
        if self.run_id and written_by and feature.attributes.get("id") is not None and written_by != self.run_id:
            raise Unusable("other-run", f"belongs to run {written_by}; empty its id to add it as a new object")

    def _scene(self, feature: _Feature, index: Index, row: int | None, geometry: shapely.Geometry) -> Scene:
        if row is not None:
            return self.scenes[int(index.scene[row])]
        key = feature.text("scene")
        if key:
            for scene in self.scenes:
                if scene.key == key:
                    return scene
            raise Unusable("unknown-scene", f"the run has no scene {key!r}")
        return self._place.scene_of(geometry)

    def missing(self, index: Index, seen: set[int]) -> np.ndarray:
        """Ids of objects that were deleted; none unless the file is the whole export of this run."""
        exported = set(self.note.scenes) if self._complete else set()
        inside = np.isin(index.scene, [k for k, scene in enumerate(self.scenes) if scene.key in exported])
        expected = index.id[inside]
        return expected[~np.isin(expected, np.fromiter(seen, dtype=np.int64, count=len(seen)))]


def _checked(geometry: shapely.Geometry | None) -> shapely.Geometry:
    """A valid polygon with area, or the reason why not."""
    if geometry is None or geometry.is_empty:
        raise Unusable("no-geometry", "has no geometry, or one of fewer than 3 points")
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise Unusable("not-a-polygon", f"is a {geometry.geom_type}, expected a polygon")
    if not np.all(np.isfinite(shapely.get_coordinates(geometry))):
        raise Unusable("bad-coordinates", "has coordinates that are no finite numbers")
    if not geometry.is_valid:
        raise Unusable("self-crossing", f"is not a valid polygon ({shapely.is_valid_reason(geometry)})")
    return geometry


def _quoted(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
