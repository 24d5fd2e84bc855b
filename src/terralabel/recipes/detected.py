"""Labels from boxes: every box prompts a promptable once, its mask takes the box's class (the labels of SAMRS and SAMRS*).

Per scene: windows in which the boxes lie whole, one mask for each box, the masks painted the largest first, 255 where no box is.
A scene is a task; its masks are a part under a digest of all that made them, so the same command goes on after a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.contracts import Promptable
from terralabel.core import rle
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import write_text
from terralabel.core.grid import TilePlan, Window
from terralabel.core.objects import Objects
from terralabel.core.scene import Scene
from terralabel.errors import ContractError, InputError, RunError, SettingsError
from terralabel.imagery.datasets.class_lists import read_classes
from terralabel.imagery.radiometry import Radiometry
from terralabel.imagery.sources import content_hash
from terralabel.imagery.tiles import read_tile
from terralabel.masks.boxes import Boxes, BoxFile, read_boxes
from terralabel.masks.detected import box_masks, windows_of_boxes
from terralabel.masks.everything import Everything
from terralabel.recipes import ingest
from terralabel.recipes.backends import make_generator
from terralabel.recipes.detected_run import FORMAT, DetectedRun, is_detected, painted_blocks
from terralabel.recipes.networks import release_networks, settle, worker_count
from terralabel.recipes.settings import LabelSettings
from terralabel.runs.engine import Crash, Engine, engine_for
from terralabel.runs.folder import RunFolder, digest
from terralabel.runs.parts import Ragged, write_part
from terralabel.runs.progress import Progress, Silent

__all__ = ["DetectJob", "detect_label", "detect_scene", "make_promptable"]

#: Version of this stage's code: part of the digest of its parts.
_VERSION = 1
#: A box is looked at in one piece: larger windows than this many pixels are refused.
_MOST_PIXELS = 64_000_000
#: Settings of `label` that apply here.
_SETTINGS = ("masks", "tile_size", "overlap", "bands", "sensor", "device", "precision", "threads", "workers", "follow_vrt")


def make_promptable(settings: LabelSettings) -> Promptable:
    """What `--masks` names, as something that takes boxes; `SettingsError` for a backend that takes none."""
    generator = make_generator(settings)
    promptable = generator.promptable if isinstance(generator, Everything) else generator
    if not isinstance(promptable, Promptable):
        raise SettingsError(f"masks {settings.masks!r} takes no boxes: use tree, nano, or a SAM (`terralabel models list`).")
    return promptable


@dataclass(frozen=True, eq=False)
class DetectJob:
    """One scene: its boxes, and where its masks and its label go."""

    run: Path
    settings: LabelSettings
    scene: Scene
    boxes: Boxes
    classes: Classes
    part: Path


def detect_label(
    sources: Sequence[str | Path] | str | Path,
    boxes: str | Path,
    out: str | Path,
    *,
    classes: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> DetectedRun:
    """Label imagery whose objects have boxes: a COCO file, or DOTA's text files; returns the run, which exports like any other.

    `classes`: a class map with the names in the file, in place of numbers of its own. `settings`: masks, tile_size, overlap, bands,
    sensor, device, precision, threads, workers and follow_vrt, as in `label`. Scenes without boxes get a label of 255 only.
    Raises `InputError` for boxes that cannot be read, `RunError` when `out` was made with other settings (unless `overwrite`).

    >>> import terralabel as tl
    >>> files = tl.export_run(tl.open_run("run"), ["coco"], "boxes")
    >>> made = tl.detect_label("images", "boxes/annotations/instances.json", "from-boxes", masks="tree", workers=0)
    >>> made.finished
    True
    """
    progress = progress or Silent()
    wrong = sorted(set(settings) - set(_SETTINGS))
    if wrong:
        raise SettingsError(f"{wrong[0]!r} is no setting of detect-label; known: {', '.join(_SETTINGS)}.")
    named = [sources] if isinstance(sources, str | Path) else list(sources)
    folder = RunFolder(Path(os.path.abspath(out)))
    asked = _settled(LabelSettings(**settings), folder, progress)
    meaning = read_classes(Path(classes))[0] if classes is not None else None
    found = read_boxes(Path(boxes), meaning)
    promptable = make_promptable(asked)
    sources_found = ingest.find(named, folder.path, asked)
    _claim(folder, found, asked, promptable, overwrite)
    workers = worker_count(asked)
    if workers:
        release_networks()  # each worker loads its own
    engine = engine_for(workers)
    try:
        with folder.lock(progress.say):
            return _run(folder, sources_found, found, asked, promptable, engine, progress)
    finally:
        engine.close()


def _settled(settings: LabelSettings, folder: RunFolder, progress: Progress) -> LabelSettings:
    """`--masks auto` decided: as the run that is there, else by the weights on the machine."""
    if settings.masks != "auto":
        return settings
    if is_detected(folder):
        masks = json.loads(folder.manifest_path.read_text(encoding="utf-8"))["settings"]["masks"]
        return LabelSettings(**{**_chosen(settings), "masks": masks})
    settled, why = settle(settings, folder.path / "new")
    if why:
        progress.say(why)
    return settled


def _chosen(settings: LabelSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _SETTINGS}


def _claim(folder: RunFolder, boxes: BoxFile, settings: LabelSettings, promptable: Promptable, overwrite: bool) -> None:
    """Note what the run is made with; refuse a folder that was made with something else."""
    stored = {k: v for k, v in _chosen(settings).items() if k not in ("device", "workers")}
    stored["bands"] = list(settings.bands) if settings.bands else None
    made = {"settings": stored, "masks": f"{promptable.name} {promptable.version}", "boxes": _identity(boxes)}
    if folder.exists:
        if not is_detected(folder):
            raise RunError(f"{folder.path} is a run of `label`: choose another folder.")
        before = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
        other = [name for name in made if before.get(name) != made[name]]
        if other and not overwrite:
            raise RunError(f"{folder.path} was made with other {', '.join(other)}: choose another folder, or give --overwrite.")
    folder.create()
    folder.write_manifest({"format": FORMAT, "run_id": digest(made), "finished": False, "parts": {}, **made})
    write_text(folder.classes_path, boxes.classes.to_json())


def _identity(boxes: BoxFile) -> str:
    """sha256 of the file of boxes (of a folder: the digest of those of its files), and of what its classes are."""
    files = sorted(boxes.path.glob("*.txt")) if boxes.path.is_dir() else [boxes.path]
    return digest([*((f.name, content_hash(f)) for f in files), boxes.classes.to_json()])


def _run(
    folder: RunFolder,
    sources: Any,
    boxes: BoxFile,
    settings: LabelSettings,
    promptable: Promptable,
    engine: Engine,
    progress: Progress,
) -> DetectedRun:
    ingested = ingest.ingest(folder, sources, settings, engine, progress)
    matched, left = boxes.match({scene.key: scene.source for scene in ingested.scenes})
    problems = list(boxes.problems)
    if left:
        problems.append(f"boxes of {len(left):,} images that are not here, the first: {left[0]!r}")
    jobs, unfit = _jobs(folder, ingested.scenes, matched, boxes.classes, settings, promptable)
    problems += unfit
    for text in problems:
        progress.say(f"problem: {text}")
    failures = _detect(jobs, engine, progress)
    changed = ingest.changed_since(folder)
    for job in jobs:
        if job.scene.source in changed:
            job.part.unlink(missing_ok=True)
            failures[job.scene.source] = "changed: the image was changed while it was read; run the same command again"
    parts = {job.scene.key: job.part for job in jobs if job.scene.source not in failures}
    folder.remove_unused_parts(set(parts.values()))
    manifest = json.loads(folder.manifest_path.read_text(encoding="utf-8"))
    rows = [{"source": s, "status": why.partition(":")[0], "reason": why} for s, why in sorted(failures.items())]
    made = {
        "finished": True,
        "parts": {key: part.name for key, part in sorted(parts.items())},
        "problems": problems,
        "failures": rows,
        "boxes_used": sum(len(job.boxes) for job in jobs),
    }
    folder.write_manifest({**manifest, **made, "run_id": digest([manifest["run_id"], made["parts"]])})
    folder.note_history({"command": "detect-label", "scenes": len(parts), "failed": len(failures)})
    return DetectedRun(folder)


def _jobs(
    folder: RunFolder,
    scenes: Sequence[Scene],
    matched: dict[str, Boxes],
    classes: Classes,
    settings: LabelSettings,
    promptable: Promptable,
) -> tuple[list[DetectJob], list[str]]:
    """One job a scene, and sentences on boxes that are left out."""
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
    radiometry = folder.radiometry_path.read_text(encoding="utf-8")
    made = [promptable.name, promptable.version, radiometry, classes.to_json(), settings.tile_size, settings.overlap, _VERSION]
    jobs, problems = [], []
    for scene in scenes:
        mine = matched.get(scene.key, nothing)
        inside = mine.inside(scene.width, scene.height)
        if len(inside) < len(mine):
            problems.append(f"{scene.source}: {len(mine) - len(inside)} of {len(mine)} boxes lie outside the image")
        inside, large = _of_fitting_size(inside, scene, settings)
        if large:
            problems.append(
                f"{scene.source}: {large} boxes are larger than {_MOST_PIXELS:,} pixels, which is looked at in one piece"
            )
        name = digest([scene.sha256, inside.xyxy.tolist(), inside.class_id.tolist(), *made])
        part = folder.part_path("detected", scene.key, name)
        jobs.append(DetectJob(folder.path, settings, scene, inside, classes, part))
    return jobs, problems


def _of_fitting_size(boxes: Boxes, scene: Scene, settings: LabelSettings) -> tuple[Boxes, int]:
    windows = _windows(boxes, scene, settings)
    large = [which for window, which in windows if window.area > _MOST_PIXELS]
    if not large:
        return boxes, 0
    keep = ~np.isin(np.arange(len(boxes)), np.concatenate(large))
    return Boxes(boxes.xyxy[keep], boxes.class_id[keep]), int((~keep).sum())


def _windows(boxes: Boxes, scene: Scene, settings: LabelSettings) -> list[tuple[Window, np.ndarray]]:
    return windows_of_boxes(boxes, scene.width, scene.height, tile_size=settings.tile_size, overlap=settings.overlap)


def _detect(jobs: Sequence[DetectJob], engine: Engine, progress: Progress) -> dict[str, str]:
    """Every job that is not done yet; source -> why, of those that failed."""
    todo = [job for job in jobs if not (job.part.exists() and _label_path(job).exists())]
    progress.start("boxes", len(jobs), "scenes", len(jobs) - len(todo))
    failures: dict[str, str] = {}
    for job, why in engine.map(detect_scene, todo):
        if isinstance(why, Crash):
            why = f"crash: {why.reason}"
        if why:
            failures[job.scene.source] = why
            progress.say(f"failed: {why}")
        progress.advance()
    progress.finish()
    return failures


def _label_path(job: DetectJob) -> Path:
    return RunFolder(job.run).labels_path / f"{job.scene.key}.tif"


def detect_scene(job: DetectJob) -> str:
    """Masks and label of one scene; returns "" or why it failed. The part is written last: it says that the label is there."""
    from terralabel.export.rasters import write_label_raster

    try:
        objects = _prompted(job)
    except (InputError, ContractError) as error:
        return f"{getattr(error, 'status', 'backend')}: {' '.join(str(error).split())}"
    _forget_older(job)
    blocks = painted_blocks([objects], objects.class_id, job.scene.width, job.scene.height, fill=IGNORE)
    write_label_raster(_label_path(job), job.scene, job.classes, blocks)
    columns = {name: getattr(objects, name) for name in ("class_id", "predicted_iou", "stability_score", "bbox", "area")}
    notes = {"masks": len(objects), "boxes": len(job.boxes)}
    write_part(job.part, {**columns, "runs": Ragged(objects.runs, objects.offsets)}, notes)
    return ""


def _forget_older(job: DetectJob) -> None:
    """Parts of this scene under other settings speak of a label that is about to be replaced."""
    ending = len("-0123456789abcdef.parquet")
    for part in sorted(job.part.parent.glob("*.parquet")):
        if part.name[:-ending] == job.scene.key:
            part.unlink()


def _prompted(job: DetectJob) -> Objects:
    """The masks of a scene's boxes that have pixels, in the order of the boxes."""
    scene, promptable = job.scene, make_promptable(job.settings)
    radiometry = Radiometry.from_json((job.run / "radiometry.json").read_text(encoding="utf-8"))
    found: dict[int, tuple[np.ndarray, Window, float, float]] = {}
    with radiometry.open(scene.source, follow_vrt=job.settings.follow_vrt) as raster:
        for number, (window, which) in enumerate(_windows(job.boxes, scene, job.settings)):
            tile = read_tile(raster, TilePlan(f"{scene.key}:{number:06d}", scene.key, 0, number, window, window), radiometry)
            shift = np.array([window.x, window.y, window.x, window.y])
            masks = box_masks(promptable, tile, job.boxes.xyxy[which] - shift)
            for k, box in enumerate(which.tolist()):
                if masks.area[k]:
                    x, y, width, height = masks.bbox[k].tolist()
                    scores = float(masks.predicted_iou[k]), float(masks.stability_score[k])
                    found[box] = (rle.encode(masks.crop(k)), Window(x + window.x, y + window.y, width, height), *scores)
    return _objects(scene, job.boxes, found)


def _objects(scene: Scene, boxes: Boxes, found: Mapping[int, tuple[np.ndarray, Window, float, float]]) -> Objects:
    order = sorted(found)
    runs, offsets = rle.concatenate([found[k][0] for k in order])
    places = [found[k][1] for k in order]
    return Objects(
        scene=scene.key,
        id=np.arange(1, len(order) + 1, dtype=np.int64),
        cluster_id=np.full(len(order), -1, dtype=np.int32),
        class_id=boxes.class_id[order].astype(np.int32),
        score=np.array([found[k][2] for k in order], dtype=np.float32),
        predicted_iou=np.array([found[k][2] for k in order], dtype=np.float32),
        stability_score=np.array([found[k][3] for k in order], dtype=np.float32),
        status=("auto",) * len(order),
        bbox=np.array([(w.x, w.y, w.width, w.height) for w in places], dtype=np.int64).reshape(-1, 4),
        area=rle.areas(runs, offsets),
        runs=runs,
        offsets=offsets,
    )
