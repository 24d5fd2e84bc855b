"""A tiny `Promptable` to write tests with: no network, no weights, answers in microseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from terralabel.contracts import Encoded, Prediction
from terralabel.core.masks import Masks
from terralabel.core.tile import Tile

__all__ = ["FloodPromptable"]


@dataclass(frozen=True)
class FloodPromptable:
    """A stand-in `Promptable`: the region of like colour around the prompt. No network, no claim to quality.

    `tolerances` are the largest differences in any band (uint8 steps) of the alternatives, so these are nested.
    `stability_score` compares a tolerance less 2 with a tolerance plus 2; `predicted_iou` with half as much again.
    Its feature map is the mean colour of cells of `cell` pixels, padded to a square as SAM pads.
    """

    tolerances: tuple[int, ...] = (8, 24, 60)
    cell: int = 8
    name: str = "flood"
    version: str = "1"

    def encode(self, tile: Tile) -> Encoded:
        """Mean colours of cells; see `Encoded`."""
        height, width = tile.size
        cells = -(-max(height, width) // self.cell)
        padded = np.zeros((cells * self.cell, cells * self.cell, tile.pixels.shape[2]), dtype=np.float32)
        padded[:height, :width] = tile.pixels
        means = padded.reshape(cells, self.cell, cells, self.cell, -1).mean(axis=(1, 3))
        return Encoded(tile, None, means, (height / self.cell, width / self.cell))

    def predict(
        self,
        encoded: Encoded,
        *,
        points: np.ndarray | None = None,
        point_labels: np.ndarray | None = None,
        boxes: np.ndarray | None = None,
        masks: Masks | None = None,
        multimask: bool = True,
    ) -> Prediction:
        """One region per prompt and tolerance; background points remove the region of their colour."""
        given = [len(p) for p in (points, boxes, masks) if p is not None]
        found, iou, stability = [], [], []
        for b in range(given[0]):
            seeds, against, inside = _prompt(encoded.tile, b, points, point_labels, boxes, masks)
            for tolerance in self.tolerances if multimask else self.tolerances[1:2]:
                regions = {t: _flood(encoded.tile, seeds, against, inside, t) for t in _around(tolerance)}
                lower, region, upper, wide = (regions[t] for t in _around(tolerance))
                found.append(region)
                iou.append(_overlap(region, wide))
                stability.append(_overlap(lower, upper))
        columns = {"predicted_iou": np.array(iou, dtype=np.float32), "stability_score": np.array(stability, dtype=np.float32)}
        return Prediction(Masks.from_arrays(found, encoded.tile.size, **columns), len(self.tolerances) if multimask else 1)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / max((one | other).sum(), 1)


def _around(tolerance: int) -> tuple[int, int, int, int]:
    return tolerance - 2, tolerance, tolerance + 2, tolerance * 3 // 2


def _prompt(
    tile: Tile, b: int, points: Any, point_labels: Any, boxes: Any, masks: Masks | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(object pixels (s, 2) row column, background pixels (t, 2), inside (H, W) bool) of prompt `b`."""
    height, width = tile.size
    inside = tile.valid.copy()
    labels = np.zeros(0, dtype=int) if points is None else np.asarray(point_labels[b])
    xy = np.zeros((0, 2)) if points is None else np.asarray(points[b], dtype=np.float64)
    seeds = xy[labels == 1]
    if boxes is not None:
        x0, y0, x1, y1 = np.asarray(boxes[b], dtype=np.float64)
        column, row = np.arange(width) + 0.5, np.arange(height) + 0.5
        inside &= ((row > y0) & (row < y1))[:, None] & ((column > x0) & (column < x1))[None]
        seeds = seeds if len(seeds) else np.array([[(x0 + x1) / 2, (y0 + y1) / 2]])
    if masks is not None and not len(seeds):
        seeds = masks.point_coords[b : b + 1]

    def pixels(points_xy: np.ndarray) -> np.ndarray:
        return np.clip(points_xy[:, ::-1].astype(int), 0, (height - 1, width - 1))

    return pixels(seeds), pixels(xy[labels == 0]), inside


def _flood(tile: Tile, seeds: np.ndarray, against: np.ndarray, inside: np.ndarray, tolerance: int) -> np.ndarray:
    """(H, W) bool: what is connected to a seed through its colour, without what is connected to `against`."""
    import cv2

    def grown(row: int, column: int) -> np.ndarray:
        distance = np.abs(tile.pixels.astype(np.int16) - tile.pixels[row, column]).max(axis=2)
        parts = cv2.connectedComponents(((distance <= tolerance) & inside).astype(np.uint8), connectivity=4)[1]
        return (parts == parts[row, column]) & (parts > 0)

    region = np.zeros(tile.size, dtype=bool)
    for row, column in seeds:
        region |= grown(row, column)
    for row, column in against:
        region &= ~grown(row, column)
    return region
