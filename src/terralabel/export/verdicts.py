"""Judged labels as vector features: one layer each for what was accepted, is to be reviewed, was rejected; the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
import pyarrow as pa
import shapely

from terralabel.contracts import RunView
from terralabel.core.grid import Window
from terralabel.core.quality import EMPTY, Verdicts
from terralabel.core.scene import Scene
from terralabel.export.features import Outlines, geometry, label_segments, read_labels
from terralabel.export.ground import GroundArea
from terralabel.export.polygons import simplified, trace

__all__ = ["VERDICT_LAYERS", "VERDICT_SCHEMA", "unit_mask", "verdict_batches", "verdicts_of"]

#: Layer -> the decision whose units it holds.
VERDICT_LAYERS = {"accepted": "accept", "review": "review", "rejected": "reject"}
_BATCH = 512
#: Windows of labels, and their objects, that are remembered: the worst units lie all over a run.
_REMEMBERED = 32

VERDICT_SCHEMA = pa.schema(
    [
        ("rank", pa.int64()),
        ("scene", pa.string()),
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("quality", pa.float32()),
        ("status", pa.string()),
        ("reasons", pa.string()),
        ("run_id", pa.string()),
        ("area_px", pa.int64()),
        ("area_m2", pa.float64()),
        ("geometry", pa.binary()),
    ]
)


def verdicts_of(run: RunView) -> Verdicts | None:
    """What is known of the quality of a run's labels, if anybody has judged them."""
    return getattr(run, "verdicts", None)


def verdict_batches(run: RunView, scenes: tuple[Scene, ...], layer: str, outlines: Outlines) -> Iterator[pa.RecordBatch]:
    """The judged units of one layer as rows of `VERDICT_SCHEMA`, worst first over all of these scenes; `rank` is 1 for the worst."""
    verdicts = verdicts_of(run)
    if verdicts is None:
        return
    by_key = {scene.key: scene for scene in scenes}
    wanted = verdicts.decided(VERDICT_LAYERS[layer])
    wanted = wanted.take(np.array([i for i, key in enumerate(wanted.scene) if key in by_key], dtype=np.int64))
    reader = _Reader(run)
    for start in range(0, len(wanted), _BATCH):
        part = wanted.take(np.arange(start, min(start + _BATCH, len(wanted))))
        yield _batch(run, part, start + 1, layer, by_key, reader, outlines)


def _batch(
    run: RunView, part: Verdicts, first: int, layer: str, scenes: dict[str, Scene], reader: _Reader, outlines: Outlines
) -> pa.RecordBatch:
    units, n = part.units, len(part)
    names = {**{entry.id: entry.name for entry in run.classes}, EMPTY: "nothing labelled"}
    grounds = {key: GroundArea(scenes[key]) for key in dict.fromkeys(part.scene)}
    shapes = [reader.outline(scenes[key], part, row, outlines) for row, key in enumerate(part.scene)]
    centre = units.box[:, :2] + units.box[:, 2:] / 2
    per_pixel = [float(grounds[key].per_pixel(x, y)) for key, (x, y) in zip(part.scene, centre, strict=True)]
    columns = [
        pa.array(np.arange(first, first + n, dtype=np.int64)),
        pa.array(part.scene, pa.string()),
        pa.array(units.class_id),
        pa.array([names.get(k, "") for k in units.class_id.tolist()], pa.string()),
        pa.array(part.quality, from_pandas=True),
        pa.array([layer] * n, pa.string()),
        pa.array(part.reasons, pa.string()),
        pa.array([run.id] * n, pa.string()),
        pa.array(units.area),
        pa.array(units.area * np.array(per_pixel), pa.float64(), from_pandas=True),
        pa.concat_arrays([geometry(np.array([shape]), scenes[key]) for key, shape in zip(part.scene, shapes, strict=True)])
        if n
        else pa.array([], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=VERDICT_SCHEMA)


class _Reader:
    """Outlines of units out of a run's label rasters; the windows that were read last are kept."""

    def __init__(self, run: RunView) -> None:
        self._labels = lru_cache(_REMEMBERED)(lambda key, window: read_labels(run.label_path(key), window))

    def outline(self, scene: Scene, part: Verdicts, row: int, outlines: Outlines) -> shapely.Geometry:
        """A multipolygon in scene pixels of one unit; of an empty picture its frame."""
        window, place = Window(*part.window[row].tolist()), Window(*part.units.box[row].tolist())
        class_id = int(part.units.class_id[row])
        if class_id == EMPTY:
            return shapely.multipolygons([shapely.box(window.x, window.y, window.right, window.bottom)])
        labels = self._labels(scene.key, window)[place.relative_to(window).slices()]
        mask = unit_mask(labels, class_id, int(part.units.component[row]))
        _, segments = label_segments(np.where(mask, np.uint8(0), np.uint8(255)), place)
        found = simplified(trace(segments), outlines.simplify, outlines.max_vertices)
        return found[0] if len(found) else shapely.MultiPolygon()


def unit_mask(labels: np.ndarray, class_id: int, component: int) -> np.ndarray:
    """(h, w) bool of a unit in the labels of its box: all of the class, or the one object that reaches all four sides."""
    mask = labels == class_id
    if not component:
        return mask
    _, parts, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    reaches = (statistics[:, 2] == mask.shape[1]) & (statistics[:, 3] == mask.shape[0])
    reaches[0] = False
    return parts == int(np.argmax(reaches * statistics[:, 4]))
