"""A person's corrections on label rasters that came from elsewhere, painted over a copy of what was there; and what is sure of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from terralabel.core.classes import Classes
from terralabel.core.files import atomic_path, write_text
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export.corrections import Corrections, apply_to_raster, load_corrections
from terralabel.export.features import read_labels
from terralabel.export.rasters import write_label_raster
from terralabel.imagery.sources import content_hash
from terralabel.recipes.folder_run import FolderRun
from terralabel.runs.folder import digest
from terralabel.runs.progress import Progress

__all__ = ["repaint_labels", "sure_labels"]

_SIDE = 2048


def repaint_labels(run: FolderRun, progress: Progress) -> None:
    """Paint corrections and the class map's colours into `labels/KEY.tif`; the raster as it came stays in `corrections/automatic/`.

    `corrections/painted.json` tells which rasters are ours: one with another content came from a rerun, and is the new start.
    """
    corrections = load_corrections(run.folder.corrections_path / "corrections.jsonl")
    record = run.folder.corrections_path / "painted.json"
    painted: dict[str, list[str]] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    classes = run.classes
    todo = [scene for scene in run.scenes if len(corrections.of(scene.key)) or scene.key in painted]
    progress.start("labels", len(todo), "scenes")
    for scene in todo:
        painted[scene.key] = _repainted(run, scene, corrections.of(scene.key), classes, painted.get(scene.key, ["", ""]))
        write_text(record, json.dumps(painted, indent=1, sort_keys=True))
        progress.advance()
    progress.finish()


def _repainted(run: FolderRun, scene: Scene, mine: Corrections, classes: Classes, before: list[str]) -> list[str]:
    """Paint one scene unless it is as it should be; returns [sha256 of the raster, digest of what it shows]."""
    final = run.label_path(scene.key)
    original = run.folder.corrections_path / "automatic" / f"{scene.key}.tif"
    found = content_hash(final)
    if found != before[0] or not original.is_file():
        with atomic_path(original, final.stat().st_size) as temporary:
            shutil.copyfile(final, temporary)
    shows = digest([classes.to_json(), [repr(item) for item in mine.items]])
    if [found, shows] != before:
        write_label_raster(final, scene, classes, _corrected(original, scene, mine, classes))
    return [content_hash(final), shows]


def _corrected(path: Path, scene: Scene, mine: Corrections, classes: Classes) -> Iterator[tuple[Window, np.ndarray]]:
    for plan in plan_tiles(scene.key, scene.width, scene.height, _SIDE, 0):
        block = read_labels(path, plan.core).astype(classes.dtype)
        yield plan.core, apply_to_raster(block, plan.core, mine)


def sure_labels(run: str | Path, out: Path, progress: Progress) -> Path:
    """The labels of a run to learn from, as rasters in `out`: what a gate or a person accepted or corrected, 255 elsewhere.

    Raises `RunError` for a run whose labels nobody has judged.
    """
    from terralabel.recipes.detected_run import open_any
    from terralabel.recipes.run import export_run

    opened = open_any(run)
    if opened.verdicts is None:
        raise RunError(
            f"{opened.path}: nobody has judged these labels, so nothing is sure: run `terralabel quality score` first, or give"
            f" {opened.folder.labels_path} to learn from all of them."
        )
    progress.say(f"labels: what is sure of {opened.path}, accepted by the gate or by a person, or corrected")
    export_run(opened, ["sure"], out, progress)
    return out
