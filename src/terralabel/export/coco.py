"""COCO instance annotations with SAM's own record keys, written as a stream."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import shapely

from terralabel.contracts import RunView
from terralabel.core.classes import IGNORE
from terralabel.core.files import atomic_path
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export.features import Outlines
from terralabel.export.names import relative_sources
from terralabel.export.note import Note
from terralabel.export.polygons import simplified, trace
from terralabel.export.segments import Segments, compress, object_segments, to_frame

__all__ = ["Coco"]

#: pycocotools counts pixels in 32 bits.
_MOST_PIXELS = 2**32 - 1


@dataclass(frozen=True)
class Coco:
    """`annotations/instances.json`, or `instances_SPLIT.json` for each split of the run.

    Each annotation is a SAM record (segmentation, area, bbox, predicted_iou, point_coords, stability_score, crop_box) plus
    id (of the object), image_id, category_id (the class id), iscrowd 0, score, cluster_id and status. The segmentation is
    COCO's compressed RLE; with `polygons` it is polygons, except for objects with holes, which COCO polygons cannot have.
    Objects of dropped clusters (class 255) are left out. `file_name` is relative to the folder all images share.
    """

    polygons: bool = False
    simplify: float = 0.0
    max_vertices: int = 0
    name: str = "coco"

    def export(self, run: RunView, out: Path) -> list[Path]:
        """Write the files; one batch of objects is in memory at a time."""
        self._check(run)
        numbers = {scene.key: number for number, scene in enumerate(run.scenes, start=1)}
        written = []
        for split in sorted({scene.split or "" for scene in run.scenes}):
            scenes = [scene for scene in run.scenes if (scene.split or "") == split]
            final = out / "annotations" / (f"instances_{split}.json" if split else "instances.json")
            with atomic_path(final) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
                self._write(file, run, scenes, numbers)
            written.append(final)
        return written

    def _check(self, run: RunView) -> None:
        for scene in run.scenes:
            if scene.width * scene.height > _MOST_PIXELS:
                raise RunError(
                    f"{scene.key} has {scene.width} x {scene.height} pixels; COCO's run lengths end at 2^32: export geopackage "
                    "or geoparquet."
                )

    def _write(self, file: TextIO, run: RunView, scenes: list[Scene], numbers: dict[str, int]) -> None:
        note = Note.of(run, scenes, Outlines(self.simplify, self.max_vertices))
        info = {"description": "Labels made by TerraLabel", "terralabel": note.to_json()}
        where = relative_sources(run.scenes)
        file.write(f'{{\n"info": {_dumps(info)},\n"licenses": [],\n"images": [')
        _write_items(file, (self._image(scene, numbers, str(where[scene.key])) for scene in scenes))
        file.write('],\n"categories": [')
        _write_items(
            file, ({"id": entry.id, "name": entry.name, "supercategory": "", "color": entry.color} for entry in run.classes)
        )
        file.write('],\n"annotations": [')
        _write_items(
            file,
            (
                record
                for scene in scenes
                for objects in run.objects(scene.key)
                for record in self._annotations(objects, scene, numbers[scene.key])
            ),
        )
        file.write("]\n}\n")

    @staticmethod
    def _image(scene: Scene, numbers: dict[str, int], file_name: str) -> dict[str, Any]:
        return {
            "id": numbers[scene.key],
            "file_name": file_name,
            "width": scene.width,
            "height": scene.height,
            "scene": scene.key,
        }

    def _annotations(self, objects: Objects, scene: Scene, image_id: int) -> Iterator[dict[str, Any]]:
        segments = object_segments(objects)
        shapes = self._segmentations(segments, (scene.height, scene.width))
        points = _inner_points(segments)
        for k in range(len(objects)):
            if objects.class_id[k] == IGNORE or objects.area[k] == 0:
                continue
            yield {
                "id": int(objects.id[k]),
                "image_id": image_id,
                "category_id": int(objects.class_id[k]),
                "iscrowd": 0,
                "segmentation": shapes[k],
                "area": int(objects.area[k]),
                "bbox": objects.bbox[k].tolist(),
                "predicted_iou": _known(objects.predicted_iou[k]),
                "point_coords": [points[k].tolist()],
                "stability_score": _known(objects.stability_score[k]),
                "crop_box": [0, 0, scene.width, scene.height],
                "score": round(float(objects.score[k]), 6),
                "cluster_id": int(objects.cluster_id[k]),
                "status": objects.status[k],
            }

    def _segmentations(self, segments: Segments, size: tuple[int, int]) -> list[Any]:
        counts = compress(*to_frame(segments, size))
        codes: list[Any] = [{"size": list(size), "counts": text} for text in counts]
        if self.polygons:
            outlines = Outlines(self.simplify, self.max_vertices)
            for k, polygon in enumerate(simplified(trace(segments), outlines.simplify, outlines.max_vertices)):
                parts = shapely.get_parts(polygon)
                if len(parts) and not np.any(shapely.get_num_interior_rings(parts)):
                    codes[k] = [shapely.get_coordinates(part)[:-1].ravel().tolist() for part in parts]
        return codes


def _inner_points(segments: Segments) -> np.ndarray:
    """A pixel centre inside each mask, (count, 2) xy: the middle of its longest segment; (0, 0) for an empty mask."""
    points = np.zeros((segments.count, 2))
    if len(segments):
        order = np.lexsort((segments.top - segments.bottom, segments.owner))
        owners, head = np.unique(segments.owner[order], return_index=True)
        best = order[head]
        points[owners] = np.stack([segments.column[best], (segments.top[best] + segments.bottom[best] - 1) // 2], 1) + 0.5
    return points


def _known(value: float) -> float | None:
    """Null in JSON where nobody knows."""
    return None if np.isnan(value) else round(float(value), 6)


def _write_items(file: TextIO, items: Iterable[dict[str, Any]]) -> None:
    separator = "\n"
    for item in items:
        file.write(separator + _dumps(item))
        separator = ",\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
