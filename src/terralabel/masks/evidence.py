"""Evidence for a prompt: which nodes of the trees may be meant by a box, by points or by a rough mask, and how likely each is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from terralabel.masks.hierarchies import FEATURES
from terralabel.masks.proposals import Forest
from terralabel.masks.ranking import Ranking, load_ranking

__all__ = [
    "BOX_FEATURES",
    "POINT_FEATURES",
    "Candidates",
    "box_candidates",
    "box_geometry",
    "box_pixels",
    "hit_regions",
    "mask_candidates",
    "point_candidates",
    "point_geometry",
    "sum_over_nodes",
]

#: What the box ranking knows of a candidate besides its measurements as a node.
BOX_FEATURES = (*FEATURES, "coverage", "leak", "gap_least", "gap_second", "gap_third", "gap_most", "log_box", "aspect")
#: What the point ranking knows of a candidate besides: how far the points lie from the middle of its box, in box sizes.
POINT_FEATURES = (*FEATURES, "off_least", "off_most")
#: A region whose share of a box is smaller than this is no evidence for anything.
LEAST_COVERAGE = 0.1


@lru_cache(maxsize=1)
def shipped_box_ranking() -> Ranking:
    """The ranking of nodes for a box that comes with the package."""
    return load_ranking("tree_box_ranking.npz", len(BOX_FEATURES))


@lru_cache(maxsize=1)
def shipped_point_ranking() -> Ranking:
    """The ranking of nodes for points that comes with the package."""
    return load_ranking("tree_point_ranking.npz", len(POINT_FEATURES))


@dataclass(frozen=True)
class Candidates:
    """Nodes that may be what a prompt means: indices into `Nodes` and the IoU expected of each, best first."""

    which: np.ndarray
    score: np.ndarray

    @classmethod
    def ranked(cls, which: np.ndarray, score: np.ndarray, most: int = 64) -> Candidates:
        """The best `most`, best first."""
        order = np.argsort(-score, kind="stable")[:most]
        return cls(which[order], score[order])


def box_geometry(forest: Forest, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes worth looking at for a box (xyxy pixels) and their `BOX_FEATURES`, (k, len(BOX_FEATURES)) float32."""
    nodes, labels = forest.nodes, forest.regions.labels
    left, top, right, bottom = box_pixels(box, labels.shape)
    crop = labels[top:bottom, left:right]
    inside = sum_over_nodes(forest, np.bincount(crop.ravel(), minlength=forest.regions.n))
    area = max(crop.size, 1)
    which = np.flatnonzero((inside >= LEAST_COVERAGE * area) & nodes.valid)
    inside, extent = inside[which], nodes.box[which]
    wide, high = right - left, bottom - top
    gaps = np.stack(
        [
            (extent[:, 0] - left) / wide,
            (right - 1 - extent[:, 2]) / wide,
            (extent[:, 1] - top) / high,
            (bottom - 1 - extent[:, 3]) / high,
        ],
        1,
    )
    geometry = np.column_stack(
        [
            inside / area,
            1 - inside / nodes.area[which],
            np.sort(np.clip(gaps, -0.5, 1), 1),
            np.full(len(which), np.log(area)),
            np.full(len(which), abs(np.log(wide / high))),
        ]
    )
    return which, np.concatenate([nodes.features[which], geometry], 1).astype(np.float32)


def box_pixels(box: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """First column and row, and those past the last, of the pixels in a box: at least one, inside the tile."""
    left, top = int(np.clip(np.floor(box[0] + 0.5), 0, shape[1] - 1)), int(np.clip(np.floor(box[1] + 0.5), 0, shape[0] - 1))
    right, bottom = (
        int(np.clip(np.floor(box[2] + 0.5), left + 1, shape[1])),
        int(np.clip(np.floor(box[3] + 0.5), top + 1, shape[0])),
    )
    return left, top, right, bottom


def sum_over_nodes(forest: Forest, values: np.ndarray) -> np.ndarray:
    """Sum over the regions of every node of `values` (n,), (m,) float64."""
    sums = []
    for tree in forest.trees:
        running = np.concatenate([[0.0], np.cumsum(values[tree.order])])
        sums.append(running[tree.first + tree.count] - running[tree.first])
    return np.concatenate(sums)


def box_candidates(forest: Forest, box: np.ndarray) -> Candidates:
    """Nodes for one box (xyxy)."""
    which, features = box_geometry(forest, box)
    return Candidates.ranked(which, shipped_box_ranking().score(features))


def hit_regions(forest: Forest, points: np.ndarray) -> np.ndarray:
    """(p,) region under each of the points (p, 2) xy; points off the tile are moved to its border."""
    labels = forest.regions.labels
    column = np.clip(np.floor(points[:, 0]).astype(int), 0, labels.shape[1] - 1)
    return labels[np.clip(np.floor(points[:, 1]).astype(int), 0, labels.shape[0] - 1), column]


def point_geometry(forest: Forest, points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes that hold the first object point (label 1) and no background point (label 0); points (p, 2) xy, labels (p,).

    Returns their indices, the share of the object points they hold, and their `POINT_FEATURES`, (k, len(POINT_FEATURES)) float32.
    """
    regions, nodes = forest.regions, forest.nodes
    hit = hit_regions(forest, points)
    wanted = np.bincount(hit[labels == 1], minlength=regions.n)
    unwanted = np.bincount(hit[labels == 0], minlength=regions.n)
    unwanted[wanted > 0] = 0  # a region that holds both kinds of point is asked for
    share = sum_over_nodes(forest, wanted) / max(wanted.sum(), 1)
    anchor = np.bincount(hit[labels == 1][:1], minlength=regions.n)
    which = np.flatnonzero((sum_over_nodes(forest, unwanted) == 0) & (sum_over_nodes(forest, anchor) > 0) & nodes.valid)
    if not len(which):
        return which, share[which], np.zeros((0, len(POINT_FEATURES)), dtype=np.float32)
    centre = points[labels == 1].mean(0)
    low, high = nodes.box[which][:, :2], nodes.box[which][:, 2:] + 1
    off = np.abs(centre - (low + high) / 2) / (high - low)
    geometry = np.column_stack([off.min(1), off.max(1)])
    return which, share[which], np.concatenate([nodes.features[which], geometry], 1).astype(np.float32)


def point_candidates(forest: Forest, points: np.ndarray, labels: np.ndarray) -> Candidates:
    """Nodes for the points of one prompt; those that hold only some of the object points count by their share."""
    which, share, features = point_geometry(forest, points, labels)
    return Candidates.ranked(which, shipped_point_ranking().score(features) * share)


def mask_candidates(forest: Forest, mask: np.ndarray) -> Candidates:
    """Nodes like a rough mask (H, W) bool, by IoU with it."""
    inside = sum_over_nodes(forest, np.bincount(forest.regions.labels[mask], minlength=forest.regions.n))
    overlap = inside / np.maximum(forest.nodes.area + mask.sum() - inside, 1)
    which = np.flatnonzero((overlap > 0.2) & forest.nodes.valid)
    return Candidates.ranked(which, 0.8 * overlap[which] + 0.2 * forest.score[which])
