"""What texts mean among the things that were found in a scene: geometry on the ground, relations, and the chosen masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from terralabel.core.classes import IGNORE, Classes, plain_name
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError, SettingsError
from terralabel.export.ground import GroundArea, parse_crs
from terralabel.export.polygons import object_polygons
from terralabel.labels.phrases import Phrase, things_of
from terralabel.labels.relations import Ground, Things, resolve
from terralabel.recipes.detected_run import painted_blocks
from terralabel.runs.folder import RunFolder
from terralabel.runs.parts import Part, Ragged, read_part, write_part

__all__ = ["MeanJob", "Query", "found_objects", "label_path", "mean_scene"]


@dataclass(frozen=True)
class Query:
    """A text, the phrase it was read as, and the id of the class that its masks get."""

    text: str
    phrase: Phrase
    class_id: int


@dataclass(frozen=True, eq=False)
class MeanJob:
    """One scene: what was found in it, what is asked, and where the chosen masks and the label go."""

    run: Path
    scene: Scene
    found: Path
    queries: tuple[Query, ...]
    classes: Classes
    part: Path


def label_path(run: Path, scene: Scene) -> Path:
    """The label raster of a scene."""
    return RunFolder(run).labels_path / f"{scene.key}.tif"


def found_objects(scene: str, part: Part, prefix: str = "") -> Objects:
    """All that was found in a scene as objects, numbered from 1; `prefix` "before_": before boundaries were redrawn."""
    columns = part.columns
    runs = columns[f"{prefix}runs"]
    assert isinstance(runs, Ragged)
    count = len(np.asarray(columns["score"]))
    return Objects(
        scene=scene,
        id=np.arange(1, count + 1, dtype=np.int64),
        cluster_id=np.full(count, -1, dtype=np.int32),
        class_id=np.asarray(columns["thing"]).astype(np.int32),
        score=np.asarray(columns["score"]),
        predicted_iou=np.asarray(columns["predicted_iou"]),
        stability_score=np.asarray(columns["stability_score"]),
        status=("auto",) * count,
        bbox=np.asarray(columns[f"{prefix}bbox"]),
        area=np.asarray(columns[f"{prefix}area"]),
        runs=runs.values,
        offsets=runs.offsets,
    )


def mean_scene(job: MeanJob) -> str:
    """Choose the masks that each text means, and paint them; returns "" or why it failed. The part is written last."""
    from terralabel.export.rasters import write_label_raster

    part = read_part(job.found)
    objects = found_objects(job.scene.key, part)
    place = {plain_name(name): k for k, name in enumerate(part.notes["things"])}
    asked = {thing: place[plain_name(thing)] for query in job.queries for thing in things_of(query.phrase)}
    try:
        things, rows, ground = _things(job.scene, objects, asked)
        chosen, told = _chosen(job, things, rows, ground, objects)
    except (InputError, SettingsError) as error:
        return f"{getattr(error, 'status', 'relation')}: {' '.join(str(error).split())}"
    which = np.array([row for row, _ in chosen], dtype=np.int64)
    class_id = np.array([number for _, number in chosen], dtype=np.int32)
    picked = _taken(objects, which, class_id)
    for older in sorted(job.part.parent.glob("*.parquet")):  # they speak of a label that is about to be replaced
        if older.name[: -len("-0123456789abcdef.parquet")] == job.scene.key:
            older.unlink()
    blocks = painted_blocks([picked], picked.class_id, job.scene.width, job.scene.height, fill=IGNORE)
    write_label_raster(label_path(job.run, job.scene), job.scene, job.classes, blocks)
    columns = {
        name: getattr(picked, name) for name in ("class_id", "score", "predicted_iou", "stability_score", "bbox", "area")
    }
    notes = {"masks": len(picked), "boxes": part.notes["boxes"], "problems": part.notes["problems"], "referred": told}
    found_row = {"found": which, "box": np.asarray(part.columns["box"])[which].reshape(-1, 4)}
    write_part(job.part, {**columns, **found_row, "runs": Ragged(picked.runs, picked.offsets)}, notes)
    return ""


def _chosen(
    job: MeanJob, things: Mapping[str, Things], rows: Mapping[str, np.ndarray], ground: Ground, objects: Objects
) -> tuple[list[tuple[int, int]], list[dict[str, Any]]]:
    """(row of what was found, class) of every chosen mask, query by query; and for each query how it came."""
    chosen: list[tuple[int, int]] = []
    told = []
    for query in job.queries:
        meant = resolve(query.phrase, things, ground)
        mine = rows[query.phrase.thing][meant.which]
        picked = [
            {
                "score": round(float(objects.score[row]), 4),
                "predicted_iou": round(float(objects.predicted_iou[row]), 4),
                "bbox": objects.bbox[row].tolist(),
                "pixels": int(objects.area[row]),
                **({"m2": round(float(area), 2)} if ground.unit == "m" else {}),
            }
            for row, area in zip(mine.tolist(), things[query.phrase.thing].area[meant.which].tolist(), strict=True)
        ]
        told.append(
            {"text": query.text, "class_id": query.class_id, "understood": asdict(query.phrase), "steps": list(meant.steps)}
        )
        told[-1]["chosen"] = picked
        chosen += [(row, query.class_id) for row in mine.tolist()]
    return chosen, told


def _taken(objects: Objects, which: np.ndarray, class_id: np.ndarray) -> Objects:
    """Some of the objects, renumbered, in classes of their own."""
    lengths = np.diff(objects.offsets)[which]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    source = np.repeat(objects.offsets[which] - offsets[:-1], lengths) + np.arange(offsets[-1])
    return Objects(
        scene=objects.scene,
        id=np.arange(1, len(which) + 1, dtype=np.int64),
        cluster_id=objects.cluster_id[which],
        class_id=class_id,
        score=objects.score[which],
        predicted_iou=objects.predicted_iou[which],
        stability_score=objects.stability_score[which],
        status=("auto",) * len(which),
        bbox=objects.bbox[which].reshape(-1, 4),
        area=objects.area[which],
        runs=objects.runs[source],
        offsets=offsets,
    )


def _things(
    scene: Scene, objects: Objects, asked: Mapping[str, int]
) -> tuple[dict[str, Things], dict[str, np.ndarray], Ground]:
    """The things of each name (`asked`: name -> number of the thing), their rows among the objects, and the ground they stand on."""
    pixels = object_polygons(objects)
    drawn = shapely.transform(pixels, lambda xy: xy * np.array([1.0, -1.0]))
    to_ground = _to_ground(scene)
    corners = np.array([[0, 0], [scene.width, 0], [scene.width, scene.height], [0, scene.height]], dtype=np.float64)
    if to_ground is None:
        shapes, area, unit, frame = drawn, objects.area.astype(np.float64), "px", corners * np.array([1.0, -1.0])
    else:
        shapes, unit, frame = shapely.transform(pixels, to_ground), "m", to_ground(corners)
        middle = objects.bbox[:, :2] + objects.bbox[:, 2:] / 2
        area = GroundArea(scene).per_pixel(middle[:, 0], middle[:, 1]) * objects.area
        area = np.where(np.isfinite(area), area, shapely.area(shapes))
    everything = Things(shapes, drawn, area, objects.area, objects.score)
    rows = {name: np.flatnonzero(objects.class_id == k) for name, k in asked.items()}
    return {name: everything.take(which) for name, which in rows.items()}, rows, Ground(scene.width, scene.height, frame, unit)


def _to_ground(scene: Scene) -> Any:
    """Scene pixels (n, 2) -> metres east and north of the scene's middle (azimuthal equidistant); None where it lies nowhere."""
    crs = parse_crs(scene.georeference.crs)
    if crs is None:
        return None
    x, y = scene.georeference.to_map(np.array([[scene.width / 2, scene.height / 2]]))[0].tolist()
    try:
        lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y, errcheck=True)
        local = CRS.from_proj4(f"+proj=aeqd +lat_0={lat:.9f} +lon_0={lon:.9f} +datum=WGS84 +units=m")
        transformer = Transformer.from_crs(crs, local, always_xy=True)
    except ProjError:
        return None

    def to_ground(xy: np.ndarray) -> np.ndarray:
        there = scene.georeference.to_map(xy)
        return np.stack(transformer.transform(there[:, 0], there[:, 1]), axis=1)

    return to_ground
