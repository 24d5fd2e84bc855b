"""What became of coarse labels: in numbers, a row an image, and as pictures of before and after."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import atomic_path, write_text
from terralabel.core.grid import Window
from terralabel.core.scene import Scene
from terralabel.export.picture import display_rgb, draw_outline, fit, overlay, text_strip
from terralabel.imagery.radiometry import Radiometry
from terralabel.labels.quality.judge import Judge
from terralabel.recipes.annotate.pictures import Signalled
from terralabel.runs.folder import RunFolder

__all__ = ["Change", "draw_changes", "write_changes"]

#: Sides of the windows that pictures show.
_SIDE = 512
_BEFORE, _AFTER = (255, 210, 0), (0, 220, 255)


@dataclass
class Change:
    """What was done to the label of one image. Pixels count where both labels have a class.

    `shift`: (rows, columns) by which the coarse label was found to lie off. `counts` (256, 256): pixels by class before and after.
    `objects`: connected parts before and after, by picture. `score`: expected quality before and after, by rules: an order, no promise.
    """

    scene: str
    shift: tuple[int, int]
    counts: np.ndarray = field(default_factory=lambda: np.zeros((256, 256), np.int64))
    objects: tuple[int, int] = (0, 0)
    score: tuple[float, float] = (float("nan"), float("nan"))

    def add(self, before: np.ndarray, after: np.ndarray, background: int | None) -> None:
        """Count one picture: (h, w) uint8 class ids each."""
        known = (before != IGNORE) & (after != IGNORE)
        np.add.at(self.counts, (before[known], after[known]), 1)
        parts = tuple(a + _parts(label, background) for a, label in zip(self.objects, (before, after), strict=True))
        self.objects = (parts[0], parts[1])

    @property
    def share(self) -> float:
        """Share of the pixels whose class changed."""
        total = int(self.counts.sum())
        return 1 - float(self.counts.diagonal().sum()) / total if total else 0.0

    def scored(self, before: Signalled, after: Signalled, judge: Judge) -> Change:
        """With the mean score of its units, weighted by their area."""
        return replace(self, score=(_mean_score(self.scene, before, judge), _mean_score(self.scene, after, judge)))

    def iou(self, class_id: int) -> float:
        """Of a class before and after; NaN where it is in neither."""
        both = self.counts[class_id, class_id]
        union = self.counts[class_id].sum() + self.counts[:, class_id].sum() - both
        return float(both / union) if union else float("nan")


def _parts(label: np.ndarray, background: int | None) -> int:
    ids = [i for i in np.unique(label).tolist() if i not in (IGNORE, background)]
    return sum(cv2.connectedComponents((label == i).astype(np.uint8), connectivity=8)[0] - 1 for i in ids)


def _mean_score(scene: str, found: Signalled, judge: Judge) -> float:
    rows = np.flatnonzero(np.array(found.scene) == scene)
    signals = found.signals.take(rows)
    quality = judge.predict(signals)
    weight = np.maximum(signals.units.area, 1) * np.isfinite(quality)
    return float((np.nan_to_num(quality) * weight).sum() / weight.sum()) if weight.sum() else float("nan")


def write_changes(path: Path, changes: Sequence[Change], classes: Classes) -> None:
    """changes.csv: a row an image, those that changed most first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    each = [f"iou with before: {entry.name}" for entry in classes]
    writer.writerow(
        [
            "scene",
            "changed",
            "shift rows",
            "shift columns",
            "objects before",
            "objects after",
            "score before",
            "score after",
            *each,
        ]
    )
    for change in sorted(changes, key=lambda c: (-c.share, c.scene)):
        numbers = [change.share, *change.shift, *change.objects, *change.score, *(change.iou(entry.id) for entry in classes)]
        writer.writerow([change.scene, *("" if n != n else f"{n:.4g}" for n in numbers)])
    write_text(path, out.getvalue())


def draw_changes(
    folder: RunFolder,
    changes: Sequence[Change],
    scenes: Mapping[str, Scene],
    radiometry: Radiometry,
    classes: Classes,
    background: int | None,
) -> list[Path]:
    """pictures/KEY.png: an image (of a large one the window that changed most), with its label before and after."""
    from terralabel.export.features import read_labels

    written = []
    for change in changes:
        scene = scenes[change.scene]
        paths = [folder.path / name / f"{scene.key}.tif" for name in ("coarse", "labels")]
        window = _most_changed(scene, paths)
        with radiometry.open(scene.source) as raster:
            pixels = radiometry.apply(*raster.read(window))
        image = display_rgb(pixels[..., :1] if pixels.shape[2] == 2 else pixels)
        panels = [image]
        for path, color in zip(paths, (_BEFORE, _AFTER), strict=True):
            label = read_labels(path, window)
            plain = background is not None and len(classes) == 2
            panels.append(
                draw_outline(image, (label != background) & (label != IGNORE), color)
                if plain
                else overlay(image, label, classes)
            )
        written.append(folder.path / "pictures" / f"{scene.key}.png")
        _save(written[-1], panels, f"{scene.key}: image, coarse, enhanced; {change.share:.1%} of the pixels changed")
    return written


def _most_changed(scene: Scene, paths: Sequence[Path]) -> Window:
    from terralabel.core.grid import plan_tiles
    from terralabel.export.features import read_labels

    windows = [plan.core for plan in plan_tiles("", scene.width, scene.height, _SIDE, 0)]
    if len(windows) == 1:
        return windows[0]
    changed = [int((read_labels(paths[0], w) != read_labels(paths[1], w)).sum()) for w in windows]
    return windows[int(np.argmax(changed))]


def _save(path: Path, panels: Sequence[np.ndarray], title: str) -> None:
    from PIL import Image

    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    whole = fit(row, 1600)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        Image.fromarray(np.concatenate([text_strip(title, whole.shape[1]), whole])).save(temporary, format="PNG")
