"""From pixels to a graph of small regions: the only steps of the `tree` backend that touch every pixel.

Everything is local. No statistic of the whole tile enters and no grid is laid from its corner: regions grow from the minima
of a gradient, so the same pixels give the same regions in every extent, away from the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import higra as hg
import numpy as np

from terralabel.core.tile import Tile
from terralabel.masks.agglomerate import follow, merge_edges, nearest, renumber, sum_groups

__all__ = ["Regions", "channels", "find_regions", "smooth"]

#: Chroma counts this much more than lightness: materials differ in colour, shadows in lightness.
CHROMA = 1.6
#: Scales, in pixels, of the gradients that raise the borders of regions.
SIGMAS = (1.0, 2.0)
#: Bands of imagery with more than four are projected on this many cosines.
COSINES = 4
#: Regions smaller than this many pixels are given to a neighbour.
SMALLEST = 20
#: Value of everything that lies outside the valid pixels: farther from any colour than colours are from one another.
FAR = 1e4


@dataclass(frozen=True)
class Regions:
    """A tile cut into `n` small connected regions, and the graph of their neighbours.

    labels   (H, W) int32 region of each pixel
    valid    (n,) bool: regions hold only valid or only invalid pixels
    area     (n,) float64 pixels
    sums     (n, k) float64 sums over the pixels of each region, in the order of `columns`
    box      (n, 4) float64 first column, first row, last column, last row
    source, target   (e,) int64 the two regions of each edge, source < target
    length   (e,) float64 pixel sides they share
    strength (e, len(SIGMAS)) float64 mean gradient along the shared sides, at each scale
    weak     (e,) float64 mean of exp(-gradient / 4) along the shared sides: 1 where there is no border to be seen
    """

    labels: np.ndarray
    valid: np.ndarray
    area: np.ndarray
    sums: np.ndarray
    box: np.ndarray
    source: np.ndarray
    target: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    weak: np.ndarray
    channels: int

    @property
    def n(self) -> int:
        """How many regions."""
        return len(self.area)

    @property
    def colour(self) -> np.ndarray:
        """Mean of each channel in each region, (n, C) float64; `FAR` where invalid."""
        return np.where(self.valid[:, None], self.sums[:, : self.channels] / self.area[:, None], FAR)

    def graph(self) -> hg.UndirectedGraph:
        """The neighbours as a higra graph."""
        graph = hg.UndirectedGraph(self.n)
        graph.add_edges(self.source, self.target)
        return graph


def channels(tile: Tile) -> np.ndarray:
    """(H, W, c) float32 in which Euclidean distance is meaningful, c <= 4.

    Three optical bands become CIELAB with chroma times `CHROMA`; four become CIELAB of the first three and the fourth;
    one or two stay as they are; more are projected on the first cosines over the bands, a fixed stand-in for principal components.
    """
    pixels = tile.pixels
    bands = pixels.shape[2]
    if bands in (3, 4) and tile.sensor != "sar":
        lab = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_RGB2Lab).astype(np.float32)
        lab[..., 1:] *= CHROMA
        return lab if bands == 3 else np.dstack([lab, pixels[..., 3].astype(np.float32) * 0.5])
    if bands <= COSINES:
        return pixels.astype(np.float32)
    angle = np.pi * (np.arange(bands) + 0.5)[:, None] * np.arange(COSINES) / bands
    basis = np.cos(angle) * np.where(np.arange(COSINES) == 0, 1.0, np.sqrt(2.0)) / bands
    return pixels.astype(np.float32) @ basis.astype(np.float32)


def smooth(values: np.ndarray, valid: np.ndarray, sensor: str) -> np.ndarray:
    """The channels with speckle removed (SAR only) and invalid pixels filled from their valid neighbours."""
    if sensor == "sar":
        values = np.dstack([cv2.blur(cv2.medianBlur(band, 5), (3, 3)) for band in cv2.split(values)])
    if valid.all():
        return values
    weight = valid.astype(np.float32)
    near = cv2.GaussianBlur(weight, (0, 0), 3.0)
    filled = _planes(cv2.GaussianBlur(values * weight[..., None], (0, 0), 3.0)) / np.maximum(near, 1e-6)[..., None]
    return np.where(valid[..., None], values, filled).astype(np.float32)


def find_regions(tile: Tile) -> Regions:
    """Cut the tile along the crests of its gradient and measure the pieces."""
    values = smooth(channels(tile), tile.valid, tile.sensor)
    gradients = [_gradient(values, sigma * (1.5 if tile.sensor == "sar" else 1.0)) for sigma in SIGMAS]
    labels, valid = _split_invalid(_watershed(gradients[0] + gradients[1]), tile.valid)
    source, target, edges = _edges(labels, len(valid), gradients)
    labels, valid, source, target, edges = _absorb(labels, valid, values, source, target, edges)
    area = np.bincount(labels.ravel(), minlength=len(valid)).astype(np.float64)
    sums, box = _measure(labels, len(valid), values, gradients)
    length = edges[:, 0]
    strength, weak = edges[:, 1:-1] / length[:, None], edges[:, -1] / length
    return Regions(labels, valid, area, sums, box, source, target, length, strength, weak, values.shape[2])


def _planes(values: np.ndarray) -> np.ndarray:
    """OpenCV drops the last axis of single-band pictures; put it back."""
    return values[..., None] if values.ndim == 2 else values


def _gradient(values: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) float32 length of the colour gradient, in grey values per pixel, after Gaussian smoothing."""
    soft = _planes(cv2.GaussianBlur(values, (0, 0), sigma))
    across = _planes(cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=0.125))
    down = _planes(cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=0.125))
    return np.sqrt(np.einsum("ijk,ijk->ij", across, across) + np.einsum("ijk,ijk->ij", down, down))


