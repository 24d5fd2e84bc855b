"""Vector features as edits: GeoPackage as QGIS leaves it, GeoParquet, GeoJSON, in any coordinate system."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import shapely

from terralabel.core.classes import Classes
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.edits import Edit, Index, Reject, fingerprint, known_class
from terralabel.export.note import Note
from terralabel.export.placement import Placement, Unusable
from terralabel.export.polygons import object_polygons, place
from terralabel.export.vector_features import DAMAGED, Feature, VectorFeatures, checked_polygon, sqlite_base
from terralabel.export.vectors import EXPORT_TABLE

__all__ = ["VectorFile"]

_ATTRIBUTES = ("id", "scene", "class_id", "class_name", "run_id")


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
        self._source = VectorFeatures(self.path)
        try:
            self._read_note()
        except DAMAGED as error:
            raise InputError(f"{self.path}: cannot be read ({' '.join(str(error).split())}).", "damaged") from error
        self._place = Placement(self._source.crs, self.scenes)

    def _read_note(self) -> None:
        """What our own GeoPackages and GeoParquets say of themselves."""
        with self.path.open("rb") as file:
            magic = file.read(16)
        if magic.startswith(b"SQLite format 3"):
            self._read_export_table()
        elif magic.startswith(b"PAR1"):
            metadata = pq.read_schema(self.path).metadata or {}
            self.note = Note.read(json.loads(metadata.get(b"terralabel", b"null")), self.run_id, self.path) or Note()

    def _read_export_table(self) -> None:
        """Whether this is a whole export of this run; a layer saved into another file does not have the table."""
        with closing(sqlite_base(self.path)) as base:
            if not base.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (EXPORT_TABLE,)).fetchone():
                return
            rows = base.execute(f"SELECT note FROM {EXPORT_TABLE}").fetchall()  # noqa: S608
        found = Note.read(json.loads(rows[0][0]), self.run_id, self.path) if len(rows) == 1 else None
        self._complete = found is not None
        self.note = found or Note()

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
        for feature in self._source.features(
            _ATTRIBUTES
        ):  # one that breaks off midway is refused: its rest would count as deleted
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
        self, feature: Feature, index: Index, classes: Classes, seen: set[int], shown: set[tuple[int, int]]
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
        geometry = checked_polygon(feature.geometry)
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

    def _class(self, feature: Feature, classes: Classes, before: int | None) -> int:
        try:
            return known_class(classes, feature.number("class_id"), feature.text("class_name"), before, self.note.classes)
        except KeyError as error:
            raise Unusable("unknown-class", f"'{error.args[0]}' is no class of the run") from None

    def _check_run(self, feature: Feature) -> None:
        written_by = feature.text("run_id")
        if self.run_id and written_by and feature.attributes.get("id") is not None and written_by != self.run_id:
            raise Unusable("other-run", f"belongs to run {written_by}; empty its id to add it as a new object")

    def _scene(self, feature: Feature, index: Index, row: int | None, geometry: shapely.Geometry) -> Scene:
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
