"""What a report counts and which objects it shows: one pass over a run, in memory that does not grow with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from terralabel.contracts import RunView, TileRecord
from terralabel.core import rle
from terralabel.core.classes import IGNORE
from terralabel.core.objects import Objects
from terralabel.errors import RunError

__all__ = [
    "SIZE_BINS",
    "THUMBNAIL",
    "ClassFacts",
    "ClusterFacts",
    "ReportView",
    "RunFacts",
    "SceneFacts",
    "Shelf",
    "Specimen",
    "TileFacts",
    "by_id",
    "gather",
    "label_pixels",
    "label_raster",
    "size_bins",
    "thumbnail",
]

#: Object sizes are counted in powers of two: bin b holds areas of 2**b to 2**(b + 1) - 1 pixels; the last is open.
SIZE_BINS = 28
#: Longer side, in pixels, of the masks that are kept and of the crops that are shown.
THUMBNAIL = 128
#: GDAL's block cache in MB; its own default is a share of the machine's memory.
_CACHE_MB = 64


class ReportView(RunView, Protocol):
    """A run as the report sees it: `manifest` may hold anything; "notes", "command", "settings"... get places of honour."""

    @property
    def manifest(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Specimen:
    """One object worth showing. `bbox` is xywh in scene pixels; `mask` (h, w) bool its shape, scaled to fit `THUMBNAIL`."""

    scene: str
    id: int
    cluster_id: int
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    mask: np.ndarray


@dataclass
class Shelf:
    """The `room` best specimens seen so far by (rank, scene, id), least rank first: the same whatever the batches."""

    room: int
    kept: list[tuple[tuple[float, str, int], Specimen]] = field(default_factory=list)

    def offer(self, objects: Objects, rows: np.ndarray, ranks: np.ndarray) -> None:
        """Consider the objects at `rows`, whose ranks are given beside them."""
        order = np.lexsort((objects.id[rows], ranks))[: self.room]
        for row, rank in zip(rows[order], ranks[order], strict=True):
            key = (float(rank), objects.scene, int(objects.id[row]))
            if len(self.kept) == self.room and key >= self.kept[-1][0]:
                break
            self.kept.append((key, _specimen(objects, int(row))))
            self.kept.sort(key=lambda pair: pair[0])
            del self.kept[self.room :]

    def best(self, count: int) -> list[Specimen]:
        """The first `count` that show different places, and then, where those are too few, the next best."""
        apart: list[Specimen] = []
        repeats: list[Specimen] = []
        for _, specimen in self.kept:
            near = any(other.scene == specimen.scene and _same_place(other.bbox, specimen.bbox) for other in apart)
            (repeats if near else apart).append(specimen)
        return (apart + repeats)[:count]


@dataclass
class ClusterFacts:
    """Objects of one cluster inside one class, and the shelves of specimens: most typical and least certain."""

    typical: Shelf
    uncertain: Shelf
    objects: int = 0


@dataclass
class ClassFacts:
    """Counts of one class: objects by size bin, labelled pixels, and its clusters by id. `room`: specimens per shelf."""

    room: int
    clusters: dict[int, ClusterFacts] = field(default_factory=dict)
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(SIZE_BINS, np.int64))
    objects: int = 0
    corrected: int = 0
    score_sum: float = 0.0
    pixels: int = 0

    def cluster(self, cluster_id: int) -> ClusterFacts:
        if cluster_id not in self.clusters:
            self.clusters[cluster_id] = ClusterFacts(Shelf(self.room), Shelf(self.room))
        return self.clusters[cluster_id]


@dataclass
class SceneFacts:
    """Counts of one scene; `labelled` is None when it has no label raster."""

    objects: int = 0
    labelled: int | None = None
    tiles: Counter[str] = field(default_factory=Counter)


@dataclass
class TileFacts:
    """Tiles by status, masks in all, masks that each gate dropped, and (status, reason) of every tile that is not ok.

    `examples` has a few tile keys per (status, reason).
    """

    status: Counter[str] = field(default_factory=Counter)
    masks: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)


@dataclass
class RunFacts:
    """Everything a report counts. `classes` has an entry per class id that was met or is in the class map."""

    classes: dict[int, ClassFacts]
    scenes: dict[str, SceneFacts]
    tiles: TileFacts
    scene_pixels: int

    @property
    def objects(self) -> int:
        return sum(scene.objects for scene in self.scenes.values())

    @property
    def labelled(self) -> int:
        return sum(scene.labelled or 0 for scene in self.scenes.values())


def gather(run: ReportView, room: int) -> RunFacts:
    """Pass over the tiles, objects and label rasters of a run .

    Keeps at most `room` typical and `room` least certain specimens per cluster. Raises what the run's readers raise.
    """
    facts = RunFacts(
        {entry.id: ClassFacts(room) for entry in run.classes}, {}, TileFacts(), sum(s.width * s.height for s in run.scenes)
    )
    for scene in sorted(run.scenes, key=lambda s: s.key):
        seen = facts.scenes[scene.key] = SceneFacts()
        _count_tiles(run.tiles(scene.key), facts.tiles, seen)
        for objects in run.objects(scene.key):
            seen.objects += len(objects)
            for class_id, rows in by_id(objects.class_id):
                _count_objects(facts.classes.setdefault(class_id, ClassFacts(room)), objects, rows)
        raster = label_raster(run, scene.key)
        if raster is not None:
            counts = label_pixels(raster)
            seen.labelled = int(sum(counts.values()) - counts.get(IGNORE, 0))
            for class_id, pixels in counts.items():
                if class_id != IGNORE:
                    facts.classes.setdefault(class_id, ClassFacts(room)).pixels += pixels
    return facts


def _count_tiles(records: Iterable[TileRecord], total: TileFacts, scene: SceneFacts) -> None:
    for record in records:
        status = str(record.status)
        total.status[status] += 1
        scene.tiles[status] += 1
        total.masks += int(record.masks or 0)
        total.dropped.update(getattr(record, "dropped", None) or {})
        if status != "ok":
            kind = (status, str(record.reason or ""))
            if kind not in total.reasons and len(total.reasons) >= 500:
                kind = (status, "(other reasons)")
            total.reasons[kind] += 1
            examples = total.examples.setdefault(kind, [])
            if len(examples) < 3:
                examples.append(str(record.key))


def by_id(column: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(id, rows that have it) of a column of ids, ascending."""
    order = np.argsort(column, kind="stable")
    ids, first = np.unique(column[order], return_index=True)
    stops = np.append(first, len(column))[1:]
    for i, start, stop in zip(ids.tolist(), first.tolist(), stops.tolist(), strict=True):
        yield i, order[start:stop]


