"""Generated radar pictures of large smooth waters: what `masks nano` learns shores under speckle from.

Land of hills, parcels and bright points, cut by lakes, bays and rivers whose shores are rounded or ragged, is seen as amplitude: whole
counts as a sensor's file holds them, so that dark water has few levels, then stretched to 8 bits as decibels or as it is.
Same generator state, same picture.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["paint_waters"]

#: Waters smaller than this many pixels are no instances.
_SMALLEST = 64


def paint_waters(rng: np.random.Generator, side: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """(pixels (side, side, 3) uint8, three times the same band; instances (side, side) int32: waters in one piece, 0 land)."""
    water = _bodies(rng, side)
    level = np.where(water, _sea(rng, side), _land(rng, side))
    looks = float(rng.choice([1, 2, 4, 8]))
    power: np.ndarray = 10 ** (level / 10) * rng.gamma(looks, 1 / looks, level.shape)
    if rng.random() < 0.5:
        power = cv2.GaussianBlur(power, (0, 0), rng.uniform(0.4, 1.0))
    counts = np.rint(np.exp(rng.uniform(np.log(60), np.log(6000))) * np.sqrt(power)).clip(0, 65535)
    grey = _stretched(rng, counts)
    return np.repeat(grey[..., None], 3, 2), _instances(water)


def _relief(rng: np.random.Generator, side: int, first: int, roughness: float, octaves: int = 6) -> np.ndarray:
    """(side, side) float32 of mean 0 and deviation 1, rougher the nearer `roughness` is to 1; `first` cells across at first."""
    total, weight = np.zeros((side, side), np.float32), 1.0
    for cells in first * 2 ** np.arange(octaves):
        if cells > side:
            break
        grid = rng.standard_normal((int(cells) + 2, int(cells) + 2), dtype=np.float32)
        total += np.float32(weight) * cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
        weight *= roughness
    return (total - total.mean()) / (total.std() + 1e-6)


def _bodies(rng: np.random.Generator, side: int) -> np.ndarray:
    """Where water is (side, side) bool: what lies low, or on one side of a coast; sometimes a river."""
    relief = _relief(rng, side, int(rng.integers(1, 4)), rng.uniform(0.2, 0.6))
    if rng.random() < 0.4:  # a coast
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-1.7, 1.7, side, dtype=np.float32)
        relief = relief + np.float32(rng.uniform(1, 4)) * (np.cos(angle) * axis + np.sin(angle) * axis[:, None])
    water = relief < np.quantile(relief, rng.uniform(0.05, 0.7))
    if rng.random() < 0.25:
        bend = _relief(rng, side, 2, 0.4)
        slope = _relief(rng, side, 1, 0.3)
        water |= np.abs(bend + slope) < rng.uniform(0.03, 0.15)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    return cv2.morphologyEx(water.astype(np.uint8), cv2.MORPH_OPEN, kernel) > 0


def _sea(rng: np.random.Generator, side: int) -> np.ndarray:
    """Backscatter of water in dB: low and even, with slow changes by wind, and perhaps a bright ship or two."""
    sea = rng.uniform(-24, -15) + rng.uniform(0, 1.5) * _relief(rng, side, 1, 0.3, 2)
    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.4 else 0):
        y, x = rng.integers(0, side, 2)
        sea[y : y + int(rng.integers(1, 5)), x : x + int(rng.integers(1, 5))] = rng.uniform(-3, 6)
    return sea


def _land(rng: np.random.Generator, side: int) -> np.ndarray:
    """Backscatter of land in dB: patches, slopes bright on one side and dark on the other, bright points where people build."""
    base = rng.uniform(-13, -6) + rng.uniform(0.3, 2.5) * _relief(rng, side, int(rng.integers(3, 12)), 0.6)
    hills = _relief(rng, side, int(rng.integers(2, 6)), 0.55)
    base = base + rng.uniform(0, 30) * np.gradient(hills, axis=int(rng.integers(2)))
    points = _relief(rng, side, 4, 0.5) > rng.uniform(0.7, 3)
    bright = points & (rng.random((side, side)) < rng.uniform(0.02, 0.2))
    return np.where(bright, rng.uniform(0, 9), base).clip(-22, 10)


def _stretched(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """Counts as (h, w) uint8: as decibels mostly, else as they are, between percentiles."""
    values = 20 * np.log10(np.maximum(counts, 1)) if rng.random() < 0.75 else counts
    low, high = np.percentile(values, (rng.uniform(0.2, 2), rng.uniform(97, 99.8)))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-3) * 255, 0, 255), dtype=np.uint8)


def _instances(water: np.ndarray) -> np.ndarray:
    count, parts, boxes, _ = cv2.connectedComponentsWithStats(water.astype(np.uint8), connectivity=4)
    large = np.flatnonzero(boxes[:, cv2.CC_STAT_AREA] >= _SMALLEST)
    number = np.zeros(count, np.int32)
    number[large[large > 0]] = np.arange(1, (large > 0).sum() + 1)
    return np.asarray(number[parts], dtype=np.int32)
