"""Pictures of how texts were understood: `OUT/explain/SCENE-NUMBER.png` for the scene, `...-steps.png` from boxes to masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely

from terralabel.core import rle
from terralabel.core.grid import TilePlan, Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import InputError
from terralabel.export.cards import view
from terralabel.export.explained import Steps, scene_picture, steps_picture
from terralabel.export.picture import display_rgb, save_picture
from terralabel.export.polygons import object_polygons
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.tiles import read_tile
from terralabel.masks.foreground import foreground_point
from terralabel.masks.prompts import colours
from terralabel.recipes.ingest import load_radiometry
from terralabel.recipes.refer.meaning import Query, found_objects
from terralabel.recipes.refer.run import ReferRun
from terralabel.runs.parts import Part, read_part
from terralabel.runs.progress import Progress

__all__ = ["write_explanations"]

#: Longer side of the picture of a scene; rows of a picture of steps; masks drawn beside those that are meant.
_SIDE, _ROWS, _OTHERS = 1600, 8, 2000
#: Of the box's longer side: what is seen round it.
_AROUND = 0.35


def write_explanations(run: ReferRun, queries: Sequence[Query], progress: Progress) -> list[Path]:
    """Two pictures for each text in each scene; a scene that cannot be read is said and passed over."""
    radiometry = load_radiometry(run.folder)
    written: list[Path] = []
    for older in sorted((run.path / "explain").glob("*.png")):  # of other texts
        older.unlink()
    progress.start("explain", len(run.scenes), "scenes")
    for scene in run.scenes:
        if scene.key in run.manifest["parts"]:
            try:
                written += _of_scene(run, scene, queries, radiometry)
            except InputError as error:
                progress.say(f"no picture of {scene.source}: {error}")
        progress.advance()
    progress.finish()
    return written


def _of_scene(run: ReferRun, scene: Scene, queries: Sequence[Query], radiometry: Radiometry) -> list[Path]:
    found = read_part(run.path / "parts" / "found" / run.manifest["found"][scene.key])
    meant = read_part(run.path / "parts" / "detected" / run.manifest["parts"][scene.key])
    objects, before = found_objects(scene.key, found), found_objects(scene.key, found, "before_")
    written, begin = [], 0
    for number, (query, told) in enumerate(zip(queries, meant.notes["referred"], strict=True), 1):
        count = len(told["chosen"])
        rows = np.asarray(meant.columns["found"])[begin : begin + count]
        begin += count
        stem = run.path / "explain" / f"{scene.key}-{number:02d}"
        stem.parent.mkdir(exist_ok=True)
        lines = [query.text, "; ".join(told["steps"])]
        picture = _scene(run, scene, found, objects, rows, lines)
        written.append(save_picture(stem.with_name(f"{stem.name}.png"), picture))
        if count:
            steps = [_steps(scene, found, objects, before, int(row), radiometry, run) for row in rows[:_ROWS]]
            title = query.text if count <= _ROWS else f"{query.text} (the first {_ROWS} of {count:,})"
            written.append(save_picture(stem.with_name(f"{stem.name}-steps.png"), steps_picture(title, steps)))
    return written


def _scene(run: ReferRun, scene: Scene, found: Part, objects: Objects, rows: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    rgb = view(run, scene, Window(0, 0, scene.width, scene.height), _SIDE)
    scale = np.array([rgb.shape[1] / scene.width, rgb.shape[0] / scene.height])
    outlines = object_polygons(objects, simplify=0.5)
    boxes = np.asarray(found.columns["box"]).reshape(-1, 4) * np.tile(scale, 2)
    others = np.setdiff1d(np.arange(len(objects)), rows)[:_OTHERS]
    return scene_picture(rgb, boxes[:_OTHERS], _rings(outlines[others], scale), _rings(outlines[rows], scale), lines)


def _rings(outlines: np.ndarray, scale: np.ndarray) -> list[np.ndarray]:
    return [shapely.get_coordinates(shapely.get_exterior_ring(part)) * scale for part in shapely.get_parts(outlines)]


def _steps(
    scene: Scene, found: Part, objects: Objects, before: Objects, row: int, radiometry: Radiometry, run: ReferRun
) -> Steps:
    """The steps of one box, looked at again: the clusters come out as they did, since nothing in them is random."""
    box = np.asarray(found.columns["box"])[row]
    window = _window(box, scene)
    with radiometry.open(scene.source, follow_vrt=bool(run.manifest["settings"]["follow_vrt"])) as raster:
        tile = read_tile(raster, TilePlan(scene.key, scene.key, 0, 0, window, window), radiometry)
    shift = np.array([window.x, window.y, window.x, window.y])
    point = np.asarray(found.columns["point"])[row] - shift[:2]
    clusters, told = None, "no point asked for"
    if np.isfinite(point).all():
        _, seen = foreground_point(colours(tile.pixels, tile.sensor), box - shift, tile.valid)
        clusters = np.zeros(tile.size, dtype=bool)
        clusters[seen.box[1] : seen.box[3], seen.box[0] : seen.box[2]] = seen.foreground
        asked = bool(np.asarray(found.columns["by_point"])[row])
        told = f"clusters, point ({'asked with' if asked else 'held by the mask'})"
    redrawn = bool(np.asarray(found.columns["refined"])[row])
    words = (
        f"box, score {float(objects.score[row]):.2f}",
        told,
        f"answer, promised IoU {float(objects.predicted_iou[row]):.2f}",
        "boundary redrawn" if redrawn else "boundary as it was",
    )
    masks = [_in_window(these, row, window) for these in (before, objects)]
    there = (float(point[0]), float(point[1])) if clusters is not None else None
    return Steps(display_rgb(colours(tile.pixels, tile.sensor)), box - shift, clusters, there, masks[0], masks[1], words)


def _window(box: np.ndarray, scene: Scene) -> Window:
    margin = _AROUND * max(box[2] - box[0], box[3] - box[1]) + 4
    x0, y0 = (max(int(v - margin), 0) for v in box[:2])
    x1, y1 = min(int(np.ceil(box[2] + margin)), scene.width), min(int(np.ceil(box[3] + margin)), scene.height)
    return Window(x0, y0, x1 - x0, y1 - y0)


def _in_window(objects: Objects, row: int, window: Window) -> np.ndarray:
    out = np.zeros((window.height, window.width), dtype=bool)
    own = Window(*objects.bbox[row].tolist())
    common = own.intersect(window)
    if common.area:
        local = common.relative_to(own)
        crop = rle.decode_box(objects.code(row), (local.x, local.y, local.width, local.height), (own.height, own.width))
        out[common.relative_to(window).slices()] = crop
    return out
