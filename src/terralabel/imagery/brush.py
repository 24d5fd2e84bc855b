"""Brushes of the scene painter: noise, crowns, crop rows, parcels and shadows, as plain arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Cut", "Parcel", "crop_rows", "crowns", "fractal", "parcels", "shadows", "warp"]


@dataclass(frozen=True)
class Parcel:
    """A field: `outline` (n, 2) float64 xy pixels, `angle` of its long side in radians."""

    outline: np.ndarray
    angle: float


@dataclass(frozen=True)
class Cut:
    """A line along which land was divided: `line` (n, 2) float64 xy pixels; `depth` 0 is the first division."""

    line: np.ndarray
    depth: int


def fractal(
    rng: np.random.Generator, size: tuple[int, int], scale: float, octaves: int = 3, stretch: float = 1.0
) -> np.ndarray:
    """Smooth noise (H, W) float32 of mean 0 and deviation 1 whose coarsest features are `scale` pixels wide.

    Each octave halves the scale and the strength; `stretch` > 1 draws the features out along x.
    """
    height, width = size
    out = np.zeros(size, dtype=np.float32)
    for octave in range(octaves):
        step = max(scale / 2**octave, 1.0)
        coarse = rng.standard_normal((int(height / step) + 4, int(width / (step * stretch)) + 4), dtype=np.float32)
        full = (round(coarse.shape[1] * step * stretch), round(coarse.shape[0] * step))
        out += cv2.resize(coarse, full, interpolation=cv2.INTER_CUBIC)[:height, :width] / 2**octave
    return (out - out.mean()) / max(float(out.std()), 1e-6)


def crowns(rng: np.random.Generator, size: tuple[int, int], spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A closed canopy of crowns about `spacing` pixels apart: (dome, slant, tint), each (H, W) float32.

    `dome` falls from 1 at a crown's top to 0 at its rim, `slant` is positive on the side towards the upper left
    (where the sun stands), `tint` is one normal random number per crown.
    """
    height, width = size
    rows, columns = int(height / spacing) + 2, int(width / spacing) + 2
    y = ((np.arange(rows)[:, None] + rng.uniform(0.1, 0.9, (rows, columns))) * spacing).astype(int).clip(0, height - 1)
    x = ((np.arange(columns)[None, :] + rng.uniform(0.1, 0.9, (rows, columns))) * spacing).astype(int).clip(0, width - 1)
    seeds = np.ones(size, dtype=np.uint8)
    seeds[y, x] = 0
    distance, owner = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    top = np.zeros((owner.max() + 1, 2), dtype=np.float32)
    top[owner[y, x]] = np.stack([x, y], -1)
    radius = spacing * 0.75
    across = np.arange(width, dtype=np.float32)[None, :] - top[owner, 0]
    down = np.arange(height, dtype=np.float32)[:, None] - top[owner, 1]
    dome = np.clip(1 - (distance / radius) ** 2, 0, 1)
    tint = rng.standard_normal(len(top), dtype=np.float32)[owner]
    return dome, -(across + down) / (1.6 * radius), tint


def crop_rows(angle: np.ndarray, period: np.ndarray, wobble: np.ndarray) -> np.ndarray:
    """Waves in [-1, 1] (H, W) float32, for per-pixel row direction (radians), distance of rows (px) and phase noise."""
    height, width = angle.shape
    x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    across = -np.sin(angle) * x + np.cos(angle) * y
    return np.sin((2 * np.pi) * across / period + wobble).astype(np.float32)


def warp(points: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """Points (n, 2) moved a little by long waves, so that straight plans become land; `phases` (4,) in radians."""
    x, y = points[:, 0], points[:, 1]
    return np.stack(
        [
            x + 9 * np.sin(y / 71 + phases[0]) + 4 * np.sin((x + y) / 37 + phases[1]),
            y + 9 * np.sin(x / 83 + phases[2]) + 4 * np.sin((x - y) / 41 + phases[3]),
        ],
        1,
    )


def _dense(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Points every 12 pixels from `start` to just before `stop`."""
    count = max(int(np.hypot(*(stop - start)) / 12), 1)
    return start + (stop - start) * np.arange(count)[:, None] / count


def parcels(rng: np.random.Generator, size: tuple[int, int], side: float) -> tuple[list[Parcel], list[Cut]]:
    """Land divided again and again into parcels about `side` pixels long, and the lines along which it was.

    The parcels cover the picture; cuts run between neighbours, so roads may follow them.
    """
    height, width = size
    tilt = rng.uniform(-0.5, 0.5)
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    phases = rng.uniform(0, 2 * np.pi, 4)
    reach = 0.5 * math.hypot(height, width) + 30
    centre = np.array([width / 2, height / 2])

    def to_picture(points: np.ndarray) -> np.ndarray:
        return warp(points @ turn.T + centre, phases)

    fields: list[Parcel] = []
    cuts: list[Cut] = []
    pending = [(-reach, -reach, reach, reach, 0)]
    while pending:
        x0, y0, x1, y1, depth = pending.pop()
        wide, long, short = x1 - x0 >= y1 - y0, max(x1 - x0, y1 - y0), min(x1 - x0, y1 - y0)
        if long < side * rng.uniform(1.0, 1.9) and short < side * 1.2:
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            edges = [_dense(a, b) for a, b in zip(corners, np.roll(corners, -1, 0), strict=True)]
            fields.append(Parcel(to_picture(np.concatenate(edges)), tilt + (0.0 if wide else math.pi / 2)))
            continue
        share = rng.uniform(0.36, 0.64)
        if wide:
            at = x0 + share * (x1 - x0)
            ends, halves = np.array([[at, y0], [at, y1]]), [(x0, y0, at, y1, depth + 1), (at, y0, x1, y1, depth + 1)]
        else:
            at = y0 + share * (y1 - y0)
            ends, halves = np.array([[x0, at], [x1, at]]), [(x0, y0, x1, at, depth + 1), (x0, at, x1, y1, depth + 1)]
        cuts.append(Cut(to_picture(np.concatenate([_dense(*ends), ends[1:]])), depth))
        pending += halves
    return fields, cuts


def shadows(height: np.ndarray, reach: int = 14, slope: float = 1.1) -> np.ndarray:
    """Where `height` (H, W) float32, in pixels, keeps the sun away: (H, W) float32 in [0, 1], soft-edged.

    The sun stands to the upper left; per pixel of distance a shadow loses `slope` of height.
    """
    dark = np.zeros(height.shape, dtype=bool)
    for step in range(1, reach + 1):
        dark[step:, step:] |= height[:-step, :-step] - step * slope > height[step:, step:] + 0.5
    return cv2.GaussianBlur(dark.astype(np.float32), (3, 3), 0.8)