def _watershed(relief: np.ndarray) -> np.ndarray:
    """(H, W) int32 catchment basins of a relief, from 0: every pixel flows to the lowest of its four neighbours.

    On a plateau water runs up, then left, so that a flat tile is one basin.
    """
    height, width = relief.shape
    own = np.arange(height * width, dtype=np.int32).reshape(height, width)
    lowest, flow = relief.copy(), own.copy()
    for down, right in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        here = (slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0)))
        there = (slice(max(down, 0), height - max(-down, 0)), slice(max(right, 0), width - max(-right, 0)))
        better = relief[there] < lowest[here]
        if down + right < 0:
            better |= (relief[there] == lowest[here]) & (flow[here] == own[here])
        np.copyto(lowest[here], relief[there], where=better)
        np.copyto(flow[here], own[there], where=better)
    flat = follow(flow.ravel())
    basin = np.cumsum(flat == own.ravel(), dtype=np.int32) - 1
    return basin[flat].reshape(height, width)


def _split_invalid(labels: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Regions cut along the border of the valid pixels and numbered afresh, and which of them are valid."""
    if valid.all():
        return labels, np.ones(int(labels.max()) + 1, dtype=bool)
    doubled = labels.astype(np.int64) * 2 + ~valid
    names, fresh = np.unique(doubled.ravel(), return_inverse=True)
    return fresh.reshape(labels.shape).astype(np.int32), names % 2 == 0


def _edges(labels: np.ndarray, n: int, gradients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source and target of every pair of neighbours; and sums over the sides they share: one, each gradient, weakness."""
    a = np.concatenate([labels[:, :-1].ravel(), labels[:-1].ravel()])
    b = np.concatenate([labels[:, 1:].ravel(), labels[1:].ravel()])
    sides = np.flatnonzero(a != b)
    a, b = a[sides].astype(np.int64), b[sides].astype(np.int64)
    pairs, index = np.unique(np.minimum(a, b) * n + np.maximum(a, b), return_inverse=True)
    crests = []
    for gradient in gradients:
        across, down = np.maximum(gradient[:, :-1], gradient[:, 1:]), np.maximum(gradient[:-1], gradient[1:])
        crests.append(np.concatenate([across.ravel(), down.ravel()])[sides])
    measures = [np.ones(len(sides)), *crests, np.exp(-crests[0] / 4)]
    return pairs // n, pairs % n, np.stack([np.bincount(index, m, len(pairs)) for m in measures], 1)


def _absorb(
    labels: np.ndarray, valid: np.ndarray, values: np.ndarray, source: np.ndarray, target: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The same with regions under `SMALLEST` pixels given to the neighbour they differ from least, twice over."""
    name, flat = np.arange(len(valid)), labels.ravel()
    looks = [np.bincount(flat, minlength=len(valid))] + [np.bincount(flat, b.ravel(), len(valid)) for b in cv2.split(values)]
    stats = np.stack([*looks, np.where(valid, 0.0, 1.0)], 1)
    for _ in range(2):
        if not len(source):
            break
        one, other = stats[source], stats[target]
        gap = np.square(one[:, 1:-1] / one[:, :1] - other[:, 1:-1] / other[:, :1]).sum(1)
        foreign = (one[:, -1] > 0) != (other[:, -1] > 0)
        weight = np.where(foreign, np.inf, (gap + 1) * edges[:, 1:-1].sum(1) / edges[:, 0])
        best, choice = nearest(len(stats), source, target, weight)
        own = np.arange(len(stats))
        partner = np.where(source[choice] == own, target[choice], source[choice])
        joins = (stats[:, 0] < SMALLEST) & np.isfinite(best)
        joins &= ~((choice[partner] == choice) & joins[partner] & (own > partner))
        kept, fresh = renumber(follow(np.where(joins, partner, own)))
        stats, name = sum_groups(fresh, stats, len(kept)), fresh[name]
        source, target, edges = merge_edges(fresh[source], fresh[target], edges, len(kept))
    return name.astype(np.int32)[labels], stats[:, -1] == 0, source, target, edges


def _measure(labels: np.ndarray, n: int, values: np.ndarray, gradients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sums over each region (channels, their squares, texture, gradient, x, y, xx, yy, xy, pixels on the border) and its box."""
    flat = labels.ravel()
    height, width = labels.shape
    bands = cv2.split(values)
    soft = cv2.split(cv2.GaussianBlur(values, (0, 0), 2.0))
    texture = sum(np.abs(band - blur) for band, blur in zip(bands, soft, strict=True))
    columns = [np.bincount(flat, band.ravel(), n) for band in bands]
    columns += [np.bincount(flat, np.square(band).ravel(), n) for band in bands]
    columns += [np.bincount(flat, plane.ravel(), n) for plane in (texture, gradients[0])]
    y, x = np.divmod(np.arange(flat.size, dtype=np.int64), width)
    columns += [np.bincount(flat, v, n) for v in (x, y, x * x, y * y, x * y)]
    border = np.zeros(labels.shape)
    border[[0, -1]] = 1
    border[:, [0, -1]] = 1
    columns.append(np.bincount(flat, border.ravel(), n))
    return np.stack(columns, 1), _boxes(labels, n)


def _boxes(labels: np.ndarray, n: int) -> np.ndarray:
    """(n, 4) float64 first column, first row, last column, last row of each region."""
    height, width = labels.shape
    box = np.zeros((n, 4))
    rows = np.arange(height)
    # Last write wins: writing rows or columns in the wished order leaves the extreme one.
    by_row = labels.ravel()
    row_of = np.repeat(rows, width)
    box[by_row, 3] = row_of
    box[by_row[::-1], 1] = row_of[::-1]
    by_column = labels.T.ravel()
    column_of = np.repeat(np.arange(width), height)
    box[by_column, 2] = column_of
    box[by_column[::-1], 0] = column_of[::-1]
    return box
