"""Everything in a scene that the words of a text name: boxes tile by tile, joined across seams, and a mask for each.

What a text then means among them is settled later (`refer_meaning`), so that another text about the same things finds nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from terralabel import registry
from terralabel.contracts import Locator
from terralabel.core import rle
from terralabel.core.grid import TilePlan, Window, plan_tiles
from terralabel.core.masks import Masks
from terralabel.core.scene import Scene
from terralabel.errors import ContractError, InputError, SettingsError
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.raster import Raster
from terralabel.imagery.tiles import read_tile
from terralabel.masks.boxes import Boxes
from terralabel.masks.detected import windows_of_boxes
from terralabel.masks.located import GivenBoxes, Located, joined_across_seams
from terralabel.masks.referred import referred_masks
from terralabel.nets.detectors import Detections
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.detecting import suppress
from terralabel.recipes.refer_settings import ReferSettings
from terralabel.runs.parts import Ragged, write_part

__all__ = ["FindJob", "find_scene", "make_locator"]

#: A box is looked at in one piece: larger windows than this many pixels are refused.
_MOST_PIXELS = 64_000_000


@dataclass(frozen=True, eq=False)
class FindJob:
    """One scene: what to find in it, by which boxes or locator, and where what is found goes."""

    run: Path
    settings: ReferSettings
    scene: Scene
    things: tuple[str, ...]
    boxes: GivenBoxes | None
    part: Path


@lru_cache(maxsize=1)
def make_locator(name: str, device: str) -> Locator:
    """The locator of a name, or of a folder that `refer fit` made; loaded once in a process. `SettingsError` if nobody knows it."""
    factory = registry.create("locators", f"fitted:{name}" if Path(name).expanduser().is_dir() else name)
    on = getattr(factory, "on", None)
    return on(device) if callable(on) else factory


def find_scene(job: FindJob) -> str:
    """Write what is found in a scene as a part; returns "" or why it failed."""
    try:
        columns, notes = _found(job)
    except (InputError, ContractError, SettingsError) as error:
        return f"{getattr(error, 'status', 'backend')}: {' '.join(str(error).split())}"
    write_part(job.part, columns, notes)
    return ""


def _found(job: FindJob) -> tuple[dict[str, Any], dict[str, Any]]:
    scene, settings = job.scene, job.settings
    radiometry = Radiometry.from_json((job.run / "radiometry.json").read_text(encoding="utf-8"))
    with radiometry.open(scene.source, follow_vrt=settings.follow_vrt) as raster:
        located = _located(job, raster, radiometry)
        boxes = Boxes(
            np.concatenate([part.xyxy for part in located]) if located else np.zeros((0, 4)),
            np.repeat(np.arange(len(located)), [len(part) for part in located]),
            np.concatenate([part.score for part in located]) if located else np.zeros(0, np.float32),
        )
        rows, problems = _masks(job, boxes, raster, radiometry)
    empty = len(boxes) - len(rows)
    if empty > len(problems):
        problems.append(f"{scene.source}: {empty:,} boxes gave no mask")
    return _columns(boxes, rows), {"things": list(job.things), "boxes": len(boxes), "problems": problems}


def _located(job: FindJob, raster: Raster, radiometry: Radiometry) -> list[Located]:
    """The boxes of each thing, all over the scene."""
    scene, settings = job.scene, job.settings
    if job.boxes is not None:
        return [_kept(job.boxes.of(thing).inside(scene.width, scene.height), settings.threshold) for thing in job.things]
    locator = make_locator(settings.locator, settings.device)
    seen: list[list[tuple[Window, Located]]] = [[] for _ in job.things]
    for plan in plan_tiles(scene.key, scene.width, scene.height, settings.tile_size, settings.overlap):
        tile = read_tile(raster, plan, radiometry)
        if not tile.valid.any():
            continue
        shift = np.array([plan.window.x, plan.window.y, plan.window.x, plan.window.y], dtype=np.float64)
        for number, thing in enumerate(job.things):
            boxes, scores = _checked(locator, *locator.locate(tile, thing))
            here = _kept(Located(boxes + shift, scores).inside(scene.width, scene.height), settings.threshold)
            seen[number].append((plan.window, here))
    out = []
    for parts in seen:
        whole = joined_across_seams(parts, scene.width, scene.height)
        same = Detections(whole.xyxy.astype(np.float32), whole.score, np.zeros(len(whole), dtype=np.int64))
        out.append(whole.take(suppress(same, settings.nms)))
    return out


def _checked(locator: Locator, boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise ContractError(f"{locator.name}: expected boxes (n, 4) and scores (n,), got {boxes.shape} and {scores.shape}.")
    return boxes.astype(np.float64), scores.astype(np.float32)


def _kept(found: Located, threshold: float) -> Located:
    """Best first; equal scores in the order they came."""
    order = np.argsort(-found.score, kind="stable")
    return found.take(order[found.score[order] >= threshold])


@dataclass(frozen=True)
class _Row:
    """The mask of one box, in scene pixels; masks as run lengths in the frame of their window."""

    box: int
    mask: tuple[np.ndarray, Window]
    before: tuple[np.ndarray, Window]
    scores: tuple[float, float]
    point: tuple[float, float]
    by_point: bool
    refined: bool


def _masks(job: FindJob, boxes: Boxes, raster: Raster, radiometry: Radiometry) -> tuple[list[_Row], list[str]]:
    """A row for each box that has a mask with pixels, in the order of the boxes."""
    scene, settings = job.scene, job.settings
    promptable = make_promptable(settings.labelling)
    rows: list[_Row] = []
    problems: list[str] = []
    windows = windows_of_boxes(boxes, scene.width, scene.height, tile_size=settings.tile_size, overlap=settings.overlap)
    for number, (window, which) in enumerate(windows):
        if window.area > _MOST_PIXELS:
            problems.append(f"{scene.source}: a box is larger than {_MOST_PIXELS:,} pixels, which is looked at in one piece")
            continue
        tile = read_tile(raster, TilePlan(f"{scene.key}:{number:06d}", scene.key, 0, number, window, window), radiometry)
        shift = np.array([window.x, window.y, window.x, window.y])
        found = referred_masks(promptable, tile, boxes.xyxy[which] - shift, point=settings.point, refine=settings.refine)
        for k, box in enumerate(which.tolist()):
            if found.masks.area[k]:
                scores = float(found.masks.predicted_iou[k]), float(found.masks.stability_score[k])
                x, y = found.points[k].tolist()
                how = bool(found.by_point[k]), bool(found.refined[k])
                masks = _in_scene(found.masks, k, window), _in_scene(found.before, k, window)
                rows.append(_Row(box, *masks, scores, (x + window.x, y + window.y), *how))
    return sorted(rows, key=lambda row: row.box), problems


def _in_scene(masks: Masks, k: int, window: Window) -> tuple[np.ndarray, Window]:
    x, y, width, height = masks.bbox[k].tolist()
    return rle.encode(masks.crop(k)), Window(x + window.x, y + window.y, width, height)


def _columns(boxes: Boxes, rows: Sequence[_Row]) -> dict[str, Any]:
    """The columns of a part: of each mask its box, thing and scores, itself, and what it was before its boundary was redrawn."""
    which = np.array([row.box for row in rows], dtype=np.int64)
    columns: dict[str, Any] = {
        "thing": boxes.class_id[which].astype(np.int32),
        "box": boxes.xyxy[which].astype(np.float64).reshape(-1, 4),
        "score": boxes.score[which].astype(np.float32),
        "predicted_iou": np.array([row.scores[0] for row in rows], dtype=np.float32),
        "stability_score": np.array([row.scores[1] for row in rows], dtype=np.float32),
        "point": np.array([row.point for row in rows], dtype=np.float64).reshape(-1, 2),
        "by_point": np.array([row.by_point for row in rows], dtype=np.int8),
        "refined": np.array([row.refined for row in rows], dtype=np.int8),
    }
    for prefix, masks in (("", [row.mask for row in rows]), ("before_", [row.before for row in rows])):
        runs, offsets = rle.concatenate([code for code, _ in masks])
        places = [(w.x, w.y, w.width, w.height) for _, w in masks]
        columns |= {
            f"{prefix}bbox": np.array(places, dtype=np.int64).reshape(-1, 4),
            f"{prefix}area": rle.areas(runs, offsets),
            f"{prefix}runs": Ragged(runs, offsets),
        }
    return columns
