"""A run made of boxes, as exporters see it: objects are the boxes' masks, classes are the boxes' own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core import rle
from terralabel.core.grid import Window, plan_tiles
from terralabel.core.masks import Masks
from terralabel.core.objects import Objects
from terralabel.errors import RunError
from terralabel.labels.paint import paint
from terralabel.recipes.folder_run import FolderRun, manifest_format
from terralabel.recipes.labels_run import LabelsRun, is_labels
from terralabel.recipes.run import Run, TileRow
from terralabel.runs.folder import RunFolder
from terralabel.runs.parts import Ragged, iterate_part, read_notes

__all__ = ["FORMAT", "DetectedRun", "is_detected", "open_any", "painted_blocks"]

#: What the manifest of such a run says its format is.
FORMAT = "boxes 1"
#: Labels are painted in blocks of this side.
_BLOCK = 1024


def is_detected(folder: RunFolder) -> bool:
    """True for a folder that `detect_label` made."""
    return manifest_format(folder) == FORMAT


def open_any(path: str | Path) -> Run | DetectedRun | LabelsRun:
    """A run of `label`, of `detect-label` or `refer`, or of labels of any origin; `RunError` when it is none."""
    from terralabel.recipes.refer.run import ReferRun, is_referred
    from terralabel.recipes.run import open_run

    folder = RunFolder(path)
    if is_labels(folder):
        return LabelsRun(folder)
    if is_referred(folder):
        return ReferRun(folder)
    return DetectedRun(folder) if is_detected(folder) else open_run(path)


class DetectedRun(FolderRun):
    """A run folder of `detect_label`, opened; implements `contracts.RunView`."""

    def __init__(self, folder: RunFolder) -> None:
        if not is_detected(folder):
            raise RunError(f"{folder.path} is no run of boxes: make one with `terralabel detect-label`.")
        super().__init__(folder)

    @property
    def masks_name(self) -> str:
        """Name of the promptable that the boxes prompted."""
        return str(self.manifest["masks"]).split()[0]

    def _part(self, scene_key: str) -> Path | None:
        """The masks of a scene; None for one that failed."""
        name = self.manifest["parts"].get(scene_key)
        return None if name is None else self.path / "parts" / "detected" / name

    @cached_property
    def _first_ids(self) -> dict[str, int]:
        first, out = 1, {}
        for scene in self.scenes:
            out[scene.key] = first
            part = self._part(scene.key)
            first += 0 if part is None else read_notes(part)["masks"]
        return out

    def object_count(self) -> int:
        """Masks with at least one pixel."""
        parts = [part for scene in self.scenes if (part := self._part(scene.key)) is not None]
        return sum(read_notes(part)["masks"] for part in parts)

    def objects(self, scene_key: str) -> Iterator[Objects]:
        """The masks of a scene in batches of 4,096, in the order of the boxes."""
        part, first = self._part(scene_key), self._first_ids[scene_key]
        for batch in iterate_part(part, rows=4096) if part is not None else ():
            runs = batch["runs"]
            assert isinstance(runs, Ragged)
            count = len(np.asarray(batch["area"]))
            yield Objects(
                scene=scene_key,
                id=np.arange(first, first + count, dtype=np.int64),
                cluster_id=np.full(count, -1, dtype=np.int32),
                class_id=np.asarray(batch["class_id"]).astype(np.int32),
                score=np.asarray(batch["score" if "score" in batch else "predicted_iou"]),
                predicted_iou=np.asarray(batch["predicted_iou"]),
                stability_score=np.asarray(batch["stability_score"]),
                status=("auto",) * count,
                bbox=np.asarray(batch["bbox"]),
                area=np.asarray(batch["area"]),
                runs=runs.values,
                offsets=runs.offsets,
            )
            first += count

    def instances(self, scene_key: str) -> Iterator[tuple[Window, np.ndarray]]:
        """(window, (h, w) int64 id of the object each pixel shows, 0 for none)."""
        scene = self._scene[scene_key]
        batches = list(self.objects(scene_key))
        ids = np.concatenate([b.id for b in batches]) if batches else np.zeros(0, np.int64)
        for window, block in painted_blocks(batches, ids, scene.width, scene.height, fill=0):
            yield window, block.astype(np.int64)

    def tiles(self, scene_key: str) -> Iterator[TileRow]:
        """One row: a scene is done whole or not at all."""
        scene, part = self._scene[scene_key], self._part(scene_key)
        window = Window(0, 0, scene.width, scene.height)
        status = "failed" if part is None else "ok"
        reason = next((f.reason for f in self.failures if f.source == scene.source), "") if part is None else ""
        yield TileRow(scene_key, window, window, status, reason, 0 if part is None else read_notes(part)["masks"], {})

    def facts(self) -> dict[str, Any]:
        """Counts of everything, JSON-able."""
        return {
            "run": str(self.path),
            "run_id": self.id,
            "finished": self.finished,
            "scenes": len(self.scenes),
            "boxes": self.manifest.get("boxes_used", 0),
            "objects": self.object_count(),
            "problems": self.manifest.get("problems", []),
            "failures": [asdict(failure) for failure in self.failures],
            "classes": [{"id": e.id, "name": e.name} for e in self.classes],
        }

    def summary(self, list_failures: bool = True) -> str:
        """What a person wants to know at the end, and where the files are; failures one by one, or only how many."""
        facts = self.facts()
        lines = [
            f"run {self.path} (boxes; {'finished' if self.finished else 'unfinished'})",
            f"  scenes   {facts['scenes']:,}" + (f", {len(self.failures):,} failed" if self.failures else ""),
            f"  masks    {facts['objects']:,} of {facts['boxes']:,} boxes, by {self.masks_name}",
            f"  labels   {self.folder.labels_path}/*.tif, {len(self.classes)} classes, 255 where no box is",
            f"  next     terralabel export {self.path} --format coco --out DIR",
        ]
        told = [f"  failed   {' '.join(f.reason.split())}" for f in self.failures] if list_failures else []
        told += [f"  problem  {text}" for text in facts["problems"]]
        return "\n".join([*lines, *told[:10], *([f"  and {len(told) - 10:,} more"] if len(told) > 10 else [])])


def painted_blocks(
    batches: list[Objects], values: np.ndarray, width: int, height: int, *, fill: int
) -> Iterator[tuple[Window, np.ndarray]]:
    """(window, (h, w) values) of a scene in blocks of 1024, row by row: object i writes `values[i]`, the largest first."""
    areas = np.concatenate([b.area for b in batches]) if batches else np.zeros(0, np.int64)
    boxes = np.concatenate([b.bbox for b in batches]) if batches else np.zeros((0, 4), np.int64)
    start = np.concatenate([[0], np.cumsum([len(b) for b in batches])])
    for plan in plan_tiles("", width, height, _BLOCK, 0):
        block = plan.core
        right, bottom = boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
        inside = (boxes[:, 0] < block.right) & (right > block.x) & (boxes[:, 1] < block.bottom) & (bottom > block.y)
        which = np.flatnonzero(inside)
        codes = []
        for k in which.tolist():
            batch = int(np.searchsorted(start, k, side="right")) - 1
            codes.append(_in_block(batches[batch].code(k - int(start[batch])), Window(*boxes[k].tolist()), block))
        masks = Masks.from_codes(codes, (block.height, block.width))
        yield block, paint(masks, values[which], areas=areas[which], ids=which, fill=fill)


def _in_block(code: np.ndarray, box: Window, block: Window) -> np.ndarray:
    """Run lengths in the frame of a block of a mask given in the frame of its box."""
    common = box.intersect(block)
    local, place = common.relative_to(box), common.relative_to(block)
    crop = rle.decode_box(code, (local.x, local.y, local.width, local.height), (box.height, box.width))
    return rle.encode_boxed(crop, place.x, place.y, (block.height, block.width))
