"""A run made of label rasters, whoever painted them: a network of ours, another program, a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from terralabel.core import rle
from terralabel.core.classes import IGNORE, Classes
from terralabel.core.files import write_text
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.objects import Objects
from terralabel.core.quality import Verdicts
from terralabel.core.scene import Scene
from terralabel.errors import RunError
from terralabel.export.features import read_labels
from terralabel.imagery.radiometry import Radiometry
from terralabel.recipes.folder_run import FolderRun, manifest_format
from terralabel.recipes.ingest import Failure, store_scenes
from terralabel.recipes.run import TileRow
from terralabel.runs.folder import RunFolder, digest

__all__ = ["FORMAT", "LabelsRun", "is_labels", "write_labels_run"]

#: What the manifest of such a run says its format is.
FORMAT = "labels 1"
#: Objects are looked for in windows of this side; what is larger is cut along them.
_SIDE = 4096


def is_labels(folder: RunFolder) -> bool:
    """True for a folder that `write_labels_run` made."""
    return manifest_format(folder) == FORMAT


def write_labels_run(
    folder: RunFolder,
    *,
    made_by: str,
    scenes: Sequence[Scene],
    classes: Classes,
    settings: Mapping[str, Any],
    failures: Sequence[Failure] = (),
    radiometry: Radiometry | None = None,
    background: int | None = None,
    notes: Sequence[str] = (),
    finished: bool = True,
) -> LabelsRun:
    """Write everything of a run but its rasters (`labels/KEY.tif` by `write_label_raster`); returns it, opened.

    `made_by`: name and version of what painted the labels. `background`: the class that is no object. `settings`: JSON-able;
    with the inputs they name the run. `radiometry`: None for labels without images. `notes`: sentences for the report.
    Called again, it replaces what was written: first with `finished` False, say, and at the end with True.
    """
    place = folder.path
    place.mkdir(parents=True, exist_ok=True)
    if radiometry is not None:
        write_text(folder.radiometry_path, radiometry.to_json() + "\n")
    write_text(folder.classes_path, classes.to_json() + "\n")
    store_scenes(folder, scenes, failures)
    folder.write_manifest(
        {
            "format": FORMAT,
            "terralabel": version("terralabel"),
            "masks": made_by,
            "run_id": digest([FORMAT, made_by, dict(settings), background, [[s.key, s.sha256] for s in scenes]]),
            "settings": dict(settings),
            "background": background,
            "notes": list(notes),
            "finished": finished,
        }
    )
    return LabelsRun(folder)


class LabelsRun(FolderRun):
    """A run folder of label rasters, opened; implements `contracts.RunView`. Objects are the connected parts of classes."""

    def __init__(self, folder: RunFolder) -> None:
        if not is_labels(folder):
            raise RunError(f"{folder.path} is no run of label rasters: make one with `annotate apply` or `quality score`.")
        super().__init__(folder)

    @property
    def masks_name(self) -> str:
        """Name of what painted the labels."""
        return str(self.manifest["masks"]).split()[0]

    @property
    def failed_sources(self) -> tuple[Failure, ...]:
        """Inputs that failed, for the report."""
        return self.failures

    @property
    def background(self) -> int | None:
        """The class that is no object, if there is one."""
        given = self.manifest.get("background")
        return None if given is None else int(given)

    @cached_property
    def _first_ids(self) -> dict[str, int]:
        first, out = 1, {}
        for scene in self.scenes:
            out[scene.key] = first
            first += sum(count - 1 for *_, count, _ in self._parts(scene))
        return {**out, "": first}

    def object_count(self) -> int:
        """Connected parts of all classes but the background."""
        return self._first_ids[""] - 1

    def _parts(self, scene: Scene) -> Iterator[tuple[Window, int, int, tuple[np.ndarray, np.ndarray]]]:
        """(window, class id, parts and one, (part of each pixel from 1 on, their cv2 statistics)) of a scene, in order."""
        path = self.label_path(scene.key)
        for plan in plan_tiles(scene.key, scene.width, scene.height, _SIDE, 0):
            labels = read_labels(path, plan.core)
            for class_id in np.unique(labels).tolist():
                if class_id not in (IGNORE, self.background):
                    mask = (labels == class_id).astype(np.uint8)
                    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
                    yield plan.core, class_id, count, (parts, statistics)

    def objects(self, scene_key: str) -> Iterator[Objects]:
        """The connected parts (8 neighbours) of a scene's classes, a batch a class and a window of 4096 pixels."""
        first = self._first_ids[scene_key]
        for window, class_id, count, (parts, statistics) in self._parts(self._scene[scene_key]):
            codes = []
            for part in range(1, count):
                x, y, width, height = statistics[part, :4].tolist()
                codes.append(rle.encode(parts[y : y + height, x : x + width] == part))
            runs, offsets = rle.concatenate(codes)
            bbox = statistics[1:, :4].astype(np.int64) + np.array([window.x, window.y, 0, 0])
            quality = self._quality(scene_key, class_id, bbox)
            n = count - 1
            yield Objects(
                scene=scene_key,
                id=np.arange(first, first + n, dtype=np.int64),
                cluster_id=np.full(n, -1, dtype=np.int32),
                class_id=np.full(n, class_id, dtype=np.int32),
                score=np.nan_to_num(quality),
                predicted_iou=quality,
                stability_score=np.full(n, np.nan, dtype=np.float32),
                status=("auto",) * n,
                bbox=bbox,
                area=statistics[1:, 4].astype(np.int64),
                runs=runs,
                offsets=offsets,
            )
            first += n

    def _quality(self, scene_key: str, class_id: int, bbox: np.ndarray) -> np.ndarray:
        """(n,) float32: of the judged object with the same box, else of the class where the box's centre lies; NaN if none is."""
        found = np.full(len(bbox), np.nan, dtype=np.float32)
        verdicts = self.verdicts
        if verdicts is None or not len(bbox):
            return found
        mine = self._verdicts_of.get((scene_key, class_id))
        if mine is None:
            return found
        exact = {
            tuple(box): q for box, q, k in zip(mine.units.box.tolist(), mine.quality, mine.units.component, strict=True) if k
        }
        centre = bbox[:, :2] + bbox[:, 2:] // 2
        for window, quality, component in zip(mine.window, mine.quality, mine.units.component, strict=True):
            if not component:
                inside = ((centre >= window[:2]) & (centre < window[:2] + window[2:])).all(axis=1)
                found[inside] = quality
        for row, box in enumerate(bbox.tolist() if exact else []):
            found[row] = exact.get(tuple(box), found[row])
        return found

    @cached_property
    def _verdicts_of(self) -> dict[tuple[str, int], Verdicts]:
        assert self.verdicts is not None
        rows: dict[tuple[str, int], list[int]] = {}
        for row, key in enumerate(zip(self.verdicts.scene, self.verdicts.units.class_id.tolist(), strict=True)):
            rows.setdefault(key, []).append(row)
        return {key: self.verdicts.take(np.array(which)) for key, which in rows.items()}

    def instances(self, scene_key: str) -> Iterator[tuple[Window, np.ndarray]]:
        """(window, (h, w) int64 id of the object each pixel shows, 0 for none)."""
        first = self._first_ids[scene_key]
        shown: tuple[Window, np.ndarray] | None = None
        for window, _, count, (parts, _) in self._parts(self._scene[scene_key]):
            if shown is None or shown[0] != window:
                if shown is not None:
                    yield shown
                shown = window, np.zeros(parts.shape, dtype=np.int64)
            shown[1][parts > 0] = parts[parts > 0] + (first - 1)
            first += count - 1
        if shown is not None:
            yield shown

    def tiles(self, scene_key: str) -> Iterator[TileRow]:
        """One row: a scene is done whole or not at all."""
        scene = self._scene[scene_key]
        window = Window(0, 0, scene.width, scene.height)
        count = self._first_ids[self._next_key(scene_key)] - self._first_ids[scene_key]
        yield TileRow(scene_key, window, window, "ok", "", count, {})

    def _next_key(self, scene_key: str) -> str:
        keys = [scene.key for scene in self.scenes]
        return [*keys, ""][keys.index(scene_key) + 1]

    def facts(self) -> dict[str, Any]:
        """Counts of everything, JSON-able."""
        facts: dict[str, Any] = {
            "run": str(self.path),
            "run_id": self.id,
            "finished": self.finished,
            "labels by": self.manifest["masks"],
            "scenes": len(self.scenes),
            "failures": [asdict(failure) for failure in self.failures],
            "classes": [{"id": e.id, "name": e.name} for e in self.classes],
        }
        if self.judged is not None:
            facts["quality"] = self.judged.facts()
        return facts

    def summary(self, list_failures: bool = True) -> str:
        """What a person wants to know at the end, and where the files are; failures one by one, or only how many."""
        lines = [
            f"run {self.path} (labels by {self.manifest['masks']}; {'finished' if self.finished else 'unfinished'})",
            f"  scenes   {len(self.scenes):,}" + (f", {len(self.failures):,} failed" if self.failures else ""),
            f"  labels   {self.folder.labels_path}/*.tif, {len(self.classes)} classes, 255 where there is no label",
        ]
        if self.judged is not None:
            lines += [f"  quality  {text}" for text in self.judged.lines()]
        lines.append(f"  next     terralabel export {self.path} --format geopackage --out DIR · terralabel report {self.path}")
        told = [f"  failed   {f.source}: {' '.join(f.reason.split())}" for f in self.failures] if list_failures else []
        return "\n".join([*lines, *told[:10], *([f"  and {len(told) - 10:,} more"] if len(told) > 10 else [])])
