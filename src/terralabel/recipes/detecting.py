"""Boxes by a detector, as a COCO file: what `detect-label` takes when nobody drew boxes (SAMRS* in ALPS)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from terralabel.core.files import write_text
from terralabel.core.grid import TilePlan, plan_tiles
from terralabel.core.tile import Tile
from terralabel.errors import InputError, SettingsError
from terralabel.imagery.radiometry import Radiometry, fit_radiometry
from terralabel.imagery.sources import SourceFile, find_sources
from terralabel.imagery.tiles import read_tile
from terralabel.nets.detectors import Detections, Detector, load_detector
from terralabel.runs.progress import Progress, Silent

__all__ = ["Detected", "detect", "suppress"]


@dataclass(frozen=True)
class Detected:
    """What `detect` wrote: the COCO file, images and boxes in it, and sentences on images that failed."""

    path: Path
    images: int
    boxes: int
    failures: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for a person."""
        failed = f"; {len(self.failures)} images failed" if self.failures else ""
        return f"{self.path}: {self.boxes:,} boxes in {self.images:,} images{failed}"


def detect(
    sources: Sequence[str | Path],
    detector: str,
    out: str | Path,
    *,
    threshold: float = 0.3,
    nms: float = 0.5,
    tile_size: int = 1024,
    overlap: int = 256,
    device: str = "auto",
    progress: Progress | None = None,
) -> Detected:
    """Find boxes in images, window by window, and write them as one COCO file with scores.

    `detector`: as in `nets.detectors.load_detector`. Boxes below `threshold` are dropped, and those of one class that overlap a
    better one by more than `nms` (IoU). A box counts where its centre lies in a window's core, so that none comes twice.
    """
    progress = progress or Silent()
    if not (0 <= threshold <= 1 and 0 < nms <= 1 and 0 <= 2 * overlap <= tile_size):
        raise SettingsError("detect: expected 0 <= threshold <= 1, 0 < nms <= 1, and an overlap of at most half a window.")
    found = find_sources(sources)
    if not found.files:
        raise InputError(
            f"No images in {', '.join(map(str, sources))}: expected GeoTIFF, PNG, JPEG or JPEG 2000 files.", "no-images"
        )
    network = load_detector(detector, device)
    fit = fit_radiometry([file.path for file in found.files], sensor="optical")
    failures = [s.reason for s in (*found.skipped, *fit.unfit)]
    unfit = {s.path for s in fit.unfit}
    files = [file for file in found.files if file.path not in unfit]
    common = Path(os.path.commonpath([file.path.parent for file in files])) if files else Path()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    progress.start("detect", len(files), "images")
    for number, file in enumerate(files, 1):
        try:
            size, boxes = _in_image(file, network, fit.radiometry, (threshold, nms, tile_size, overlap))
        except InputError as error:
            failures.append(str(error))
            progress.say(f"failed: {error}")
            progress.advance()
            continue
        images.append(
            {"id": number, "file_name": file.path.relative_to(common).as_posix(), "width": size[0], "height": size[1]}
        )
        annotations += _annotations(boxes, number, len(annotations) + 1)
        progress.advance()
    progress.finish()
    categories = [{"id": k, "name": name} for k, name in sorted(network.classes.items())]
    info = {"description": f"Boxes by {network.name}"}
    write_text(
        Path(out), json.dumps({"info": info, "images": images, "annotations": annotations, "categories": categories}) + "\n"
    )
    return Detected(Path(out), len(images), len(annotations), tuple(failures))


def _in_image(
    file: SourceFile, network: Detector, radiometry: Radiometry, how: tuple[float, float, int, int]
) -> tuple[tuple[int, int], Detections]:
    """((width, height), boxes in pixels of the image)."""
    threshold, nms, tile_size, overlap = how
    parts = []
    with radiometry.open(file.path) as raster:
        size = raster.width, raster.height
        for plan in plan_tiles(file.key, *size, tile_size, overlap):
            parts.append(_in_window(read_tile(raster, plan, radiometry), plan, network, threshold, size))
    boxes = Detections(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("xyxy", "score", "label")))
    return size, _chosen(boxes, suppress(boxes, nms))


def _in_window(tile: Tile, plan: TilePlan, network: Detector, threshold: float, size: tuple[int, int]) -> Detections:
    """Boxes of one window whose centre lies in its core, cut to the image, in the image's pixels."""
    if not tile.valid.any():
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    seen = network.detect(tile.rgb("give an image with three bands"))
    window, core = plan.window, plan.core
    xyxy = seen.xyxy + np.array([window.x, window.y, window.x, window.y], dtype=np.float32)
    xyxy = np.clip(xyxy, 0, np.array([*size, *size], dtype=np.float32))
    centre = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    keep = (seen.score >= threshold) & (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
    keep &= np.isin(seen.label, list(network.classes))
    for axis, low, high in ((0, core.x, core.right), (1, core.y, core.bottom)):
        keep &= (centre[:, axis] >= low) & (centre[:, axis] < high)
    return _chosen(Detections(xyxy, seen.score, seen.label), np.flatnonzero(keep))


def _chosen(found: Detections, which: np.ndarray) -> Detections:
    return Detections(found.xyxy[which], found.score[which], found.label[which])


def suppress(found: Detections, threshold: float) -> np.ndarray:
    """Indices of the boxes that stay, best first: of two of one class whose IoU is above `threshold` the better one."""
    order = np.argsort(-found.score, kind="stable")
    xyxy = found.xyxy.astype(np.float64)
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    kept: list[int] = []
    while len(order):
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        low, high = np.maximum(xyxy[best, :2], xyxy[rest, :2]), np.minimum(xyxy[best, 2:], xyxy[rest, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        iou = common / np.maximum(area[best] + area[rest] - common, 1e-9)
        order = rest[(iou <= threshold) | (found.label[rest] != found.label[best])]
    return np.array(kept, dtype=np.int64)


def _annotations(found: Detections, image: int, first: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for k, (x0, y0, x1, y1) in enumerate(found.xyxy.astype(float).tolist()):
        box = [round(v, 2) for v in (x0, y0, x1 - x0, y1 - y0)]
        if box[2] > 0 and box[3] > 0:
            label, score = int(found.label[k]), round(float(found.score[k]), 6)
            rows.append({"id": first + len(rows), "image_id": image, "category_id": label, "bbox": box, "score": score})
    return rows
