"""Everything in a scene that the words of a text name: boxes tile by tile, joined across seams, and a mask for each.

What a text then means among them is settled later (`meaning`), so that another text about the same things finds nothing anew.
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
from terralabel.imagery.tiles import read_tile
from terralabel.masks.boxes import Boxes
from terralabel.masks.detected import windows_of_boxes
from terralabel.masks.located import GivenBoxes, Located, joined_across_seams
from terralabel.masks.referred import Referred, referred_masks
from terralabel.nets.detectors import Detections
from terralabel.recipes.detected import make_promptable
from terralabel.recipes.detecting import suppress
from terralabel.recipes.refer.settings import ReferSettings
from terralabel.runs.parts import Part, Ragged, read_part, write_part

__all__ = [
    "FindJob",
    "LocateJob",
    "MaskJob",
    "gather_scene",
    "locate_jobs",
    "locate_tiles",
    "make_locator",
    "mask_jobs",
    "mask_windows",
]

#: A box is looked at in one piece: larger windows than this many pixels are refused.
_MOST_PIXELS = 64_000_000
#: Tiles, and windows with boxes, that a task looks at: what a crash costs at most.
_TILES, _WINDOWS = 4, 4


@dataclass(frozen=True, eq=False)
class FindJob:
    """One scene: what to find in it, in which boxes (None: a locator finds them), and where what is found goes."""

    run: Path
    settings: ReferSettings
    scene: Scene
    things: tuple[str, ...]
    boxes: GivenBoxes | None
    part: Path

    def shard(self, stage: str, number: int) -> Path:
        """Where a task of a scene leaves its result; the name holds the digest of all that `part` is made of."""
        key, _, name = self.part.stem.rpartition("-")
        return self.part.parent.parent / stage / f"{key}-{number:06d}-{name}.parquet"


@dataclass(frozen=True, eq=False)
class LocateJob:
    """Some tiles of a scene, for a locator."""

    find: FindJob
    plans: tuple[TilePlan, ...]
    part: Path

    @property
    def scene(self) -> Scene:
        """The scene."""
        return self.find.scene


@dataclass(frozen=True, eq=False)
class MaskJob:
    """Some windows of a scene, each with the boxes (by number) whose masks are made in it; `xyxy` holds the boxes of all."""

    find: FindJob
    windows: tuple[tuple[Window, np.ndarray], ...]
    xyxy: dict[int, np.ndarray]
    first: int
    part: Path

    @property
    def scene(self) -> Scene:
        """The scene."""
        return self.find.scene


@lru_cache(maxsize=1)
def make_locator(name: str, device: str) -> Locator:
    """The locator of a name, or of a folder that `refer fit` made; loaded once in a process. `SettingsError` if nobody knows it."""
    factory = registry.create("locators", f"fitted:{name}" if Path(name).expanduser().is_dir() else name)
    on = getattr(factory, "on", None)
    return on(device) if callable(on) else factory


def _told(error: Exception) -> str:
    return f"{getattr(error, 'status', 'backend')}: {' '.join(str(error).split())}"


def _radiometry(job: FindJob) -> Radiometry:
    return Radiometry.from_json((job.run / "radiometry.json").read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------------------ boxes


def locate_jobs(job: FindJob) -> list[LocateJob]:
    """The tasks of a scene whose boxes a locator finds; none where they are given."""
    if job.boxes is not None:
        return []
    plans = plan_tiles(job.scene.key, job.scene.width, job.scene.height, job.settings.tile_size, job.settings.overlap)
    blocks = [tuple(plans[k : k + _TILES]) for k in range(0, len(plans), _TILES)]
    return [LocateJob(job, block, job.shard("located", number)) for number, block in enumerate(blocks)]


def locate_tiles(job: LocateJob) -> str:
    """Write the boxes of some tiles as a part, in scene pixels; returns "" or why it failed."""
    find, scene = job.find, job.find.scene
    locator, radiometry = make_locator(find.settings.locator, find.settings.device), _radiometry(find)
    rows: list[tuple[int, int, Located]] = []  # (tile, thing, boxes)
    try:
        with radiometry.open(scene.source, follow_vrt=find.settings.follow_vrt) as raster:
            for number, plan in enumerate(job.plans):
                tile = read_tile(raster, plan, radiometry)
                shift = np.array([plan.window.x, plan.window.y, plan.window.x, plan.window.y], dtype=np.float64)
                for thing, words in enumerate(find.things) if tile.valid.any() else ():
                    boxes, scores = _checked(locator, *locator.locate(tile, words))
                    here = _kept(Located(boxes + shift, scores).inside(scene.width, scene.height), find.settings.threshold)
                    rows.append((number, thing, here))
    except (InputError, ContractError, SettingsError) as error:
        return _told(error)
    counts = [len(here) for _, _, here in rows]
    columns = {
        "tile": np.repeat(np.array([tile for tile, _, _ in rows], dtype=np.int32), counts),
        "thing": np.repeat(np.array([thing for _, thing, _ in rows], dtype=np.int32), counts),
        "box": np.concatenate([here.xyxy for _, _, here in rows] or [np.zeros((0, 4))]),
        "score": np.concatenate([here.score for _, _, here in rows] or [np.zeros(0, np.float32)]).astype(np.float32),
    }
    write_part(job.part, columns, {})
    return ""


def _located(job: FindJob) -> Boxes:
    """The boxes of a scene, thing by thing, the best first; `class_id` is the number of the thing."""
    scene, settings = job.scene, job.settings
    if job.boxes is not None:
        found = [_kept(job.boxes.of(thing).inside(scene.width, scene.height), settings.threshold) for thing in job.things]
    else:
        seen: list[list[tuple[Window, Located]]] = [[] for _ in job.things]
        for task in locate_jobs(job):
            columns = {name: np.asarray(column) for name, column in read_part(task.part).columns.items()}
            for number, plan in enumerate(task.plans):
                for thing, parts in enumerate(seen):
                    mine = (columns["tile"] == number) & (columns["thing"] == thing)
                    parts.append((plan.window, Located(columns["box"][mine].reshape(-1, 4), columns["score"][mine])))
        found = []
        for parts in seen:
            whole = joined_across_seams(parts, scene.width, scene.height)
            same = Detections(whole.xyxy.astype(np.float32), whole.score, np.zeros(len(whole), dtype=np.int64))
            found.append(whole.take(suppress(same, settings.nms)))
    return Boxes(
        np.concatenate([part.xyxy for part in found] or [np.zeros((0, 4))]),
        np.repeat(np.arange(len(found)), [len(part) for part in found]),
        np.concatenate([part.score for part in found] or [np.zeros(0, np.float32)]),
    )


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


# ------------------------------------------------------------------------------------------------------------------ masks


def mask_jobs(job: FindJob) -> list[MaskJob]:
    """The tasks that make the masks of a scene's boxes, once they are located."""
    boxes, scene, settings = _located(job), job.scene, job.settings
    windows = windows_of_boxes(boxes, scene.width, scene.height, tile_size=settings.tile_size, overlap=settings.overlap)
    small = [pair for pair in windows if pair[0].area <= _MOST_PIXELS]
    out = []
    for number, first in enumerate(range(0, len(small), _WINDOWS)):
        some = tuple(small[first : first + _WINDOWS])
        xyxy = {box: boxes.xyxy[box] for _, which in some for box in which.tolist()}
        out.append(MaskJob(job, some, xyxy, first, job.shard("masked", number)))
    return out


