"""COCO annotations as edits. Nothing in the file is trusted: sizes and totals are checked before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import shapely

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.coco import checked_counts, checked_rings, compress, is_whole_number
from terralabel.core.grid import Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.edits import Edit, Index, Reject, fingerprint
from terralabel.export.names import relative_sources
from terralabel.export.note import Note
from terralabel.export.placement import Unusable
from terralabel.export.segments import object_segments, to_frame
from terralabel.export.shapes import Shape, rasterized

__all__ = ["CocoFile", "coco_shape"]


def coco_shape(segmentation: Any, width: int, height: int) -> tuple[Shape, int]:
    """(shape, fingerprint of its run lengths) of a COCO segmentation: compressed or plain RLE, or polygons.

    `InputError` with a status of its own for run lengths that are short, long, negative, huge or cut off, another size,
    polygons of fewer than 3 points, self-crossing, not finite or outside.
    """
    if isinstance(segmentation, dict):
        counts = checked_counts(segmentation, width, height)
        shape = Shape.of_runs(counts, Window(0, 0, width, height))
        print_ = fingerprint(compress(counts, np.array([0, len(counts)]))[0].encode())
    elif isinstance(segmentation, list):
        shape, print_ = rasterized(_polygons(segmentation), width, height), -1
    else:
        raise InputError(f"segmentation is a {type(segmentation).__name__}, expected RLE or polygons", "bad-segmentation")
    if shape is None:
        raise InputError("covers no pixel of the image", "outside")
    return shape, print_


def _polygons(parts: list[Any]) -> shapely.Geometry:
    polygons = [shapely.Polygon(ring) for ring in checked_rings(parts)]
    for polygon in polygons:
        if not polygon.is_valid:
            raise InputError(f"a polygon is not valid ({shapely.is_valid_reason(polygon)})", "self-crossing")
    return shapely.union_all(polygons)


@dataclass
class CocoFile:
    """An opened COCO file beside the scenes of a run."""

    path: Path
    data: dict[str, Any]
    scenes: tuple[Scene, ...]
    run_id: str

    def __post_init__(self) -> None:
        for name in ("images", "annotations", "categories"):
            if not isinstance(self.data.get(name), list):
                raise InputError(f"{self.path}: COCO file without a list of {name}.", "not-labels")
        info = self.data.get("info")
        found = Note.read(info.get("terralabel") if isinstance(info, dict) else None, self.run_id, self.path)
        self._ours = found is not None
        self.note = found or Note()
        self._numbers = {scene.key: number for number, scene in enumerate(self.scenes)}
        self._images = self._match_images()
        self._categories = {
            c["id"]: str(c.get("name", ""))
            for c in self.data["categories"]
            if isinstance(c, dict) and is_whole_number(c.get("id"))
        }

    def _match_images(self) -> dict[int, tuple[Scene | None, str]]:
        """Image id -> its scene, or None and the reason."""
        by_key = {scene.key: scene for scene in self.scenes}
        where = {str(path): by_key[key] for key, path in relative_sources(self.scenes).items()}
        stems: dict[str, list[Scene]] = {}
        for scene in self.scenes:
            stems.setdefault(scene.stem, []).append(scene)
        found: dict[int, tuple[Scene | None, str]] = {}
        for image in self.data["images"]:
            if not isinstance(image, dict) or not is_whole_number(image.get("id")):
                continue
            name = str(image.get("file_name", ""))
            alike = stems.get(PurePosixPath(name).stem, [])
            match = by_key.get(str(image.get("scene"))) or where.get(name) or (alike[0] if len(alike) == 1 else None)
            if match is None:
                found[image["id"]] = None, f"image {name!r} is no scene of the run"
            elif (image.get("width", match.width), image.get("height", match.height)) != (match.width, match.height):
                found[image["id"]] = None, f"image {name!r} has another size than scene {match.key}"
            else:
                found[image["id"]] = match, ""
        return found

    def prints(self, objects: Objects, scene: Scene) -> list[int]:
        """Fingerprints of objects as this file would hold them."""
        counts = compress(*to_frame(object_segments(objects), (scene.height, scene.width)))
        return [fingerprint(text.encode()) for text in counts]

    def edits(self, index: Index, classes: Classes) -> tuple[list[Edit], list[Reject], set[int], int]:
        """(edits, rejects, ids of the run that the file has, unchanged)."""
        by_print = {} if self._ours else self._by_print(index)
        edits: list[Edit] = []
        rejected: list[Reject] = []
        seen: set[int] = set()
        taken: set[int] = set()
        unchanged = 0
        for position, annotation in enumerate(self.data["annotations"]):
            item = f"annotation {position} (by position)"
            try:
                if not isinstance(annotation, dict) or not is_whole_number(annotation.get("id")):
                    raise Unusable("bad-id", "its id is no whole number")
                number = annotation["id"]
                item = f"annotation {number}"
                if number in taken:
                    raise Unusable("duplicate", f"id {number} was used before")
                taken.add(number)
                if self._ours and index.find(number) is not None:
                    seen.add(number)
                edit = self._edit(item, annotation, index, classes, by_print)
            except Unusable as why:
                rejected.append(Reject(item, *why.args))
                continue
            except InputError as error:
                rejected.append(Reject(item, error.status, str(error)))
                continue
            if edit is None:
                unchanged += 1
            else:
                edits.append(edit)
        return edits, rejected, seen, unchanged

    @staticmethod
    def _by_print(index: Index) -> dict[tuple[int, int], int]:
        """(scene number, fingerprint) -> row, for files whose ids are not ours."""
        return {(int(index.scene[row]), int(index.print[row])): row for row in range(len(index.id))}

    def _edit(
        self, item: str, annotation: dict[str, Any], index: Index, classes: Classes, by_print: dict[tuple[int, int], int]
    ) -> Edit | None:
        scene = self._scene(annotation.get("image_id"))
        category = annotation.get("category_id")
        if not isinstance(category, int) or category not in self._categories:
            raise Unusable("dangling-category", f"category_id {category!r} is not in the file")
        if annotation.get("iscrowd", 0) not in (0, 1):
            raise Unusable("bad-iscrowd", f"iscrowd is {annotation['iscrowd']!r}, expected 0 or 1")
        shape, print_ = coco_shape(annotation.get("segmentation"), scene.width, scene.height)
        number = self._numbers[scene.key]
        row = index.find(annotation["id"]) if self._ours else by_print.get((number, print_))
        before = int(index.class_id[row]) if row is not None else None
        asked = self._class(category, classes, before)
        if row is None:
            return Edit(item, None, scene.key, asked, shape)
        class_id = None if asked == before else asked
        same_shape = int(index.scene[row]) == number and int(index.print[row]) == print_
        if same_shape and class_id is None:
            return None
        return Edit(item, int(index.id[row]), scene.key, class_id, None if same_shape else shape)

    def _scene(self, image_id: Any) -> Scene:
        if not isinstance(image_id, int) or image_id not in self._images:
            raise Unusable("dangling-image", f"image_id {image_id!r} is not in the file")
        scene, why = self._images[image_id]
        if scene is None:
            raise Unusable("unknown-image", why)
        return scene

    def _class(self, category: int, classes: Classes, before: int | None) -> int:
        """Our own files: the id if it was changed, else a category that was renamed. Others: by name, then by id."""
        name = self._categories[category]
        ids = {entry.id for entry in classes}
        if self.note.classes and any(e.id == category and e.name == name for e in self.note.classes):
            if category == before or category in ids:
                return category
        else:
            for entry in classes:
                if entry.name == name:
                    return entry.id
            if not name and category in ids:
                return category
        raise Unusable("unknown-class", f"'{name or category}' is no class of the run")

    def missing(self, index: Index, seen: set[int]) -> np.ndarray:
        """Ids of labelled objects that were deleted; none unless the file is the whole export of this run."""
        inside = np.isin(index.scene, [k for k, scene in enumerate(self.scenes) if scene.key in self.note.scenes])
        expected = index.id[inside & (index.class_id != IGNORE)]
        return expected[~np.isin(expected, np.fromiter(seen, dtype=np.int64, count=len(seen)))]
