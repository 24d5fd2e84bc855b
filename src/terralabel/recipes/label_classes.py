"""Classes of label rasters that a network learned, or that came from elsewhere: listed, renamed, recoloured; rasters follow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from terralabel.clusters import align as class_maps
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import write_text
from terralabel.core.grid import plan_tiles
from terralabel.core.scene import Scene
from terralabel.errors import SettingsError
from terralabel.export.features import read_labels
from terralabel.export.rasters import write_label_raster
from terralabel.recipes.labels_run import LabelsRun
from terralabel.recipes.quality.store import label_hashes, load_signals, save_verdicts
from terralabel.recipes.run import require_finished
from terralabel.runs.progress import Progress, Silent

__all__ = ["change_label_classes", "kept_names"]

_ACTIONS = ("name", "color")
_SIDE = 2048


def change_label_classes(
    run: LabelsRun, action: str = "list", arguments: Sequence[str] = (), *, progress: Progress | None = None
) -> str:
    """``list``; ``name CLASS NAME``; ``color CLASS #rrggbb``: as `change_clusters`, for a run whose classes are no clusters.

    Verdicts stay: what is judged is where labels lie. Raises `SettingsError` for what only clusters can do.
    """
    progress = progress or Silent()
    require_finished(run, "show or change")
    if action != "list" and action not in _ACTIONS:
        raise SettingsError(
            f"clusters {action}: the classes of {run.path} were learned, there are no clusters in them; known: list, {', '.join(_ACTIONS)}."
        )
    if action == "list":
        return _table(run)
    if len(arguments) != 2:
        raise SettingsError(f"clusters {action}: expected CLASS and its {action}; got {' '.join(arguments) or 'nothing'}.")
    change = class_maps.name if action == "name" else class_maps.recolor
    with run.folder.lock(progress.say):
        classes = change(run.classes, arguments[0], arguments[1])
        _dress(run, classes, progress)
    run.folder.note_history({"verb": f"clusters {action}", "arguments": list(arguments)})
    return _table(LabelsRun(run.folder))


def kept_names(old: Path, classes: Classes) -> Classes:
    """The class map that is there, with what a person named; `classes` where there is none, or its ids are others."""
    try:
        before = Classes.from_json(old.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return classes
    return before if [e.id for e in before] == [e.id for e in classes] else classes


def _dress(run: LabelsRun, classes: Classes, progress: Progress) -> None:
    """The class map, and every raster with its colours and names; verdicts know the rasters again."""
    scenes = [scene for scene in run.scenes if (run.folder.labels_path / f"{scene.key}.tif").is_file()]
    progress.start("labels", len(scenes), "scenes")
    for scene in scenes:
        path = run.label_path(scene.key)
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, driver="GTiff") as source:
            tags = {
                name: value
                for name, value in source.tags().items()
                if name.startswith("TERRALABEL_") and name != "TERRALABEL_CLASSES"
            }
        windows = [plan.core for plan in plan_tiles(scene.key, scene.width, scene.height, _SIDE, 0)]
        write_label_raster(path, scene, classes, ((window, read_labels(path, window)) for window in windows), tags=tags)
        progress.advance()
    progress.finish()
    write_text(run.folder.classes_path, classes.to_json() + "\n")
    stored = load_signals(run.folder)
    if stored is not None:
        verdicts, signals, notes = stored
        hashes = label_hashes({scene.key: run.label_path(scene.key) for scene in scenes})
        save_verdicts(run.folder, verdicts, {**notes, "labels": hashes}, signals)


def _table(run: LabelsRun) -> str:
    """The classes as lines: id, name, colour, pixels, share of what has a label."""
    pixels = np.zeros(65536, np.int64)
    for scene in run.scenes:
        pixels += _pixels(run, scene)
    total = max(int(pixels.sum() - pixels[IGNORE]), 1)
    lines = [f"{'id':>5}  {'class':<24} {'color':<8} {'pixels':>14} {'area':>7}"]
    for entry in run.classes:
        mark = "  (background)" if entry.id == run.background else ""
        lines.append(
            f"{entry.id:>5}  {entry.name:<24} {entry.color:<8} {pixels[entry.id]:>14,} {pixels[entry.id] / total:>6.1%}{mark}"
        )
    return "\n".join(lines)


def _pixels(run: LabelsRun, scene: Scene) -> np.ndarray:
    path = run.label_path(scene.key)
    windows = (plan.core for plan in plan_tiles(scene.key, scene.width, scene.height, _SIDE, 0))
    return sum((np.bincount(read_labels(path, w).ravel(), minlength=65536) for w in windows), np.zeros(65536, np.int64))
