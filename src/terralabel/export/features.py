"""A run as a stream of vector features: one Arrow batch at a time, the same for GeoPackage, GeoParquet and GeoJSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
import shapely
from rasterio.windows import Window as RasterWindow

from terralabel.contracts import RunView, TileRecord
from terralabel.core.classes import IGNORE
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import SettingsError
from terralabel.export.ground import GroundArea
from terralabel.export.names import relative_sources
from terralabel.export.polygons import object_polygons, place, simplified, trace
from terralabel.export.rasters import label_environment
from terralabel.export.segments import Segments

__all__ = [
    "LABEL_SCHEMA",
    "MASK_SCHEMA",
    "TILE_SCHEMA",
    "Outlines",
    "geometry",
    "label_batches",
    "label_segments",
    "mask_batches",
    "read_labels",
    "tile_batches",
]

#: Longest side of the part of a label raster that is outlined at once; larger scenes are cut along this grid.
_LABEL_SIDE = 4096
#: A part with more vertical segments than this (speckle) is cut in four, so that memory stays bounded.
_LABEL_SEGMENTS = 1_000_000
#: Tiles per batch.
_TILE_BATCH = 4096

MASK_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("scene", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("cluster_id", pa.int32()),
        ("score", pa.float32()),
        ("quality", pa.float32()),
        ("stability", pa.float32()),
        ("status", pa.string()),
        ("source", pa.string()),
        ("model", pa.string()),
        ("run_id", pa.string()),
        ("area_px", pa.int64()),
        ("area_m2", pa.float64()),
        ("geometry", pa.binary()),
    ]
)
LABEL_SCHEMA = pa.schema(
    [
        ("scene", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("run_id", pa.string()),
        ("area_px", pa.int64()),
        ("area_m2", pa.float64()),
        ("geometry", pa.binary()),
    ]
)
TILE_SCHEMA = pa.schema(
    [
        ("tile", pa.string()),
        ("scene", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("masks", pa.int64()),
        ("run_id", pa.string()),
        ("geometry", pa.binary()),
    ]
)


@dataclass(frozen=True)
class Outlines:
    """How masks become polygons.

    `simplify` is how far, in pixels, an outline may move (0: exact pixel edges). `max_vertices` caps the vertices of one
    feature (0: no cap). Both keep polygons valid.
    """

    simplify: float = 0.0
    max_vertices: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.simplify < 1e6 or self.max_vertices < 0:
            raise SettingsError(
                f"simplify={self.simplify}, max_vertices={self.max_vertices}: expected pixels >= 0 and a count >= 0."
            )


def mask_batches(run: RunView, scene: Scene, outlines: Outlines) -> Iterator[pa.RecordBatch]:
    """The objects of a scene as rows of `MASK_SCHEMA`, in map coordinates, in the order of the run."""
    ground = GroundArea(scene)
    names = {**{entry.id: entry.name for entry in run.classes}, IGNORE: ""}
    source = str(relative_sources(run.scenes)[scene.key])
    for objects in run.objects(scene.key):
        polygons = object_polygons(objects, simplify=outlines.simplify, max_vertices=outlines.max_vertices)
        yield _mask_batch(run, objects, polygons, scene, ground, names, source)


def _mask_batch(
    run: RunView,
    objects: Objects,
    polygons: np.ndarray,
    scene: Scene,
    ground: GroundArea,
    names: dict[int, str],
    source: str,
) -> pa.RecordBatch:
    n = len(objects)
    box = objects.bbox
    area = objects.area * ground.per_pixel(box[:, 0] + box[:, 2] / 2, box[:, 1] + box[:, 3] / 2)
    columns = [
        pa.array(objects.id),
        pa.array([scene.key] * n, pa.string()),
        pa.array(objects.class_id),
        pa.array([names.get(int(k), "") for k in objects.class_id], pa.string()),
        pa.array(objects.cluster_id),
        pa.array(objects.score),
        pa.array(objects.predicted_iou, from_pandas=True),  # null where nobody knows
        pa.array(objects.stability_score, from_pandas=True),
        pa.array(objects.status, pa.string()),
        pa.array([source] * n, pa.string()),
        pa.array([run.masks_name] * n, pa.string()),
        pa.array([run.id] * n, pa.string()),
        pa.array(objects.area),
        pa.array(area, pa.float64(), from_pandas=True),  # NaN becomes null: no area without a coordinate system
        geometry(polygons, scene),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=MASK_SCHEMA)
    empty = shapely.is_empty(polygons)
    return batch.filter(pa.array(~empty)) if empty.any() else batch


def label_batches(run: RunView, scene: Scene, outlines: Outlines) -> Iterator[pa.RecordBatch]:
    """The label raster as rows of `LABEL_SCHEMA`: one feature per class, and per 4096-pixel square in larger scenes."""
    ground = GroundArea(scene)
    path = run.label_path(scene.key)
    for y in range(0, scene.height, _LABEL_SIDE):
        for x in range(0, scene.width, _LABEL_SIDE):
            window = Window(x, y, min(_LABEL_SIDE, scene.width - x), min(_LABEL_SIDE, scene.height - y))
            for part, labels in _quiet_parts(window, read_labels(path, window)):
                yield _label_batch(run, scene, outlines, ground, part, labels)


def read_labels(path: Path, window: Window) -> np.ndarray:
    """(h, w) class ids of a window of a label raster."""
    with label_environment(path, "read"), rasterio.open(path) as raster:
        place = RasterWindow(window.x, window.y, window.width, window.height)  # type: ignore[call-arg]
        return raster.read(1, window=place)


def _quiet_parts(window: Window, labels: np.ndarray) -> Iterator[tuple[Window, np.ndarray]]:
    """The window, or its quarters where it has too many segments to be outlined at once."""
    changes = np.count_nonzero(labels[1:] != labels[:-1]) + labels.shape[1]
    if changes <= _LABEL_SEGMENTS or min(labels.shape) < 2:
        yield window, labels
        return
    half_h, half_w = labels.shape[0] // 2, labels.shape[1] // 2
    for y0, y1 in ((0, half_h), (half_h, labels.shape[0])):
        for x0, x1 in ((0, half_w), (half_w, labels.shape[1])):
            yield from _quiet_parts(Window(window.x + x0, window.y + y0, x1 - x0, y1 - y0), labels[y0:y1, x0:x1])


def _label_batch(
    run: RunView, scene: Scene, outlines: Outlines, ground: GroundArea, window: Window, labels: np.ndarray
) -> pa.RecordBatch:
    ids, segments = label_segments(labels, window)
    length = segments.bottom - segments.top
    square = length * ground.per_pixel(segments.column + 0.5, (segments.top + segments.bottom) / 2)
    names = {entry.id: entry.name for entry in run.classes}
    polygons = simplified(trace(segments), outlines.simplify, outlines.max_vertices)
    n = len(ids)
    columns = [
        pa.array([scene.key] * n, pa.string()),
        pa.array(ids, pa.int32()),
        pa.array([names.get(int(k), "") for k in ids], pa.string()),
        pa.array([run.id] * n, pa.string()),
        pa.array(np.bincount(segments.owner, length, n).astype(np.int64)),
        pa.array(np.bincount(segments.owner, square, n), pa.float64(), from_pandas=True),
        geometry(polygons, scene),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=LABEL_SCHEMA)


def label_segments(labels: np.ndarray, window: Window) -> tuple[np.ndarray, Segments]:
    """(class ids ascending, their segments in scene pixels) of an (h, w) block of a label raster; 255 is left out."""
    height, width = labels.shape
    flat = labels.T.ravel()
    new = np.ones(flat.size, dtype=bool)
    new[1:] = flat[1:] != flat[:-1]
    new[::height] = True
    start = np.flatnonzero(new)
    stop = np.append(start[1:], flat.size)
    value = flat[start]
    ids = np.unique(value)
    ids = ids[ids != IGNORE]
    keep = np.flatnonzero(value != IGNORE)
    keep = keep[np.argsort(value[keep], kind="stable")]
    column, top = np.divmod(start[keep], height)
    bottom = top + stop[keep] - start[keep]
    owner = np.searchsorted(ids, value[keep])
    return ids, Segments(owner, column + window.x, top + window.y, bottom + window.y, len(ids))


def tile_batches(run: RunView, scene: Scene) -> Iterator[pa.RecordBatch]:
    """The tiles of a scene as rows of `TILE_SCHEMA`; the geometry is the window that was looked at."""
    pending: list[TileRecord] = []
    for tile in run.tiles(scene.key):
        pending.append(tile)
        if len(pending) == _TILE_BATCH:
            yield _tile_batch(run, scene, pending)
            pending = []
    if pending:
        yield _tile_batch(run, scene, pending)


def _tile_batch(run: RunView, scene: Scene, tiles: list[TileRecord]) -> pa.RecordBatch:
    corners = np.array([(t.window.x, t.window.y, t.window.right, t.window.bottom) for t in tiles], dtype=np.float64)
    columns = [
        pa.array([t.key for t in tiles], pa.string()),
        pa.array([scene.key] * len(tiles), pa.string()),
        pa.array([t.status for t in tiles], pa.string()),
        pa.array([t.reason or None for t in tiles], pa.string()),
        pa.array([t.masks for t in tiles], pa.int64()),
        pa.array([run.id] * len(tiles), pa.string()),
        geometry(shapely.box(*corners.T), scene),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TILE_SCHEMA)


def geometry(pixels: np.ndarray, scene: Scene) -> pa.Array:
    """WKB in map coordinates of geometries in scene pixels."""
    return pa.array(shapely.to_wkb(place(pixels, scene.georeference)), pa.binary())
