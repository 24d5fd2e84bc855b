"""The user's own boxes for `refer`: COCO and DOTA by the names of images, vector files by their place on the map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.drawn import is_drawing
from terralabel.export.drawn_classes import class_field_of, class_of
from terralabel.export.placement import Placement, Unusable
from terralabel.export.vector_features import VectorFeatures
from terralabel.masks.boxes import read_boxes
from terralabel.masks.located import GivenBoxes

__all__ = ["given_boxes"]

#: Features that are left out and told one by one.
_TOLD = 20
#: Names of the attribute with a score, if there is one.
_SCORES = ("score", "confidence", "probability")


def given_boxes(path: Path, scenes: Sequence[Scene]) -> tuple[dict[str, GivenBoxes], list[str]]:
    """The boxes of each scene by its key, and sentences on what cannot be used.

    A vector file (GeoPackage, GeoJSON, GeoParquet, Shapefile, in any coordinate system) gives the upright box round each
    geometry in the pixels of every scene it meets, its class by the attribute that holds it; without one any text finds it.
    COCO and DOTA as for `detect-label`.
    """
    if not path.exists():
        raise InputError(f"{path} is not there: give a GeoPackage, GeoJSON, COCO file, or DOTA's text files.", "missing-data")
    return _of_vectors(path, scenes) if is_drawing(path) else _of_names(path, scenes)


def _of_names(path: Path, scenes: Sequence[Scene]) -> tuple[dict[str, GivenBoxes], list[str]]:
    found = read_boxes(path)
    names = {entry.id: entry.name for entry in found.classes}
    matched, left = found.match({scene.key: scene.source for scene in scenes})
    out = {}
    for key, boxes in matched.items():
        out[key] = GivenBoxes(boxes.xyxy, tuple(names[i] for i in boxes.class_id.tolist()), boxes.score)
    problems = list(found.problems)
    if left:
        problems.append(f"boxes of {len(left):,} images that are not here, the first: {left[0]!r}")
    return out, problems


def _of_vectors(path: Path, scenes: Sequence[Scene]) -> tuple[dict[str, GivenBoxes], list[str]]:
    source = VectorFeatures(path, own_numbers=True)
    placement, field = Placement(source.crs, tuple(scenes)), class_field_of(source, "")
    scores = [name for name in source.fields if name.lower() in _SCORES][:1]
    rows: dict[str, list[tuple[np.ndarray, str, float]]] = defaultdict(list)
    problems: list[str] = []
    for feature in source.features([*([field] if field else []), *scores]):
        try:
            places = _places(feature.geometry, placement)  # none for what lies elsewhere: a file may cover more than the images
        except Unusable as why:
            problems.append(f"{path.name}, {feature.item}: {why.args[1]} [{why.args[0]}]")
            continue
        score = feature.attributes.get(scores[0]) if scores else None
        score = float(score) if isinstance(score, int | float) and np.isfinite(score) else 1.0
        for scene, box in places:
            rows[scene.key].append((box, class_of(feature, field, source) if field else "", score))
    if not rows:
        problems.append(f"{path.name}: nothing in it lies in the images; is its coordinate system right?")
    if len(problems) > _TOLD:
        problems = [*problems[:_TOLD], f"{path.name}: and {len(problems) - _TOLD:,} features more that cannot be used"]
    return {key: _given(mine) for key, mine in rows.items()}, problems


def _given(rows: Sequence[tuple[np.ndarray, str, float]]) -> GivenBoxes:
    boxes, names, scores = zip(*rows, strict=True)
    return GivenBoxes(np.stack(boxes), tuple(names), np.array(scores, dtype=np.float32))


def _places(geometry: shapely.Geometry | None, placement: Placement) -> list[tuple[Scene, np.ndarray]]:
    """The scenes that a geometry meets, with its upright box (4,) xyxy in the pixels of each."""
    if geometry is None or geometry.is_empty or not np.all(np.isfinite(shapely.get_coordinates(geometry))):
        raise Unusable("no-geometry", "has no geometry with finite coordinates")
    found = [(scene, np.array(shapely.bounds(pixels))) for scene, pixels in placement.everywhere(geometry)]
    if any(box[2] <= box[0] or box[3] <= box[1] for _, box in found):
        raise Unusable("bad-box", "is no box: its sides must be longer than 0")
    return found
