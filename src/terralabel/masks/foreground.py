"""A point on the object in a box, found without training by clustering the box's colours (PSLG-SAM, arXiv 2506.10503).

two clusters of colours -> the one that the box's border shows least -> regions -> the most convex one -> its centroid
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from terralabel.masks.evidence import box_pixels

__all__ = ["Explained", "foreground_point"]

#: k-means learns from at most this many pixels, on a regular grid.
_MOST_SAMPLES = 20_000
#: Shares of the middle that differ by less are a tie, which the border decides.
_TIE = 0.05
#: A box with a shorter side has too few pixels for clusters.
_LEAST_SIDE = 8
#: A region is at least so many pixels, and at least this share of the box.
_LEAST_PIXELS, _LEAST_SHARE = 16, 0.05
#: A region's convexity (area / area of the hull) counts exp(-this * distance from the middle, in sides of the box).
_CENTRAL = 2.0


@dataclass(frozen=True)
class Explained:
    """How the point was found, for pictures.

    box         (x0, y0, x1, y1) whole pixels that were looked at
    foreground  (h, w) bool, in the frame of the box: the cluster of colours taken for the object
    regions     (h, w) int32: what it falls into, from 1; 0 is none
    chosen      the region that the point lies in; 0 where there was none to choose
    why         "region", "largest region", "no region" or "small box"
    """

    box: tuple[int, int, int, int]
    foreground: np.ndarray
    regions: np.ndarray
    chosen: int
    why: str


def foreground_point(
    pixels: np.ndarray, box: np.ndarray, valid: np.ndarray | None = None
) -> tuple[tuple[float, float], Explained]:
    """(x, y) of a point on the object in a box, and how it was found; the same for the same input.

    pixels (H, W, 3) uint8 RGB; box (4,) xyxy in pixels, cut to the picture; valid (H, W) bool, all by default: other pixels
    belong to no object. The centre of the box where a side is under 8 pixels, all has one colour, or no region is found.
    """
    left, top, right, bottom = box_pixels(box, pixels.shape)
    seen = (slice(top, bottom), slice(left, right))
    usable = np.ones((bottom - top, right - left), dtype=bool) if valid is None else valid[seen]
    foreground, regions, chosen, why = np.zeros_like(usable), np.zeros(usable.shape, dtype=np.int32), 0, "small box"
    if min(usable.shape) >= _LEAST_SIDE:
        foreground = _foreground(pixels[seen], usable)
        regions = _regions(foreground)
        chosen, why = _choose(regions)
    x, y = _centre_of(regions == chosen) if chosen else ((right - left) / 2, (bottom - top) / 2)
    return (left + x, top + y), Explained((left, top, right, bottom), foreground, regions, chosen, why)


def _foreground(crop: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """(h, w) bool: of two clusters of the colours of (h, w, 3) the one with more of the middle half, opened 3 x 3."""
    cluster = _second_cluster(cv2.medianBlur(cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2Lab), 3), usable)
    if cluster is None:
        return np.zeros_like(usable)
    high, wide = usable.shape
    middle, ring = np.zeros_like(usable), np.ones_like(usable)
    middle[high // 4 : high - high // 4, wide // 4 : wide - wide // 4] = True
    ring[1:-1, 1:-1] = False
    share = _mean(cluster, middle & usable)  # of the second cluster; the first has the rest
    if abs(2 * share - 1) < _TIE:
        share = 1 - _mean(cluster, ring & usable)
    taken = (cluster if share > 0.5 else ~cluster) & usable
    return cv2.morphologyEx(taken.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0


def _second_cluster(colours: np.ndarray, usable: np.ndarray) -> np.ndarray | None:
    """(h, w) bool: which pixels of (h, w, 3) float32 are nearer to the second of two centres; None for a single colour."""
    step = int(np.ceil(np.sqrt(usable.size / _MOST_SAMPLES)))
    samples = colours[::step, ::step][usable[::step, ::step]]
    if len(samples) < 2 or not (np.ptp(samples, axis=0) > 0).any():
        return None
    scale = np.maximum(samples.std(axis=0), 1e-3)
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-3)
    _, _, centres = cv2.kmeans(np.ascontiguousarray(samples / scale), 2, None, stop, 3, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return colours @ ((centres[1] - centres[0]) / scale) > (centres[1] @ centres[1] - centres[0] @ centres[0]) / 2


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    """Share of True among the pixels `where`; a half where there are none."""
    count = int(where.sum())
    return float((values & where).sum()) / count if count else 0.5


def _regions(foreground: np.ndarray) -> np.ndarray:
    """(h, w) int32: the connected parts, cut at their waists by a watershed of the distance to the outside."""
    count, parts = cv2.connectedComponents(foreground.astype(np.uint8))
    depth = cv2.distanceTransform(np.pad(foreground, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    deepest = np.zeros(count, dtype=np.float32)
    np.maximum.at(deepest, parts.ravel().astype(np.int64), depth.ravel())
    markers, marked = cv2.connectedComponents((foreground & (depth > 0.5 * deepest[parts])).astype(np.uint8))
    if markers == count:  # a marker each: nothing to cut
        return parts
    from skimage.segmentation import watershed

    return watershed(-depth, marked, mask=foreground)


def _choose(regions: np.ndarray) -> tuple[int, str]:
    """(region, why): the most convex and central of those that are large enough; of equals the larger one."""
    area = np.bincount(regions.ravel())
    area[0] = 0
    if not area.any():
        return 0, "no region"
    large = np.flatnonzero(area >= max(_LEAST_PIXELS, _LEAST_SHARE * regions.size))
    if not len(large):
        return int(np.argmax(area)), "largest region"
    high, wide = regions.shape
    ranked = []
    for region in large.tolist():
        mask = regions == region
        rows, columns = np.nonzero(mask)
        off = np.hypot((rows.mean() + 0.5) / high - 0.5, (columns.mean() + 0.5) / wide - 0.5)
        ranked.append((-_convexity(mask) * float(np.exp(-_CENTRAL * off)), -int(area[region]), region))
    return min(ranked)[2], "region"


def _convexity(mask: np.ndarray) -> float:
    """Area over the area of the convex hull, both of whole pixels: 1 for an upright rectangle."""
    columns = np.flatnonzero(mask.any(0))
    first = mask[:, columns].argmax(0)
    last = mask.shape[0] - mask[::-1, columns].argmax(0)
    corners = np.concatenate([np.stack([columns + dx, row], 1) for dx in (0, 1) for row in (first, last)])
    return float(mask.sum()) / cv2.contourArea(cv2.convexHull(corners.astype(np.int32)))


def _centre_of(mask: np.ndarray) -> tuple[float, float]:
    """(x, y) of the centroid, or of the pixel farthest from the outside where the centroid lies outside; in pixel edges."""
    rows, columns = np.nonzero(mask)
    x, y = float(columns.mean()) + 0.5, float(rows.mean()) + 0.5
    if mask[int(y), int(x)]:
        return x, y
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = divmod(int(depth.argmax()), mask.shape[1])
    return column + 0.5, row + 0.5