def _count_objects(facts: ClassFacts, objects: Objects, rows: np.ndarray) -> None:
    score = np.nan_to_num(objects.score[rows].astype(np.float64))
    facts.sizes += size_bins(objects.area[rows])
    facts.objects += len(rows)
    facts.score_sum += float(score.sum())
    facts.corrected += sum(objects.status[row] != "auto" for row in rows)
    for cluster_id, within in by_id(objects.cluster_id[rows]):
        cluster = facts.cluster(cluster_id)
        cluster.objects += len(within)
        cluster.typical.offer(objects, rows[within], -score[within])
        cluster.uncertain.offer(objects, rows[within], score[within])


def size_bins(area: np.ndarray) -> np.ndarray:
    """(SIZE_BINS,) int64: how many of the (n,) areas in pixels fall in each bin."""
    bins = np.frexp(np.maximum(area, 1).astype(np.float64))[1] - 1
    return np.bincount(np.minimum(bins, SIZE_BINS - 1), minlength=SIZE_BINS)


def _specimen(objects: Objects, row: int) -> Specimen:
    x, y, w, h = (int(v) for v in objects.bbox[row])
    mask = thumbnail(objects.code(row), w, h)
    score = float(np.nan_to_num(objects.score[row]))
    return Specimen(
        objects.scene, int(objects.id[row]), int(objects.cluster_id[row]), score, int(objects.area[row]), (x, y, w, h), mask
    )


def thumbnail(code: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask of `height` x `width` run lengths, scaled (never up) to fit `THUMBNAIL`: (h, w) bool.

    A mask too large to decode (a whole landscape) is looked at along the columns that will be shown.
    """
    scale = min(THUMBNAIL / max(width, height, 1), 1.0)
    small = (max(round(width * scale), 1), max(round(height * scale), 1))
    if width * height <= 1 << 22:
        crop = rle.decode_box(code, (0, 0, width, height), (height, width)).astype(np.uint8)
        return crop.astype(bool) if scale == 1 else cv2.resize(crop * 255, small, interpolation=cv2.INTER_AREA) > 100
    rows = ((np.arange(small[1]) + 0.5) * height / small[1]).astype(int)
    columns = ((np.arange(small[0]) + 0.5) * width / small[0]).astype(int)
    return np.stack([rle.decode_box(code, (x, 0, 1, height), (height, width))[rows, 0] for x in columns], 1)


def _same_place(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    """True when crops around two xywh boxes would look alike: their middles are near for the size of the larger."""
    x, y = (abs((a[i] + a[i + 2] / 2) - (b[i] + b[i + 2] / 2)) for i in (0, 1))
    return max(x, y) < max(40.0, max(a[2], a[3], b[2], b[3]) / 3)


def label_raster(run: ReportView, scene_key: str) -> Path | None:
    """Where the label raster of a scene lies; None when there is none."""
    try:
        path = Path(run.label_path(scene_key))
    except RunError:
        return None
    return path if path.is_file() else None


def label_pixels(path: Path, step: int = 2048) -> dict[int, int]:
    """Pixels of each class id in a label raster (255: no label), read in windows."""
    import rasterio
    from rasterio.windows import Window as Block

    counts: Counter[int] = Counter()
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_MB), rasterio.open(path, driver="GTiff") as source:
        for y in range(0, source.height, step):
            for x in range(0, source.width, step):
                block = source.read(1, window=Block(x, y, min(step, source.width - x), min(step, source.height - y)))
                found = np.bincount(block.ravel())
                counts.update({int(i): int(found[i]) for i in np.flatnonzero(found)})
    return dict(sorted(counts.items()))
