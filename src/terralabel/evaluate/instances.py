"""How well masks cover true instances: best overlap, recall, and average precision.

Instances are (H, W) integer rasters, 0 where there is none, or `Masks` of their own, which may overlap one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from terralabel.core import rle
from terralabel.core.masks import Masks
from terralabel.errors import InputError

__all__ = ["InstanceScores", "average_precision", "best_overlaps", "instance_masks", "overlaps", "score_instances"]


@dataclass(frozen=True)
class InstanceScores:
    """Quality of the masks of many tiles against their true instances.

    instances        how many true instances were counted
    masks            how many masks were judged
    best_overlap     mean over instances of the best IoU of any mask
    recall           share of instances whose best IoU is at least `iou`, for each of `ious`
    precision        mean over `ious` of average precision, masks ranked by `predicted_iou`
    """

    instances: int
    masks: int
    best_overlap: float
    recall: dict[float, float]
    precision: dict[float, float]


def instance_masks(instances: np.ndarray, *, min_size: int = 1, ignore: Sequence[int] = (0,)) -> Masks:
    """The instances of an (H, W) integer raster with at least `min_size` pixels, as masks in the order of their ids."""
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer):
        raise InputError(
            f"Instances: expected an (H, W) integer raster, got {instances.shape} {instances.dtype}.", "not-labels"
        )
    names, flat = np.unique(instances.T.ravel(), return_inverse=True)
    count = np.bincount(flat, minlength=len(names))
    keep = (count >= min_size) & ~np.isin(names, list(ignore))
    return Masks.from_arrays([instances == name for name in names[keep]], (instances.shape[0], instances.shape[1]))


def overlaps(masks: Masks, truth: Masks) -> np.ndarray:
    """IoU of every mask with every instance, (n, t) float64."""
    if masks.size != truth.size:
        raise InputError(f"Masks of {masks.size} cannot be compared with instances of {truth.size}; give equal sizes.", "size")
    if not len(masks) or not len(truth):
        return np.zeros((len(masks), len(truth)))
    owner, first, stop = rle.intervals(masks.runs, masks.offsets)
    inside = [_before(truth.code(i), stop) - _before(truth.code(i), first) for i in range(len(truth))]
    shared = np.stack([np.bincount(owner, pixels, len(masks)) for pixels in inside], 1)
    return shared / np.maximum(masks.area[:, None] + truth.area[None] - shared, 1)


def _before(code: np.ndarray, position: np.ndarray) -> np.ndarray:
    """How many pixels of a code lie in front of each position in column-major order."""
    edges = np.cumsum(code, dtype=np.int64)
    begin, end = edges[0::2][: len(edges) // 2], edges[1::2]
    total = np.concatenate([[0], np.cumsum(end - begin)])
    run = np.searchsorted(begin, position, side="right")
    if not len(end):
        return np.zeros(len(position), dtype=np.int64)
    return total[run] - np.where(run > 0, np.maximum(end[run - 1] - position, 0), 0)


def best_overlaps(masks: Masks, truth: Masks) -> np.ndarray:
    """Best IoU of any mask with each instance, (t,) float64; 0 where there are no masks."""
    table = overlaps(masks, truth)
    return table.max(0) if len(table) else np.zeros(len(truth))


def average_precision(scores: np.ndarray, hits: np.ndarray, instances: int) -> float:
    """Area under precision over recall (every point, precision made to fall), for masks with `scores` (n,) of which `hits` (n,) bool found an instance of their own."""
    if instances == 0 or not len(scores):
        return 0.0
    hit = hits[np.argsort(-scores, kind="stable")].astype(np.float64)
    found = np.cumsum(hit)
    precision = np.maximum.accumulate((found / np.arange(1, len(hit) + 1))[::-1])[::-1]
    return float((precision * hit).sum() / instances)


def _claims(table: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """Which masks, best first, find an instance that no better one took, (n,) bool (COCO's matching)."""
    hits = np.zeros(len(table), dtype=bool)
    free = np.ones(table.shape[1], dtype=bool)
    for i in np.argsort(-scores, kind="stable"):
        if not free.any():
            break
        choice = int(np.argmax(np.where(free, table[i], -1.0)))
        if table[i, choice] >= iou:
            hits[i], free[choice] = True, False
    return hits


def score_instances(pairs: Sequence[tuple[Masks, Masks]], ious: Sequence[float] = (0.5, 0.75)) -> InstanceScores:
    """Scores of (masks, true instances) of many tiles, instances weighing the same wherever they are."""
    tables = [overlaps(masks, truth) for masks, truth in pairs]
    best = np.concatenate([t.max(0) if len(t) else np.zeros(t.shape[1]) for t in tables]) if tables else np.zeros(0)
    scores = np.concatenate([masks.predicted_iou for masks, _ in pairs]) if pairs else np.zeros(0)
    precision = {}
    for iou in ious:
        hits = [_claims(t, masks.predicted_iou, iou) for t, (masks, _) in zip(tables, pairs, strict=True)]
        precision[iou] = average_precision(scores, np.concatenate(hits) if hits else np.zeros(0, dtype=bool), len(best))
    mean = float(best.mean()) if len(best) else 0.0
    recall = {iou: float((best >= iou).mean()) if len(best) else 0.0 for iou in ious}
    return InstanceScores(len(best), len(scores), mean, recall, precision)