def mask_windows(job: MaskJob) -> str:
    """Write the masks of some windows' boxes as a part; returns "" or why it failed."""
    find, scene = job.find, job.find.scene
    rows: list[_Row] = []
    try:
        promptable, radiometry = make_promptable(find.settings.labelling), _radiometry(find)
        with radiometry.open(scene.source, follow_vrt=find.settings.follow_vrt) as raster:
            for number, (window, which) in enumerate(job.windows, job.first):
                tile = read_tile(
                    raster, TilePlan(f"{scene.key}:{number:06d}", scene.key, 0, number, window, window), radiometry
                )
                shift = np.array([window.x, window.y, window.x, window.y])
                xyxy = np.stack([job.xyxy[box] for box in which.tolist()]) - shift
                found = referred_masks(promptable, tile, xyxy, point=find.settings.point, refine=find.settings.refine)
                rows += [_row(found, k, box, window) for k, box in enumerate(which.tolist()) if found.masks.area[k]]
    except (InputError, ContractError, SettingsError) as error:
        return _told(error)
    write_part(job.part, _columns(rows), {})
    return ""


def _row(found: Referred, k: int, box: int, window: Window) -> _Row:
    x, y = found.points[k].tolist()
    return _Row(
        box,
        _in_scene(found.masks, k, window),
        _in_scene(found.before, k, window),
        (float(found.masks.predicted_iou[k]), float(found.masks.stability_score[k])),
        (x + window.x, y + window.y),
        bool(found.by_point[k]),
        bool(found.refined[k]),
    )


def gather_scene(job: FindJob) -> None:
    """Put the masks of a scene's tasks together, in the order of the boxes, and write them as its part."""
    boxes = _located(job)
    rows = sorted((row for task in mask_jobs(job) for row in _rows(read_part(task.part))), key=lambda row: row.box)
    which = np.array([row.box for row in rows], dtype=np.int64)
    own: dict[str, Any] = {
        "thing": boxes.class_id[which].astype(np.int32),
        "box": boxes.xyxy[which].astype(np.float64).reshape(-1, 4),
        "score": boxes.score[which].astype(np.float32),
    }
    bare = len(boxes) - len(rows)
    problems = [f"{job.scene.source}: {bare:,} boxes gave no mask (no data there, or too large to be looked at in one piece)"]
    notes = {"things": list(job.things), "boxes": len(boxes), "problems": problems if bare else []}
    write_part(job.part, {**own, **_columns(rows)}, notes)


def _rows(part: Part) -> list[_Row]:
    columns = {name: column for name, column in part.columns.items() if not isinstance(column, Ragged)}
    masks = {name: column for name, column in part.columns.items() if isinstance(column, Ragged)}

    def mask(prefix: str, k: int) -> tuple[np.ndarray, Window]:
        runs = masks[f"{prefix}runs"]
        return runs.values[runs.offsets[k] : runs.offsets[k + 1]], Window(*columns[f"{prefix}bbox"][k].tolist())

    return [
        _Row(
            int(columns["number"][k]),
            mask("", k),
            mask("before_", k),
            (float(columns["predicted_iou"][k]), float(columns["stability_score"][k])),
            tuple(columns["point"][k].tolist()),
            bool(columns["by_point"][k]),
            bool(columns["refined"][k]),
        )
        for k in range(len(columns["number"]))
    ]


def _in_scene(masks: Masks, k: int, window: Window) -> tuple[np.ndarray, Window]:
    x, y, width, height = masks.bbox[k].tolist()
    return rle.encode(masks.crop(k)), Window(x + window.x, y + window.y, width, height)


def _columns(rows: Sequence[_Row]) -> dict[str, Any]:
    """The columns of a part: of each mask its box and scores, itself, and what it was before its boundary was redrawn."""
    columns: dict[str, Any] = {
        "number": np.array([row.box for row in rows], dtype=np.int64),
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
